package document

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

var pdfPage = regexp.MustCompile(`/Type\s*/Page\b`)

// TestPrint has a browser print the page: a procedure, the checklist and what to do
// without Leeward each begin a sheet, and nothing runs away.
func TestPrint(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser takes seconds; -short was given")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("the test needs chromium")
	}
	dir := t.TempDir()
	page, pdf := filepath.Join(dir, "runbook.html"), filepath.Join(dir, "runbook.pdf")
	if err := os.WriteFile(page, Write(estate(6, plainName))["runbook.html"], 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--no-pdf-header-footer", "--print-to-pdf="+pdf, "file://"+page)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("print: %v\n%s", err, out)
	}
	b, err := os.ReadFile(pdf)
	if err != nil || !bytes.HasPrefix(b, []byte("%PDF")) {
		t.Fatalf("there is no PDF: %v", err)
	}
	if n := len(pdfPage.FindAll(b, -1)); n < 6 || n > 25 {
		t.Errorf("it prints on %d sheets, want 6 to 25", n)
	} else {
		t.Logf("%d sheets, %d bytes", n, len(b))
	}
}
