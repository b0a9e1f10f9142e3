package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	guestMemoryMiB = 512
	// guestBoot bounds a boot without hardware virtualisation on a busy machine.
	guestBoot = 10 * time.Minute

	// UEFI and its empty variables, from Debian's package ovmf.
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// startGuest brings one server up as a QEMU guest and, unless it is told not to
// wait, returns when its own init has finished and its sshd lets the lab's key in
// over the link.
func (l *Lab) startGuest(ctx context.Context, spec Spec, srv *server, o Options) error {
	work := l.place.path("servers", spec.Name)
	text, err := content.ReadFile("scripts/guest.sh")
	if err != nil {
		return fmt.Errorf("read script: %w", err)
	}
	if err := writeFiles(work, map[string]string{"guest.sh": string(text)}); err != nil {
		return err
	}
	if spec.UEFI {
		if _, err := run(ctx, "cp", firmwareVars, filepath.Join(work, "vars.fd")); err != nil {
			return err
		}
	}
	tap, err := plugGuest(ctx, spec)
	if err != nil {
		return err
	}
	argv := []string{"/usr/bin/env", "ip", "netns", "exec", miami, "/bin/bash", filepath.Join(work, "guest.sh")}
	g, err := startGated(filepath.Join(work, "qemu.log"), 0, append(argv, qemuCommand(spec, work, tap)...)...)
	if err != nil {
		return err
	}
	if err := l.place.update(func(*state) { srv.Process = g.process }); err != nil {
		return err
	}
	if err := g.open(); err != nil {
		return err
	}
	if o.NoWait {
		return nil
	}
	if err := l.waitGuest(ctx, srv, work); err != nil {
		return err
	}
	if o.Quiet {
		return l.StopWriters(ctx, spec.Name)
	}
	return nil
}

// WaitGuest returns when a guest of a lab that was raised with NoWait has booted.
func (l *Lab) WaitGuest(ctx context.Context, name string) error {
	s, err := l.find(name)
	if err != nil {
		return err
	}
	return l.waitGuest(ctx, s, l.place.path("servers", name))
}

// qemuCommand is the guest's hardware: plain PC with BIOS or UEFI, one disk, one network
// card in the slot that names it as spec's configuration expects. The monitor,
// the serial console and its log are files in work.
func qemuCommand(spec Spec, work, tap string) []string {
	disk := []string{"-device", "virtio-blk-pci,drive=disk,addr=0x4"}
	if spec.SCSI {
		disk = []string{"-device", "virtio-scsi-pci,id=scsi,addr=0x4", "-device", "scsi-hd,drive=disk,bus=scsi.0"}
	}
	file := func(name string) string { return filepath.Join(work, name) }
	argv := []string{
		"qemu-system-x86_64", "-name", spec.Name, "-no-user-config", "-nodefaults",
		"-machine", "pc", "-accel", "tcg,tb-size=128", "-cpu", "max,la57=off,svm=off", "-m", fmt.Sprint(guestMemoryMiB), "-smp", "1",
		"-display", "none", "-vga", "std",
		"-qmp", "unix:" + file("qmp.sock") + ",server=on,wait=off",
		"-chardev", "socket,id=serial,path=" + file("serial.sock") + ",server=on,wait=off,logfile=" + file("serial.log"),
		"-serial", "chardev:serial",
		"-blockdev", "driver=file,node-name=file,filename=" + file("disk.raw") + ",discard=unmap",
		"-blockdev", "driver=raw,node-name=disk,file=file,discard=unmap",
		"-netdev", "tap,id=net,ifname=" + tap + ",script=no,downscript=no",
		"-device", "virtio-net-pci,netdev=net,mac=" + spec.MAC() + ",addr=0x3",
		"-device", "virtio-rng-pci,addr=0x5",
	}
	if spec.UEFI {
		argv = append(argv, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+firmwareCode,
			"-drive", "if=pflash,unit=1,format=raw,file="+file("vars.fd"))
	}
	return append(argv, disk...)
}

// waitGuest waits for the end of a guest's boot.
func (l *Lab) waitGuest(ctx context.Context, srv *server, work string) error {
	ctx, cancel := context.WithTimeout(ctx, guestBoot)
	defer cancel()
	var err error
	for srv.Process.alive() && ctx.Err() == nil {
		// Exits 1 on a system with a failed unit, which is up all the same.
		var out []byte
		out, err = l.guestCommand(ctx, srv, "systemctl", "is-system-running", "--wait").Output()
		// Some shells say more than they are asked; the answer comes last.
		words := strings.Fields(string(out))
		switch slices.Concat([]string{""}, words)[len(words)] {
		case "running":
			return nil
		case "degraded":
			l.log("%s has failed units", srv.Name)
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	if !srv.Process.alive() {
		said, _ := os.ReadFile(filepath.Join(work, "qemu.log")) // only to explain
		return fmt.Errorf("QEMU ended: %s", strings.TrimSpace(string(said)))
	}
	return fmt.Errorf("wait for the guest to boot: %w (last answer: %v); its console is in %s",
		ctx.Err(), err, filepath.Join(work, "serial.log"))
}

// guestCommand builds a command that runs as root in a guest, over ssh from
// Dallas.
func (l *Lab) guestCommand(ctx context.Context, s *server, argv ...string) *exec.Cmd {
	if s.User != "root" {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	args := InDallas("ssh", "-F", l.SSHConfig(), s.Name, "--", quoteAll(argv))
	return exec.CommandContext(ctx, args[0], args[1:]...)
}
