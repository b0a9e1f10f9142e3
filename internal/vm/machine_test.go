package vm

import (
	"bytes"
	"context"
	"errors"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// bootSector prints text on the first serial port by the BIOS and halts.
func bootSector(t *testing.T, text string) string {
	t.Helper()
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // xor ax,ax; mov ds,ax
		0xb8, 0xe3, 0x00, 0x31, 0xd2, 0xcd, 0x14, // mov ax,0x00e3; xor dx,dx; int 0x14: 9600 8n1
		0xbe, 0x1f, 0x7c, // mov si,0x7c1f
		0xac, 0x84, 0xc0, 0x74, 0x08, // lodsb; test al,al; jz halt
		0xb4, 0x01, 0x31, 0xd2, 0xcd, 0x14, // mov ah,1; xor dx,dx; int 0x14
		0xeb, 0xf3, // jmp lodsb
		0xf4, 0xeb, 0xfd, // halt: hlt; jmp halt
	}
	sector := make([]byte, 512)
	copy(sector, code)
	copy(sector[0x1f:510], text)
	sector[510], sector[511] = 0x55, 0xaa
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(disk, append(sector, make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return disk
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(binary); err != nil {
		t.Skip("needs qemu: ", err)
	}
}

func TestBootSectorReachesTheConsole(t *testing.T) {
	needQEMU(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "serial.log")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := Start(ctx, Spec{Name: "sector", Dir: dir, Disk: bootSector(t, "web1 login: "), Memory: 64 << 20,
		SerialLog: log, NICs: []NIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Console().WaitFor(ctx, SignLogin); err != nil {
		t.Fatalf("%v; console %q", err, m.Console().Tail())
	}
	shot := filepath.Join(dir, "screen.png")
	if err := m.Screenshot(ctx, shot); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(shot)
	if _, err := png.Decode(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	pid := m.process.Pid
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("QEMU outlived Close: %v", err)
	}
	if b, _ := os.ReadFile(log); !bytes.Contains(b, []byte("web1 login: ")) {
		t.Fatalf("serial log %q", b)
	}
}

func TestBootUEFIWithoutDisk(t *testing.T) {
	needQEMU(t)
	dir := t.TempDir()
	m, err := Start(t.Context(), Spec{Name: "empty", Dir: dir, Disk: bootSector(t, ""), Firmware: UEFI, Memory: 256 << 20})
	if errors.Is(err, ErrNoUEFI) {
		t.Skip("needs OVMF: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := m.Console().WaitFor(ctx, SignNoBootDevice, SignShell); err != nil {
		t.Fatalf("%v; console %q", err, m.Console().Tail())
	}
	m.Close()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestStartErrorSaysWhatQEMUSaid(t *testing.T) {
	needQEMU(t)
	_, err := Start(t.Context(), Spec{Name: "bad", Dir: t.TempDir(), Disk: "/nonexistent/disk.raw"})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("No such file")) {
		t.Fatalf("got %v", err)
	}
}

func TestAcceleratorFallsBack(t *testing.T) {
	if a, why := Accelerator(t.Context(), TCG, "", t.TempDir()); a != TCG || why != "" {
		t.Fatalf("asked for tcg: %s, %s", a, why)
	}
	if a, why := Accelerator(t.Context(), Auto, "", t.TempDir()); a != TCG || why == "" {
		t.Fatalf("auto without a kernel: %s, %q", a, why)
	}
}
