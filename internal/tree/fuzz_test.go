package tree

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

func FuzzPage(f *testing.F) {
	b, err := proto.Marshal(makePage([]entry{{name: "a", mode: 0o100644, links: 1, inode: 5}, {name: "b", device: 7}}, "c"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, b []byte, root bool) {
		var p agentpb.Page
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		rows, err := unpack(&p, root)
		if err != nil {
			return
		}
		for i, e := range rows {
			if checkName([]byte(e.name)) != nil && !(root && i == 0 && e.name == "") {
				t.Errorf("name %q accepted", e.name)
			}
		}
		again, err := unpack(makePage(rows, string(p.Next)), root)
		if err != nil || len(again) != len(rows) {
			t.Fatalf("what was unpacked does not pack: %v", err)
		}
		for i := range rows {
			if rows[i] != again[i] {
				t.Errorf("row %d: %v, then %v", i, rows[i], again[i])
			}
		}
	})
}

func FuzzCatalogPage(f *testing.F) {
	f.Add([]byte{catalogVersion, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{catalogVersion, 0, 0, 0, 0, 0, 0, 0, 0, 10, 2, 34, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		decodePage(b)
	})
}

func FuzzOffer(f *testing.F) {
	for _, o := range []*agentpb.Offer{wholeOf(1, []byte("content")), {Parts: []*agentpb.Part{{Holes: []*agentpb.Hole{{Length: 5}}, End: 5}}}} {
		b, err := proto.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := &rxBatch{offer: &agentpb.Offer{}}
		if proto.Unmarshal(raw, b.offer) != nil || b.parse() != nil {
			return
		}
		for _, ch := range b.chunks {
			if ch.offset < 0 || ch.offset+int64(ch.length) > maxOffset+int64(ch.length) || ch.length <= 0 {
				t.Errorf("chunk at %d of %d bytes accepted", ch.offset, ch.length)
			}
		}
		for _, p := range b.offer.Parts {
			if p.Head && p.Meta == nil && p.Chunks > 0 {
				t.Error("content without an entry accepted")
			}
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add("22 28 0:20 / /sys rw shared:7 - sysfs sysfs rw\n", "/sys")
	f.Add("1 1 8:1 /\\040x /mnt\\134 rw - ext4 /dev/sda1 rw\n", "/mnt\\")
	f.Fuzz(func(t *testing.T, text, at string) {
		m, err := findMountIn(text, at)
		if err == nil && m.mountPoint != at {
			t.Errorf("found %q for %q", m.mountPoint, at)
		}
	})
}

// A catalog that cannot be opened for want of something else than sense is kept.
func TestOnlyDamagedCatalogsAreReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, replaced, err := OpenOrReplaceCatalog(path); err == nil || replaced {
		t.Errorf("replaced %v, %v", replaced, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	c, replaced, err := OpenOrReplaceCatalog(path)
	if err != nil || !replaced {
		t.Fatalf("a damaged catalog: replaced %v, %v", replaced, err)
	}
	c.Close()
}
