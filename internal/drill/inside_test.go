package drill

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

func TestProbesAskThisMachine(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/health":
			fmt.Fprint(w, "all ok here")
		case "/moved":
			http.Redirect(w, r, "/health", http.StatusMovedPermanently)
		default:
			http.Error(w, "the database is gone", http.StatusServiceUnavailable)
		}
	})
	web, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer web.Close()
	defer secure.Close()
	port := web.Listener.Addr().(*net.TCPAddr).Port
	securePort := secure.Listener.Addr().(*net.TCPAddr).Port
	url := func(path string) string { return fmt.Sprintf("http://:%d%s", port, path) }
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := dead.Addr().(*net.TCPAddr).Port
	dead.Close()
	for _, test := range []struct {
		p    Probe
		want dr.Outcome
		says string
	}{
		{Probe{TCP: port}, dr.Done, "takes connections"},
		{Probe{TCP: closed}, dr.NotDone, "refused"},
		{Probe{HTTP: url("/health"), Status: 200, Text: "ok"}, dr.Done, `status 200 with "ok"`},
		{Probe{HTTP: fmt.Sprintf("https://:%d/health", securePort)}, dr.Done, "status 200"},
		{Probe{HTTP: url("/health"), Text: "fine"}, dr.NotDone, `lacks "fine": "all ok here"`},
		{Probe{HTTP: url("/health"), Status: 204}, dr.NotDone, "status 200, want 204"},
		{Probe{HTTP: url("/moved"), Status: 301}, dr.Done, "status 301"},
		{Probe{HTTP: url("/else")}, dr.NotDone, "status 503"},
		{Probe{HTTP: fmt.Sprintf("http://:%d/", closed)}, dr.NotDone, "refused"},
		{Probe{Command: "echo 12 rows; exit 0", Expect: "12"}, dr.Done, `prints "12 rows"`},
		{Probe{Command: "echo 11 rows", Expect: "12"}, dr.NotDone, `prints "11 rows", want "12"`},
		{Probe{Command: "echo no such table >&2; exit 3"}, dr.NotDone, "exit status 3: \"no such table\""},
		{Probe{Command: "yes | head -c 3000000; exit 1"}, dr.NotDone, "exit status 1"},
	} {
		c := askInside(t.Context(), []Probe{test.p})[0]
		if c.Outcome != test.want || !strings.Contains(c.Detail, test.says) || !strings.Contains(c.Name, test.p.String()) || len(c.Detail) > 500 {
			t.Errorf("%s: %+v, want %s, %q", test.p, c, test.want, test.says)
		}
	}
}

func TestAnswersTravelBesideFacts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ask.json")
	writeFile(t, file, `{"share":16,"probes":[{"command":"echo yes","expect":"yes"},{"tcp":`+strconv.Itoa(1)+`}]}`)
	q, err := declared(file)
	probes := q.Probes
	if err != nil || len(probes) != 2 || probes[1].TCP != 1 || q.Share != 16 {
		t.Fatalf("%v, %v", q, err)
	}
	if none, err := declared(file + "x"); none.Probes != nil || none.Share != 0 || err != nil {
		t.Errorf("no file: %v, %v", none, err)
	}
	var port bytes.Buffer
	answer(t.Context(), &port, probes[:1])
	if err := writeReport(&port, sourceFacts()); err != nil {
		t.Fatal(err)
	}
	out := make(chan report, 1)
	readReports(&port, out)
	r := <-out
	if r.facts == nil || len(r.answers) != 1 || r.answers[0].Outcome != dr.Done {
		t.Fatalf("told %+v", r)
	}
	tu := &turn{r: &Result{}, s: Subject{Facts: &agentpb.Facts{}, Probes: probes}, answers: r.answers}
	if tu.ask(t.Context()) || tu.r.Probes[0].Outcome != dr.Done || tu.r.Probes[1].Outcome != dr.NotDone || !strings.Contains(tu.r.Probes[1].Detail, "no answer from inside") {
		t.Errorf("answers %+v", tu.r.Probes)
	}
	early := &turn{r: &Result{}, s: tu.s}
	if early.noteUnasked(); len(early.r.Probes) != 2 || early.r.Probes[0].Outcome != dr.Unknown {
		t.Errorf("never asked: %+v", early.r.Probes)
	}
	if tu.noteUnasked(); tu.r.Probes[0].Outcome != dr.Done {
		t.Errorf("asked, and forgotten: %+v", tu.r.Probes)
	}
	tu.answers = []Check{{"command of another kind", dr.Done, ""}}
	if tu.ask(t.Context()) || tu.r.Probes[0].Outcome == dr.Done {
		t.Error("an answer to another question counts")
	}
}

func TestWhatIsPrivateIsAskedInside(t *testing.T) {
	tu := &turn{network: &network{}, s: Subject{Facts: &agentpb.Facts{
		Interfaces: []*agentpb.Interface{{Name: "lan0", Mac: "52:54:00:11:22:44", Addresses: []string{"10.10.0.12/24"}, Up: true}},
		Listening: []*agentpb.Socket{{Protocol: "tcp", Address: "127.0.0.1", Port: 5432}, {Protocol: "tcp6", Address: "::1", Port: 5432},
			{Protocol: "tcp", Address: "127.0.0.1", Port: 443}, {Protocol: "tcp", Address: "10.10.0.12", Port: 443}}}}}
	for p, want := range map[Probe]bool{{TCP: 5432}: true, {TCP: 443}: false, {HTTP: "https://:/x"}: false, {HTTP: "http://:5432/"}: true,
		{TCP: 99}: false, {Command: "true"}: true} {
		if got := tu.inside(p); got != want {
			t.Errorf("%s: inside %t, want %t", p, got, want)
		}
	}
	tu.network = nil
	if !tu.inside(Probe{TCP: 443}) {
		t.Error("without a bubble there is nowhere else to ask")
	}
}

func FuzzParseAnswer(f *testing.F) {
	var b bytes.Buffer
	if err := writeLine(&b, answerMark, []byte(`[{"name":"probe tcp :1","outcome":"done"}]`)); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimSpace(b.Bytes()))
	f.Fuzz(func(t *testing.T, line []byte) {
		(&turn{answers: parseAnswer(line)}).answerTo(Probe{TCP: 1})
	})
}

func TestWhatAProbeAsksIsNotHeldBack(t *testing.T) {
	tu := &turn{d: &drills{o: Options{Accelerator: vm.KVM}}, r: &Result{}, s: Subject{Probes: []Probe{{TCP: 25}}, Facts: &agentpb.Facts{
		Listening: []*agentpb.Socket{{Protocol: "tcp", Port: 25, Process: "master"}}}}}
	everything := func(string) bool { return true }
	if args := strings.Join(tu.holdBack(everything, noFiles), " "); strings.Contains(args, "postfix") || !strings.Contains(args, "systemd.mask=exim4.service") {
		t.Errorf("with a probe: %s", args)
	}
	tu.s.Probes = []Probe{{Command: "postqueue -p"}}
	if args := strings.Join(tu.holdBack(everything, noFiles), " "); !strings.Contains(args, "systemd.mask=postfix.service") {
		t.Errorf("without: %s", args)
	}
}

func noFiles(string) ([]byte, error) { return nil, os.ErrNotExist }

func TestPortsOfWhatTheUserHoldsBackMayBeClosed(t *testing.T) {
	source := &agentpb.Facts{Systemd: true, Listening: []*agentpb.Socket{{Protocol: "tcp", Port: 22, Process: "sshd"}, {Protocol: "tcp", Port: 80, Process: "nginx"}}}
	tu := &turn{d: &drills{o: Options{Accelerator: vm.KVM}}, r: &Result{}, s: Subject{Hold: []string{"ssh.service"}, Facts: source}}
	tu.holdBack(func(string) bool { return false }, func(file string) ([]byte, error) {
		if file == "/lib/systemd/system/ssh.service" {
			return []byte("[Service]\nExecStartPre=/usr/sbin/other -t\nExecStart=-/usr/sbin/sshd -D $SSHD_OPTS\nExecStart=\n"), nil
		}
		return nil, os.ErrNotExist
	})
	if c := comparePorts(source, &agentpb.Facts{Listening: source.Listening[1:]}, tu.r.HeldBack); c.Outcome != dr.Done {
		t.Errorf("sshd is held back, and yet: %+v", c)
	}
	if c := comparePorts(source, &agentpb.Facts{}, tu.r.HeldBack); c.Outcome == dr.Done {
		t.Errorf("nginx is not held back, and yet: %+v", c)
	}
}
