// Package lvm takes snapshots of logical volumes and removes them, by the programs
// of lvm2 on the host it runs on. Deciding what may be taken is pure; so that a
// snapshot never harms its origin, it is bounded by what the volume group has free.
package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// uuidPrefix begins what the device mapper calls the UUID of a logical volume.
const uuidPrefix = "LVM-"

// ErrNotVolume means that a device is no logical volume.
var ErrNotVolume = errors.New("not a logical volume")

// Volume is a logical volume as lvs lists it. Sizes are bytes.
type Volume struct {
	Group      string
	Name       string
	UUID       string // as the device mapper has it, see UUIDOf
	Attr       string // lv_attr, see lvs(8)
	Size       int64
	Pool       string  // of a thin volume
	Data       float64 // percent in use: of a snapshot's or pool's space
	Metadata   float64 // percent in use of a pool's metadata
	GroupFree  int64
	ExtentSize int64
}

// Query is the command that lists all volumes in the form that Parse reads.
func Query() (name string, args []string) {
	return find("lvs"), []string{"--reportformat", "json", "--units", "b", "--nosuffix", "-o",
		"vg_name,vg_uuid,lv_name,lv_uuid,lv_attr,lv_size,pool_lv,data_percent,metadata_percent,vg_free,vg_extent_size"}
}

// Parse reads what Query's command writes.
func Parse(out []byte) ([]Volume, error) {
	var doc struct {
		Report []struct {
			LV []map[string]string `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, fmt.Errorf("read the list of logical volumes: %w", err)
	}
	var volumes []Volume
	for _, r := range doc.Report {
		for _, row := range r.LV {
			v := Volume{Group: row["vg_name"], Name: row["lv_name"], Attr: row["lv_attr"], Pool: row["pool_lv"],
				UUID: uuidPrefix + strings.ReplaceAll(row["vg_uuid"]+row["lv_uuid"], "-", "")}
			var errs [3]error
			v.Size, errs[0] = strconv.ParseInt(row["lv_size"], 10, 64)
			v.GroupFree, errs[1] = strconv.ParseInt(row["vg_free"], 10, 64)
			v.ExtentSize, errs[2] = strconv.ParseInt(row["vg_extent_size"], 10, 64)
			if err := errors.Join(errs[:]...); err != nil || v.Group == "" || v.Name == "" || v.Size < 0 || v.GroupFree < 0 || v.ExtentSize <= 0 {
				return nil, fmt.Errorf("read the list of logical volumes: strange entry %q/%q", v.Group, v.Name)
			}
			v.Data, _ = strconv.ParseFloat(row["data_percent"], 64) // empty where there is none
			v.Metadata, _ = strconv.ParseFloat(row["metadata_percent"], 64)
			volumes = append(volumes, v)
		}
	}
	return volumes, nil
}

// List returns all logical volumes of this host.
func List(ctx context.Context) ([]Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	name, args := Query()
	out, err := run(ctx, name, args...)
	if err != nil {
		return nil, err
	}
	return Parse([]byte(out))
}

// UUIDOf returns the UUID of the logical volume behind a block device, given by its
// number as mountinfo has it. It is ErrNotVolume where there is none.
func UUIDOf(sys, device string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sys, "dev/block", device, "dm/uuid"))
	if errors.Is(err, os.ErrNotExist) {
		return "", ErrNotVolume
	}
	if err != nil {
		return "", fmt.Errorf("read what device %s is: %w", device, err)
	}
	id := strings.TrimSpace(string(b))
	if !strings.HasPrefix(id, uuidPrefix) {
		return "", ErrNotVolume
	}
	return id, nil
}

// Snapshot is a snapshot that was taken.
type Snapshot struct {
	Group, Name string
	Device      string // its node
	Room        int64  // bytes it can hold of what changes at the origin; 0 is a thin one
	At          time.Time
}

// Take takes the snapshot that d allows and calls it name. The program is not ended
// early whatever happens: its death would leave the origin suspended.
func Take(d Decision, name string) (*Snapshot, error) {
	args := []string{"--yes", "--quiet", "--snapshot", "--name", name, "--monitor", "n", "--setactivationskip", "n"}
	if d.Room > 0 {
		args = append(args, "--extents", strconv.FormatInt(d.Room/d.ExtentSize, 10))
	}
	s := &Snapshot{Group: d.Group, Name: name, Room: d.Room, At: time.Now(), Device: "/dev/mapper/" + mapped(d.Group) + "-" + mapped(name)}
	if _, err := run(context.Background(), find("lvcreate"), append(args, d.Group+"/"+d.Name)...); err != nil {
		return nil, err
	}
	return s, nil
}

// mapped is a name within the name of a mapped device, where - separates.
func mapped(name string) string { return strings.ReplaceAll(name, "-", "--") }

// Remove removes a snapshot. Its device may be busy for a moment after it was
// unmounted.
func Remove(group, name string) (err error) {
	for try := range 10 {
		if try > 0 {
			time.Sleep(300 * time.Millisecond)
		}
		if _, err = run(context.Background(), find("lvremove"), "--yes", "--quiet", group+"/"+name); err == nil {
			return nil
		}
	}
	return err
}

// find returns the path of one of lvm2's programs: ssh may give a PATH without sbin.
func find(name string) string {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return name
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", filepath.Base(name), err, firstLine(errs.String()))
	}
	return out.String(), nil
}

// firstLine returns the first line that is not a warning.
func firstLine(s string) string {
	first := ""
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "WARNING") {
			return line
		}
		if first == "" {
			first = line
		}
	}
	return first
}
