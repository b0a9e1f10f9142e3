package drill

import (
	"cmp"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

// Packages is the state of the files that dpkg has installed: what `dpkg -V` looks at.
// Two are compared, that of the clone before it boots, taken here, and that of the booted
// machine, taken inside, so that the same reading of dpkg's files holds for both.
type Packages struct {
	Version int `json:"version"`
	// Digests are, by package, of its files' types, rights, owners, sizes and times.
	Digests map[string]string `json:"digests"`
	// Changed are the files whose content is not what the package brought, and those
	// that are missing, of those that were read.
	Changed []string `json:"changed,omitempty"`
	Files   int      `json:"files"` // looked at
	Read    int      `json:"read"`  // digested
	Share   int      `json:"share"` // one file in so many was read
	Err     string   `json:"error,omitempty"`
}

const (
	packagesVersion = 1
	dpkgInfo        = "/var/lib/dpkg/info"
	mostChanged     = 500
	// emulatedShare is how many files there are to each that an emulated machine digests:
	// reading all takes it half a minute, and that nothing was written shows without.
	emulatedShare = 16
)

// ReadPackages looks at the files that a system's dpkg has installed, and digests one in
// share of them. place tells where a directory of the system lies here, its links resolved.
// A system without dpkg has no packages.
func ReadPackages(share int, place func(dir string) (string, error)) (*Packages, error) {
	r := &packageReader{place: place, places: map[string]string{},
		p: &Packages{Version: packagesVersion, Digests: map[string]string{}, Share: max(share, 1)}}
	info, err := r.dir(dpkgInfo)
	if err != nil {
		return nil, fmt.Errorf("read packages: %w", err)
	}
	entries, err := os.ReadDir(info)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read packages: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".md5sums")
		if !ok || !e.Type().IsRegular() {
			continue
		}
		if err := r.add(filepath.Join(info, e.Name()), name); err != nil {
			return nil, fmt.Errorf("read package %s: %w", name, err)
		}
	}
	slices.Sort(r.p.Changed)
	return r.p, nil
}

// packageReader is one ReadPackages.
type packageReader struct {
	p      *Packages
	place  func(string) (string, error)
	places map[string]string // of directories
}

// dir asks for the place of each directory once.
func (r *packageReader) dir(name string) (string, error) {
	if at, ok := r.places[name]; ok {
		return at, nil
	}
	at, err := r.place(name)
	if err != nil {
		return "", err
	}
	r.places[name] = at
	return at, nil
}

// add looks at the files of one package.
func (r *packageReader) add(list, name string) error {
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	rows := blake3.New()
	for line := range strings.Lines(string(b)) {
		sum, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || path == "" {
			continue
		}
		path = filepath.Join("/", path)
		r.p.Files++
		dir, err := r.dir(filepath.Dir(path))
		if err != nil {
			return err
		}
		at := filepath.Join(dir, filepath.Base(path))
		row, regular := statRow(at)
		fmt.Fprintf(rows, "%s %s\n", path, row)
		if !r.p.picks(path) {
			continue
		}
		r.p.Read++
		same := false
		if regular {
			if same, err = hasSum(at, sum); err != nil {
				return err
			}
		}
		if !same && len(r.p.Changed) < mostChanged {
			r.p.Changed = append(r.p.Changed, path)
		}
	}
	r.p.Digests[name] = hex.EncodeToString(rows.Sum(nil)[:8])
	return nil
}

// picks reports whether the content of path is read. It is the same wherever it is asked.
func (p *Packages) picks(path string) bool {
	if p.Share <= 1 {
		return true
	}
	h := fnv.New32a()
	io.WriteString(h, path) // a hash takes everything
	return h.Sum32()%uint32(p.Share) == 0
}

// statRow tells of a file all but its content.
func statRow(path string) (row string, regular bool) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return "missing", false
	}
	return fmt.Sprintf("%o %d:%d %d %d.%09d", st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Sec, st.Mtim.Nsec), st.Mode&unix.S_IFMT == unix.S_IFREG
}

// hasSum reports whether a regular file has the MD5 sum.
func hasSum(path, sum string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := md5.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)) == sum, nil
}

// ComparePackages checks the packages of a booted machine against those of its point.
func ComparePackages(point, guest *Packages) Check {
	const name = "packages"
	if guest.Err != "" {
		return Check{name, dr.NotDone, "packages cannot be read inside: " + guest.Err}
	}
	var wrong []string
	for pkg, sum := range point.Digests {
		switch got, ok := guest.Digests[pkg]; {
		case !ok:
			wrong = append(wrong, "package "+pkg+" is not installed")
		case got != sum:
			wrong = append(wrong, "files of package "+pkg+" have other sizes, rights or times")
		}
	}
	for pkg := range guest.Digests {
		if _, ok := point.Digests[pkg]; !ok {
			wrong = append(wrong, "package "+pkg+" is new")
		}
	}
	for _, f := range guest.Changed {
		if !slices.Contains(point.Changed, f) {
			wrong = append(wrong, f+" is not as its package brought it, and was at the source")
		}
	}
	known := 0
	for _, f := range point.Changed {
		if !guest.picks(f) {
			continue
		}
		known++
		if !slices.Contains(guest.Changed, f) {
			wrong = append(wrong, f+" is as its package brought it, and was not at the source")
		}
	}
	slices.SortFunc(wrong, cmp.Compare[string])
	if len(wrong) > 3 {
		wrong = append(wrong[:3:3], fmt.Sprintf("and %d more", len(wrong)-3))
	}
	fine := fmt.Sprintf("%d files of %d packages as at the source; %d of them read whole, of which %d are changed or missing there too", guest.Files, len(guest.Digests), guest.Read, known)
	return check(name, fine, wrong)
}

// packageShare is how many files there are to each whose content is read.
func (t *turn) packageShare() int {
	if vm.Emulated(t.d.o.Accelerator) {
		return emulatedShare
	}
	return 1
}

// comparePackages is the check of what the machine told; none where the point has none.
func (t *turn) comparePackages(told *Packages) []Check {
	switch {
	case t.packages == nil || t.packages.Files == 0:
		return nil
	case told == nil:
		return []Check{{"packages", dr.NotDone, "the machine has not told of its packages yet"}}
	}
	return []Check{ComparePackages(t.packages, told)}
}

// tellPackages writes what the machine's own packages are. What goes wrong shows by what
// is missing: the check does not hold.
func tellPackages(w io.Writer, share int) {
	if share == 0 {
		return
	}
	p, err := ReadPackages(share, func(dir string) (string, error) { return dir, nil })
	if err != nil {
		p = &Packages{Version: packagesVersion, Err: err.Error()}
	}
	if b, err := json.Marshal(p); err == nil {
		_ = writeLine(w, packsMark, b) // the port is gone, and its reader with it
	}
}

// parsePackages returns nil unless line tells of packages.
func parsePackages(line []byte) *Packages {
	p := &Packages{}
	if b := parseLine(line, packsMark); b == nil || json.Unmarshal(b, p) != nil || p.Version != packagesVersion {
		return nil
	}
	p.Err = strings.ToValidUTF8(p.Err, "?")
	for i, f := range p.Changed {
		p.Changed[i] = strings.ToValidUTF8(f, "?")
	}
	return p
}
