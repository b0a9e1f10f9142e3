package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestScratchOfADeadDrill(t *testing.T) {
	dir := t.TempDir()
	if !drillRuns(dir) {
		t.Error("a directory that is being made counts as dead")
	}
	lock, err := lockScratch(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "machines"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !drillRuns(dir) {
		t.Error("a drill that holds its lock counts as dead")
	}
	if _, err := lockScratch(dir); err == nil {
		t.Error("it was locked twice")
	}
	if err := lock.Close(); err != nil { // as the kernel does for a process that was killed
		t.Fatal(err)
	}
	if drillRuns(dir) {
		t.Error("a drill without its lock counts as running")
	}
}
