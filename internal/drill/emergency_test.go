package drill

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/vm"
)

func TestEmergencyNamesTheLine(t *testing.T) {
	const prompt = "You are in emergency mode. After logging in, type \"journalctl -xb\" to view"
	for log, want := range map[string]string{
		"[ TIME ] Timed out waiting for device dev-disk-by\\x2duuid-dead\\x2dbeef.device - /dev/disk/by-uuid/dead-beef.\n" +
			"[DEPEND] Dependency failed for data.mount - /data.\n": "mounts /data stopped the boot: its device /dev/disk/by-uuid/dead-beef is not there",
		"[DEPEND] Dependency failed for /srv/files.\n":          "mounts /srv/files stopped the boot",
		"[FAILED] Failed to mount data.mount - /data.\n":        "mounts /data stopped the boot",
		"[DEPEND] Dependency failed for local-fs.target - X.\n": prompt,
	} {
		c := vm.NewConsole(nil)
		c.Write([]byte(log + prompt))
		f := signFailure(c, time.Now().Add(2*failureGrace))
		if f == nil || !strings.HasPrefix(f.cause, "systemd went into emergency mode: ") || !strings.Contains(f.cause, want) {
			t.Errorf("%q: %+v, want %q", log, f, want)
		}
	}
}

func FuzzEmergencyCause(f *testing.F) {
	f.Add("Dependency failed for data.mount - /data.")
	f.Fuzz(func(t *testing.T, log string) { emergencyCause(strings.Split(log, "\n")) })
}
