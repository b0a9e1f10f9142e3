package lab

// Description is what a server of the lab does, for those who find it out by looking.
type Description struct {
	Units     []string       // services of its own and of its packages that are enabled
	Ports     map[string]int // what its processes listen at for others, by the name of the process
	Engine    string         // of its database server
	Databases []string       // in it
	Users     []string       // who can log in
	Calls     map[string]int // servers it calls, with the port
}

// Describe tells what the servers do, by name.
func Describe() map[string]Description {
	return map[string]Description{
		"web1": {Units: []string{"churn", "nginx", "ssh"}, Ports: map[string]int{"sshd": 22, "nginx": 80}, Users: []string{"root"}},
		"app1": {Units: []string{"churn", "orders", "shopper", "ssh"}, Ports: map[string]int{"sshd": 22, "python3": 8080}, Users: []string{"root"},
			Calls: map[string]int{"db1": 5432}},
		"db1": {Units: []string{"churn", "postgresql", "ssh", "ticker"}, Ports: map[string]int{"sshd": 22, "postgres": 5432}, Users: []string{"root", "postgres"},
			Engine: "postgres", Databases: []string{"postgres", "shop"}},
		"db2": {Units: []string{"churn", "mariadb", "meter", "ssh"}, Ports: map[string]int{"sshd": 22, "mariadbd": 3306}, Users: []string{"root", "ops"},
			Engine: "mariadb", Databases: []string{"plant"}},
		"mail1":  {Units: []string{"churn", "deliver", "postfix", "ssh"}, Ports: map[string]int{"sshd": 22, "master": 25}, Users: []string{"root"}},
		"files1": {Units: []string{"churn", "ssh"}, Ports: map[string]int{"sshd": 22}, Users: []string{"root", "crew1", "crew2", "crew3"}},
		"dns1":   {Units: []string{"churn", "dnsmasq", "ssh"}, Ports: map[string]int{"sshd": 22, "dnsmasq": 53}, Users: []string{"root"}},
		"mon1": {Units: []string{"churn", "poll", "ssh"}, Ports: map[string]int{"sshd": 22}, Users: []string{"root", "ops"},
			Calls: map[string]int{"web1": 80, "app1": 8080, "mail1": 25, "dns1": 53}},
	}
}
