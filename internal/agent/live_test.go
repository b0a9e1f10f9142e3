package agent

import (
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
)

// TestFactsOfThisHost looks at the machine the test runs on, whatever it is.
func TestFactsOfThisHost(t *testing.T) {
	begun := time.Now()
	f, err := CollectFacts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("in %v:\n%s", time.Since(begun), prototext.Format(f))
	if f.Kernel == "" || f.MemoryBytes == 0 || f.Cpus == 0 || len(f.Interfaces) == 0 {
		t.Error("kernel, memory, processors or interfaces are missing")
	}
	if len(f.Filesystems)+len(f.Skipped) == 0 {
		t.Error("no mounts at all")
	}
}
