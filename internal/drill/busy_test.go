package drill

import (
	"strings"
	"testing"
)

func TestBusyNote(t *testing.T) {
	if note := busyNote(9, 3); note != "" {
		t.Errorf("at a load of 9 with 3 machines: %s", note)
	}
	if note := busyNote(24.4, 3); !strings.Contains(note, "load 24, of which this drill is 3 at the most") {
		t.Errorf("at a load of 24: %q", note)
	}
	if loadAverage() < 0 {
		t.Error("the load is negative")
	}
}
