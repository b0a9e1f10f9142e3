package mountns

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// role tells the test binary to act as a program that enters a namespace.
const role = "MOUNTNS_TEST_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(role)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := inside(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// inside enters a namespace, mounts on dir and says what it sees.
func inside(dir string) error {
	if err := Enter(); err != nil {
		return err
	}
	if err := Enter(); err != nil { // the second call must do nothing
		return err
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/hidden", nil, 0o600); err != nil {
		return err
	}
	var line string
	if _, err := fmt.Scanln(&line); err != nil { // standard input survives
		return err
	}
	ns, err := os.Readlink(current)
	if err != nil {
		return err
	}
	fmt.Println(Entered(), os.Getpid(), line, ns)
	return nil
}

func TestEnter(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := shared(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=none")
	cmd.Env = append(os.Environ(), role+"="+dir)
	cmd.Stdin = strings.NewReader("word\n")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	ours, _ := os.Readlink(current)
	f := strings.Fields(string(out))
	if len(f) != 4 || f[0] != "true" || f[1] != fmt.Sprint(cmd.Process.Pid) || f[2] != "word" || f[3] == ours {
		t.Errorf("got %q, we are in %s", out, ours)
	}
	if _, err := os.Stat(dir + "/hidden"); err == nil {
		t.Error("the mount leaked out of the namespace")
	}
}

// shared returns a directory on a mount that propagates, as all do under systemd.
func shared(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
		t.Skip("cannot mount:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("none", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	dir := base + "/dir"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEnteredNeedsTheRightNamespace(t *testing.T) {
	t.Setenv(marker, "mnt:[1]")
	if Entered() {
		t.Error("a stale marker passed for a private namespace")
	}
	ns, err := os.Readlink(current)
	if err != nil {
		t.Skip("no", current)
	}
	t.Setenv(marker, ns)
	if !Entered() {
		t.Error("the right marker was not accepted")
	}
}

func TestEnviron(t *testing.T) {
	got := environ([]string{"A=1", marker + "=old", "B=2"}, "new")
	if want := []string{"A=1", "B=2", marker + "=new"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
