package document

import (
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/runbook"
)

// abouts say what each procedure is for.
var abouts = map[string]string{
	"cutover":  "The source still works, and is to be left with nothing lost: before the storm, or to move for good.",
	"failover": "The source is gone, or must be given up. What was not copied yet is lost: see the age of the recovery points.",
	"failback": "The source is well again, and work is to go back to it.",
	"rollback": "A cutover that was made is taken back within its window, with nothing lost.",
}

func (p *pages) procedure(x Procedure) {
	s := p.section(2, anchor("procedure", x.Kind), strings.ToUpper(x.Kind[:1])+x.Kind[1:])
	s.para(t(abouts[x.Kind]))
	s.add(block{code: p.command(x.Kind+" plan") + "\n" + p.command(x.Kind+" apply --serial SERIAL") + "\n" + p.command(x.Kind+" resume") + "     # after any interruption"})
	if x.Plan == nil {
		s.add(block{alarm: t("It cannot be planned now: " + x.Err)})
		return
	}
	for _, n := range x.Plan.Notes {
		s.add(block{items: []text{t(strings.TrimLeft(n, "* "))}})
	}
	took := map[string]Measured{}
	for _, m := range x.Last {
		took[m.Step] = m
	}
	s.para(t("These are the steps as they would be taken now. Times are those of the last run that had the step; booting is what the last drill measured."))
	phase := ""
	var rows [][]text
	flush := func() {
		s.table([]string{"", "Step", "Last took", "Without Leeward, or to look"}, rows)
		rows = nil
	}
	for i, step := range x.Plan.Steps {
		if step.Phase != phase {
			flush()
			phase = step.Phase
			s.para(t(strings.ToUpper(phase[:min(1, len(phase))]) + phase[min(1, len(phase)):] + ":"))
		}
		rows = append(rows, []text{t(fmt.Sprint(i + 1)), t(step.Title), t(p.tookOf(step, took)), byHand(step)})
	}
	flush()
}

// tookOf is how long a step took when it was last done; a boot, what its drill measured.
func (p *pages) tookOf(step runbook.Step, took map[string]Measured) string {
	if m, ok := took[step.ID]; ok {
		return m.Took.Round(100 * time.Millisecond).String()
	}
	if strings.Contains(step.Action, "boot") {
		for _, s := range p.e.Servers {
			if s.Name == step.Object && s.Proof > 0 {
				return s.Proof.Round(time.Second).String() + " in the drill"
			}
		}
	}
	return "–"
}

func byHand(step runbook.Step) (all text) {
	for i, command := range step.Commands {
		if i > 0 {
			all = append(all, span{text: " "})
		}
		all = append(all, span{text: command, code: true})
	}
	if step.Look != "" {
		if len(all) > 0 {
			all = append(all, span{text: " "})
		}
		all = append(all, span{text: step.Look})
	}
	return all
}

func (p *pages) command(rest string) string {
	if p.e.File == "leeward.yaml" || p.e.File == "" {
		return "leeward " + rest
	}
	return "leeward -c " + p.e.File + " " + rest
}

// bare is for the day on which Leeward itself is gone: everything lies in plain files.
func (p *pages) bare() {
	s := p.section(2, "bare", "Without Leeward")
	s.para(t("Everything is in plain files in the store at " + p.e.Target + ". Any Linux machine with QEMU that can read them will do."))
	s.add(block{code: fmt.Sprintf(`cd %s
# where there is a file pool.xfs, the rest is inside it:
mount -o loop pool.xfs pool && cd pool
ls servers/NAME/points              # recovery points, named by the UTC time of their pass
less servers/NAME/points/ID/manifest.json`, quote(p.e.Store))})
	s.para(t("To look into a copy, or take files out of it:"))
	s.add(block{code: `cp --reflink=always servers/NAME/points/ID/disk.raw scratch/NAME.raw
# where its filesystems begin, in bytes:
jq '.partitions[] | [.mount_point, .type, .offset]' servers/NAME/points/ID/layout.json
mount -o loop,offset=OFFSET scratch/NAME.raw /mnt        # XFS: add nouuid`})
	s.para(t("To boot it, with the kernel and the initramfs that are in its /boot, copied out as above:"))
	s.add(block{code: `qemu-system-x86_64 -m 2048 -smp 2 -accel kvm -drive file=scratch/NAME.raw,if=virtio,format=raw \
  -kernel vmlinuz -initrd initrd.img -append "root=UUID=UUID-OF-ITS-ROOT ro console=ttyS0" \
  -nic tap,model=virtio-net-pci,script=no -nographic`})
	s.para(t("Never start a copy on a network on which the original may still run: two of one address, and both write."))
	var rows [][]text
	for _, x := range p.e.Servers {
		if x.Inventory == nil {
			continue
		}
		var root string
		for _, f := range x.Inventory.Storage.Filesystems {
			if f.Mount == "/" {
				root = f.UUID
			}
		}
		rows = append(rows, []text{to(x.Name, anchor("server", x.Name)), c(path.Join("servers", x.Name, "points", orNone(x.Point))), c(orNone(root)), t(x.Inventory.System.Firmware)})
	}
	s.table([]string{"Server", "Newest recovery point", "UUID of its root", "Firmware of the original"}, rows)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// checklist is for paper, for the day without a screen.
func (p *pages) checklist() {
	s := p.section(2, "checklist", "Checklist for paper")
	s.para(t("Failover, by hand or by command. Write the time beside each line."))
	checks := []text{
		t("Somebody who may decide has decided. Name: ______________________  Time: ________"),
		t("The source cannot write any more: switched off, cut off, or fenced. By whom, how: ______________________"),
		t("How old the newest recovery points are was told to those who decide: leeward status"),
	}
	for _, name := range startOrder(p.e.Servers) {
		checks = append(checks, join(to(name, anchor("server", name)), t(" is up and answers.  Time: ________")))
	}
	for _, d := range p.e.Databases {
		checks = append(checks, join(to(d.Name, anchor("database", d.Name)), t(" is primary at "+p.e.Target+" and takes writes.  Time: ________")))
	}
	checks = append(checks, t("Clients are led here: names, addresses, tunnels.  Time: ________"),
		t("Jobs that run by the clock run on one side alone."), t("Mail that waited was sent, or was thrown away knowingly."),
		t("Those who use it were told.  Time: ________"), t("The old source stays off until somebody has decided what becomes of it."))
	s.add(block{checks: checks})
}
