package e2e

import (
	"testing"
	"time"
)

// much gives the next pass of web1 enough to carry to be in the middle of it.
func (w *world) much(t *testing.T) {
	t.Helper()
	w.in(t, "web1", "head -c 40000000 /dev/urandom > /var/lib/link")
	t.Cleanup(func() { w.in(t, "web1", "rm -f /var/lib/link") })
	w.slow(t, "50mbit")
}

// linkCutForLong cuts the link in the middle of a pass until both ends have
// given the connection up. The pass goes on by itself.
func linkCutForLong(w *world, t *testing.T) {
	config := w.estate(t)
	w.much(t)
	w.unharmed(t, w.store(), "web1", func() {
		s := w.start(t, config, "replicate", "web1")
		time.Sleep(4 * time.Second)
		if err := w.lab.Cut(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Second)
		if !s.running() {
			t.Errorf("it did not wait for the link: %s", s.wait())
		}
		if err := w.lab.Heal(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := s.wait()
		if r.code != 0 {
			t.Fatal(r)
		}
		t.Logf("done after %v", r.took.Round(time.Second))
	})
	w.settle(t, config, "web1")
}

// TestSourceRestarts ends sshd and every session at the source in the middle of a
// pass, and starts it again a little later.
func TestSourceRestarts(t *testing.T) {
	w := need(t)
	config := w.estate(t)
	w.much(t)
	w.unharmed(t, w.store(), "web1", func() {
		s := w.start(t, config, "replicate", "web1")
		time.Sleep(4 * time.Second)
		w.in(t, "web1", `for p in /proc/[0-9]*; do case $(readlink $p/exe) in /usr/sbin/sshd|*/leeward/leeward-*) kill -9 ${p#/proc/} || true;; esac; done`)
		time.Sleep(5 * time.Second)
		if !s.running() {
			t.Errorf("it did not wait for the server: %s", s.wait())
		}
		w.in(t, "web1", "/usr/sbin/sshd")
		r := s.wait()
		if r.code != 0 {
			t.Fatal(r)
		}
		t.Logf("done after %v", r.took.Round(time.Second))
	})
	w.settle(t, config, "web1")
}
