package drill

import (
	"path"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/vm"
)

// costly is what costs an emulated machine the most and tells nothing of its
// recovery point. A machine with hardware virtualisation does all of it.
func costly() []HeldBack {
	return []HeldBack{
		{Arg: "norandmaps", What: "random addresses in programs: emulated, each start of a program would be translated anew"},
		{Arg: "cryptomgr.notests", What: "the kernel's tests of its own ciphers"},
		{Arg: "no_timer_check", What: "the kernel's test of its timer: a busy host delivers an emulated one too late, and the kernel panics"},
		{Arg: "loglevel=6", What: "kernel messages below notice on the console; the kernel's own log has them"},
	}
}

// service is a line of the table of what acts on the world by itself.
type service struct {
	unit     string
	what     string
	programs []string // that listen for it
}

// outgoing is the table: schedulers, mail queues, and what reports or sends to others.
// The bubble would stop all of it too; that it is not even tried keeps queues and
// records as they were.
func outgoing() []service {
	return []service{
		{"cron.service", "scheduled jobs", nil},
		{"crond.service", "scheduled jobs", nil},
		{"anacron.service", "scheduled jobs", nil},
		{"atd.service", "scheduled jobs", nil},
		{"fcron.service", "scheduled jobs", nil},
		{"timers.target", "scheduled jobs: all timers of systemd", nil},
		{"postfix.service", "the mail queue", []string{"master"}},
		{"postfix@-.service", "the mail queue", []string{"master"}},
		{"exim4.service", "the mail queue", []string{"exim4"}},
		{"exim.service", "the mail queue", []string{"exim"}},
		{"sendmail.service", "the mail queue", []string{"sendmail-mta", "sendmail"}},
		{"opensmtpd.service", "the mail queue", []string{"smtpd"}},
		{"nullmailer.service", "the mail queue", nil},
		{"puppet.service", "configuration from outside", nil},
		{"salt-minion.service", "configuration from outside", nil},
		{"chef-client.service", "configuration from outside", nil},
		{"zabbix-agent.service", "monitoring that reports to others", []string{"zabbix_agentd"}},
		{"telegraf.service", "monitoring that reports to others", nil},
		{"datadog-agent.service", "monitoring that reports to others", []string{"agent"}},
		{"filebeat.service", "logs sent to others", nil},
		{"fluent-bit.service", "logs sent to others", nil},
		{"keepalived.service", "taking over addresses of others", nil},
		{"corosync.service", "membership of a cluster", []string{"corosync"}},
		{"pacemaker.service", "membership of a cluster", []string{"pacemakerd"}},
		{"celery.service", "workers of a queue", nil},
		{"sidekiq.service", "workers of a queue", nil},
	}
}

const maskArg = "systemd.mask="

var unitDirs = [...]string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// mostArgs bounds what holding back adds to a kernel's command line, which ends after
// 2048 bytes on x86.
const mostArgs = 1200

// hold returns what is held back by unit: of the table what exists there and has no
// program that is wanted, and all that the user names.
func hold(named, wanted []string, exists func(string) bool) (held []HeldBack, dropped []string) {
	room := mostArgs
	add := func(h HeldBack) {
		if room -= len(h.Arg) + 1; room < 0 {
			dropped = append(dropped, h.Arg)
			return
		}
		held = append(held, h)
	}
	for _, unit := range named {
		if !strings.Contains(unit, ".") {
			unit += ".service"
		}
		add(HeldBack{Arg: maskArg + unit, What: "held back by the configuration",
			programs: []string{strings.TrimSuffix(unit, ".service")}})
	}
	for _, s := range outgoing() {
		there := slices.ContainsFunc(unitDirs[:], func(dir string) bool { return exists(path.Join(dir, template(s.unit))) })
		init := strings.TrimSuffix(s.unit, ".service")
		asked := slices.ContainsFunc(s.programs, func(p string) bool { return slices.Contains(wanted, p) })
		if !asked && !slices.Contains(named, s.unit) && (there || exists("/etc/init.d/"+init)) {
			add(HeldBack{Arg: maskArg + s.unit, What: s.what, programs: s.programs})
		}
	}
	return held, dropped
}

// maxComm is how much of its name the kernel keeps of a process.
const maxComm = 15

// programsOf reads in the file of a unit what it starts, by the names of processes.
func programsOf(unit string, read func(string) ([]byte, error)) (programs []string) {
	for _, dir := range unitDirs {
		b, err := read(path.Join(dir, template(unit)))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, "=")
			command := strings.Fields(value)
			if strings.TrimSpace(key) != "ExecStart" || len(command) == 0 {
				continue
			}
			name := path.Base(strings.TrimLeft(command[0], "-@:+!|"))
			programs = append(programs, name[:min(len(name), maxComm)])
		}
		return programs
	}
	return nil
}

// template is the file of an instance's unit.
func template(unit string) string {
	if name, rest, ok := strings.Cut(unit, "@"); ok {
		return name + "@" + path.Ext(rest)
	}
	return unit
}

// holdBack returns the kernel arguments that keep this machine's boot short and from
// acting on the world, and puts on record what they do.
func (t *turn) holdBack(exists func(string) bool, read func(string) ([]byte, error)) []string {
	held, dropped := hold(t.s.Hold, t.probed(), exists)
	for i, h := range held {
		held[i].programs = append(slices.Clone(h.programs), programsOf(strings.TrimPrefix(h.Arg, maskArg), read)...)
	}
	for _, arg := range dropped {
		t.r.Notes = append(t.r.Notes, "the kernel's command line has no room for "+arg+": the bubble alone holds it back")
	}
	if vm.Emulated(t.d.o.Accelerator) {
		held = append(held, costly()...)
	}
	t.r.HeldBack = held
	var args []string
	for _, h := range held {
		args = append(args, h.Arg)
	}
	return args
}

// probed are the programs that open, at the source, the ports which the user's probes
// ask: what is to answer has to run.
func (t *turn) probed() (programs []string) {
	for _, p := range t.s.Probes {
		for _, s := range t.s.Facts.GetListening() {
			if p.port() != 0 && int(s.GetPort()) == p.port() && s.GetProcess() != "" {
				programs = append(programs, s.GetProcess())
			}
		}
	}
	return programs
}
