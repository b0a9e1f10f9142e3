package drill

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

func sourceFacts() *agentpb.Facts {
	return &agentpb.Facts{
		Systemd: true, SystemState: "degraded", FailedUnits: []string{"broken.service"},
		Listening: []*agentpb.Socket{
			{Protocol: "tcp", Address: "0.0.0.0", Port: 80, Process: "nginx"},
			{Protocol: "tcp6", Address: "::", Port: 80, Process: "nginx"},
			{Protocol: "tcp", Address: "127.0.0.1", Port: 5432, Process: "postgres"},
			{Protocol: "tcp", Address: "127.0.0.1", Port: 6010, Process: "sshd"},
			{Protocol: "tcp", Address: "0.0.0.0", Port: 40123, Process: "rpc.statd"},
			{Protocol: "udp", Address: "0.0.0.0", Port: 68, Process: "dhclient"},
		},
		Interfaces: []*agentpb.Interface{{Name: "lo", Virtual: true}, {Name: "eno1", Mac: "52:54:00:00:00:0A"}},
		Filesystems: []*agentpb.Filesystem{{MountPoint: "/", Uuid: "1111"},
			{MountPoint: "/var", Uuid: "2222"}},
		HostKeys: []*agentpb.HostKey{{Type: "ssh-ed25519", Fingerprint: "SHA256:a"}},
	}
}

func TestCompare(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*agentpb.Facts)
		wrong  string // part of what is said; "" if all holds
	}{
		"same":                   {func(*agentpb.Facts) {}, ""},
		"running":                {func(f *agentpb.Facts) { f.SystemState, f.FailedUnits = "running", nil }, ""},
		"starting":               {func(f *agentpb.Facts) { f.SystemState = "starting" }, "the system is starting"},
		"expected failure":       {func(f *agentpb.Facts) { f.FailedUnits = []string{"systemd-timesyncd.service"} }, ""},
		"new failure":            {func(f *agentpb.Facts) { f.FailedUnits = append(f.FailedUnits, "nginx.service") }, "nginx.service failed"},
		"port closed":            {func(f *agentpb.Facts) { f.Listening = f.Listening[:2] }, "tcp port 5432 of postgres is closed"},
		"other family":           {func(f *agentpb.Facts) { f.Listening[0].Protocol = "tcp6" }, "tcp port 80 of nginx is closed"},
		"no forwarded port":      {func(f *agentpb.Facts) { f.Listening[3].Port = 1 }, ""},
		"another ephemeral port": {func(f *agentpb.Facts) { f.Listening[4].Port = 50000 }, ""},
		"no ephemeral port":      {func(f *agentpb.Facts) { f.Listening[4].Process = "x"; f.Listening[4].Port = 1 }, "port 40123"},
		"card renamed":           {func(f *agentpb.Facts) { f.Interfaces[1].Name = "ens3" }, "eno1 (52:54:00:00:00:0A) is missing"},
		"card of other address":  {func(f *agentpb.Facts) { f.Interfaces[1].Mac = "52:54:00:00:00:0b" }, "has address 52:54:00:00:00:0b"},
		"address in lower case":  {func(f *agentpb.Facts) { f.Interfaces[1].Mac = "52:54:00:00:00:0a" }, ""},
		"not mounted":            {func(f *agentpb.Facts) { f.Filesystems = f.Filesystems[:1] }, "/var is not mounted"},
		"other filesystem":       {func(f *agentpb.Facts) { f.Filesystems[1].Uuid = "9999" }, "/var holds filesystem 9999"},
		"new host key":           {func(f *agentpb.Facts) { f.HostKeys[0].Fingerprint = "SHA256:b" }, "ssh-ed25519 host key is another"},
	} {
		guest := proto.Clone(sourceFacts()).(*agentpb.Facts)
		test.change(guest)
		checks := Compare(sourceFacts(), guest, nil)
		if holds(checks) != (test.wrong == "") || !strings.Contains(wrongs(checks), test.wrong) {
			t.Errorf("%s: got %q, want %q", name, wrongs(checks), test.wrong)
		}
	}
	if holds(nil) {
		t.Error("nothing checked holds")
	}
	if c := Compare(&agentpb.Facts{}, &agentpb.Facts{}, nil); c[0].Outcome != dr.Done {
		t.Errorf("without systemd: %+v", c[0])
	}
}
