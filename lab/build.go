package lab

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// cacheFormat is raised when images made by older code must not be used.
const cacheFormat = "leeward-lab 1"

//go:embed scripts recipes
var content embed.FS

// image is a server's finished disk in the cache.
type image struct {
	Disk    string
	Parts   []Partition `json:"partitions"`
	HostKey []string    `json:"host_keys"` // public keys, "type base64"
}

// builder makes disks in a cache directory. A disk is named by the hash of all
// that goes into it, so that it is made once and never out of date.
type builder struct {
	cache   string
	pubkey  string // the lab's public key, part of every server
	sources string // the sources.list line without its suite; "" for mmdebstrap's own choice
	log     func(format string, args ...any)
	slots   chan struct{}

	mu    sync.Mutex
	bases map[string]*base
}

// base is the tree of one Debian release, as a tar, made on first use.
type base struct {
	once sync.Once
	file string
	err  error
}

// openCache locks the cache against another builder and makes the lab's key
// in it. The returned function unlocks it.
func openCache(ctx context.Context, dir string, log func(string, ...any)) (*builder, func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("lock cache: %w", err)
	}
	unlock := func() { lock.Close() }
	if err := waitLock(ctx, lock, func() { log("waiting for another lab to finish with %s", dir) }); err != nil {
		unlock()
		return nil, nil, fmt.Errorf("lock cache: %w", err)
	}
	// What an interrupted build left is of no use.
	if err := os.RemoveAll(filepath.Join(dir, "work")); err != nil {
		unlock()
		return nil, nil, fmt.Errorf("clear cache: %w", err)
	}
	pub, err := labKey(ctx, dir)
	if err == nil {
		err = writeScripts(filepath.Join(dir, "work"))
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	b := &builder{
		cache: dir, pubkey: pub, sources: hostMirror(), log: log,
		slots: make(chan struct{}, max(2, runtime.NumCPU())),
		bases: map[string]*base{},
	}
	return b, unlock, nil
}

// waitLock locks f, and says once that it has to wait.
func waitLock(ctx context.Context, f *os.File, waiting func()) error {
	for first := true; ; first = false {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// writeScripts puts the build scripts where they can be run.
func writeScripts(dir string) error {
	files := map[string]string{}
	for _, name := range []string{"base.sh", "server.sh"} {
		text, err := content.ReadFile("scripts/" + name)
		if err != nil {
			return fmt.Errorf("read script: %w", err)
		}
		files[name] = string(text)
	}
	return writeFiles(dir, files)
}

// labKey makes the key that opens all servers, once per cache, and returns its
// public half.
func labKey(ctx context.Context, cache string) (string, error) {
	key := filepath.Join(cache, "key")
	if _, err := os.Stat(key + ".pub"); errors.Is(err, fs.ErrNotExist) {
		os.Remove(key)
		if _, err := run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", key); err != nil {
			return "", err
		}
	}
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		return "", fmt.Errorf("read the lab's key: %w", err)
	}
	return strings.TrimSpace(string(pub)), nil
}

// images returns the disks of the servers, making those that are missing, as
// many at once as there are cores.
func (b *builder) images(ctx context.Context, specs []Spec) (map[string]*image, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		out  = map[string]*image{}
		errs []error
	)
	for _, s := range specs {
		wg.Go(func() {
			img, err := b.image(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if len(errs) == 0 || !errors.Is(err, context.Canceled) {
					errs = append(errs, fmt.Errorf("build %s: %w", s.Name, err))
				}
				cancel()
				return
			}
			out[s.Name] = img
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func (b *builder) image(ctx context.Context, s Spec) (*image, error) {
	files, err := b.workFiles(s)
	if err != nil {
		return nil, err
	}
	hash := b.hash(s, files)
	dir := filepath.Join(b.cache, s.Name+"-"+hash)
	if img, err := loadImage(dir); err == nil {
		return img, nil
	}
	baseTar, err := b.base(ctx, s.Suite)
	if err != nil {
		return nil, err
	}
	if err := b.acquire(ctx); err != nil {
		return nil, err
	}
	defer b.release()
	start := time.Now()
	if err := b.make(ctx, s, files, baseTar, dir); err != nil {
		return nil, err
	}
	b.log("built %s (%s) in %.0fs", s.Name, s.Suite, time.Since(start).Seconds())
	return loadImage(dir)
}

func (b *builder) acquire(ctx context.Context) error {
	select {
	case b.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *builder) release() { <-b.slots }

// make builds a disk aside and puts it in place whole.
func (b *builder) make(ctx context.Context, s Spec, files map[string]string, baseTar, dir string) error {
	work := filepath.Join(b.cache, "work", s.Name)
	if err := writeFiles(work, files); err != nil {
		return err
	}
	logf, err := os.Create(filepath.Join(b.cache, s.Name+".log"))
	if err != nil {
		return fmt.Errorf("open build log: %w", err)
	}
	defer logf.Close()
	disk := filepath.Join(work, "disk.raw")
	packages := strings.Join(s.Packages, ",")
	if err := b.script(ctx, "server.sh", logf, baseTar, s.Suite, packages, disk, work, b.sourcesLine(s.Suite)); err != nil {
		return err
	}
	parts, _ := s.layout(b.pubkey)
	if err := finishDisk(ctx, s, b.pubkey, disk, work, parts); err != nil {
		return err
	}
	keys, err := hostKeys(filepath.Join(work, "hostkeys"))
	if err != nil {
		return err
	}
	return b.store(work, disk, dir, image{Parts: parts, HostKey: keys}, s.Name)
}

// finishDisk writes what lies outside of the server's own filesystems.
func finishDisk(ctx context.Context, s Spec, seed, disk, work string, parts []Partition) error {
	if err := installGRUB(ctx, disk, work, parts); err != nil {
		return err
	}
	if s.UEFI {
		if err := installESP(ctx, disk, work, s.espID(seed), parts); err != nil {
			return err
		}
	}
	return writeVolumes(s, seed, disk, parts)
}

// store moves a finished disk into the cache and drops the server's older ones.
func (b *builder) store(work, disk, dir string, img image, name string) error {
	done := filepath.Join(work, "done")
	if err := os.Mkdir(done, 0o755); err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	meta, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	if err := os.WriteFile(filepath.Join(done, "image.json"), meta, 0o644); err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	if err := os.Rename(disk, filepath.Join(done, "disk.raw")); err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(b.cache, name+"-*"))
	if err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return fmt.Errorf("drop old image: %w", err)
		}
	}
	if err := os.Rename(done, dir); err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("clear work directory: %w", err)
	}
	return nil
}

func loadImage(dir string) (*image, error) {
	meta, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	img := image{}
	if err := json.Unmarshal(meta, &img); err != nil {
		return nil, fmt.Errorf("read image: %w", err)
	}
	img.Disk = filepath.Join(dir, "disk.raw")
	return &img, nil
}

// base returns the tree of a release, making it on first use.
func (b *builder) base(ctx context.Context, suite string) (string, error) {
	b.mu.Lock()
	t := b.bases[suite]
	if t == nil {
		t = &base{}
		b.bases[suite] = t
	}
	b.mu.Unlock()
	t.once.Do(func() { t.file, t.err = b.makeBase(ctx, suite) })
	return t.file, t.err
}

func (b *builder) makeBase(ctx context.Context, suite string) (string, error) {
	file := filepath.Join(b.cache, "base-"+suite+"-"+b.baseHash(suite)+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := b.acquire(ctx); err != nil {
		return "", err
	}
	defer b.release()
	start := time.Now()
	work := filepath.Join(b.cache, "work", "base-"+suite)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return "", fmt.Errorf("make work directory: %w", err)
	}
	logf, err := os.Create(filepath.Join(b.cache, "base-"+suite+".log"))
	if err != nil {
		return "", fmt.Errorf("open build log: %w", err)
	}
	defer logf.Close()
	made := filepath.Join(work, "tree.tar")
	if err := b.script(ctx, "base.sh", logf, suite, made, strings.Join(basePackages(), ","), b.sourcesLine(suite)); err != nil {
		return "", fmt.Errorf("build base of %s: %w", suite, err)
	}
	old, err := filepath.Glob(filepath.Join(b.cache, "base-"+suite+"-*"))
	if err != nil {
		return "", fmt.Errorf("store base: %w", err)
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return "", fmt.Errorf("drop old base: %w", err)
		}
	}
	if err := os.Rename(made, file); err != nil {
		return "", fmt.Errorf("store base: %w", err)
	}
	b.log("built base of %s in %.0fs", suite, time.Since(start).Seconds())
	return file, nil
}

// script runs one of the embedded scripts, contained.
func (b *builder) script(ctx context.Context, name string, log io.Writer, args ...string) error {
	return runContained(ctx, filepath.Join(b.cache, "work", name), log, args...)
}

func (b *builder) sourcesLine(suite string) string {
	if b.sources == "" {
		return ""
	}
	return fmt.Sprintf("deb %s %s main", b.sources, suite)
}

func (b *builder) baseHash(suite string) string {
	h := sha256.New()
	script, _ := content.ReadFile("scripts/base.sh") // embedded: cannot be absent
	fmt.Fprintf(h, "%s\n%s\n%s\n%q\n%s", cacheFormat, suite, b.sources, basePackages(), script)
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// hash covers everything that decides what is on the server's disk.
func (b *builder) hash(s Spec, files map[string]string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%q\n", b.baseHash(s.Suite), s.Suite, s.Packages)
	script, _ := content.ReadFile("scripts/server.sh") // embedded: cannot be absent
	fmt.Fprintf(h, "%q\n", script)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%s\n%q\n", name, files[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}
