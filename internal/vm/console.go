package vm

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"
)

// Sign is something a serial console says of how far a boot has come, or why it
// goes no further.
type Sign string

// Steps of a boot, in order.
const (
	SignFirmware Sign = "firmware"
	SignLoader   Sign = "loader"
	SignKernel   Sign = "kernel"
	SignRoot     Sign = "root"
	SignInit     Sign = "init"
	SignLogin    Sign = "login"
)

// Ends of a boot that failed.
const (
	SignNoBootDevice  Sign = "no bootable device"
	SignShell         Sign = "UEFI shell"
	SignLoaderError   Sign = "boot loader error"
	SignPanic         Sign = "kernel panic"
	SignInitramfs     Sign = "initramfs shell"
	SignNoRoot        Sign = "root not found"
	SignEmergency     Sign = "emergency mode"
	SignCPUTooOld     Sign = "processor too old"
	SignOutOfMemory   Sign = "out of memory"
	SignIllegalInstr  Sign = "illegal instruction"
	SignSwitchStalled Sign = "no init"
)

// pattern maps a piece of a console line to the sign it gives.
type pattern struct {
	text string
	sign Sign
}

// patterns are matched against each line, stripped of escape sequences.
var patterns = [...]pattern{
	{"SeaBIOS", SignFirmware}, {"BdsDxe: loading", SignFirmware}, {"BdsDxe: starting", SignFirmware},
	{"GRUB", SignLoader}, {"leeward: loading", SignLoader},
	{"Linux version ", SignKernel}, {"Run /init as init process", SignKernel},
	{"init-bottom", SignRoot}, {"Switching root", SignRoot}, {"Switch Root", SignRoot}, {"mounted filesystem", SignRoot},
	{"XFS (", SignRoot}, {"Reached target initrd-root-fs.target", SignRoot},
	{"systemd[1]: Detected architecture", SignInit}, {"Welcome to ", SignInit}, {"INIT: version", SignInit},
	{"OpenRC ", SignInit}, {"systemd[1]: Detected virtualization", SignInit},
	{" login:", SignLogin},

	{"No bootable device", SignNoBootDevice}, {"Boot failed: not a bootable disk", SignNoBootDevice},
	{"BdsDxe: No bootable option", SignNoBootDevice}, {"BdsDxe: failed to load Boot", SignNoBootDevice},
	{"UEFI Interactive Shell", SignShell}, {"Shell> ", SignShell},
	{"grub rescue>", SignLoaderError}, {"error: no such device", SignLoaderError}, {"error: file `", SignLoaderError},
	{"error: unknown filesystem", SignLoaderError}, {"error: disk `", SignLoaderError}, {"grub> ", SignLoaderError},
	{"error: you need to load the kernel first", SignLoaderError}, {"error: invalid magic number", SignLoaderError},
	{"Kernel panic - not syncing", SignPanic},
	{"(initramfs)", SignInitramfs}, {"dracut:/#", SignInitramfs}, {"[rootfs ", SignInitramfs},
	{"Entering emergency mode. Exit the shell to continue", SignInitramfs}, {"initramfs emergency recovery shell", SignInitramfs},
	{"ALERT!", SignNoRoot}, {"VFS: Unable to mount root fs", SignNoRoot}, {"VFS: Cannot open root device", SignNoRoot},
	{"dracut-initqueue timeout", SignNoRoot},
	{"You are in emergency mode", SignEmergency}, {"Give root password for maintenance", SignEmergency},
	{"Cannot open access to console, the root account is locked", SignEmergency},
	{"CPU does not support x86-64", SignCPUTooOld}, {"This kernel requires an x86-64 CPU", SignCPUTooOld},
	{"Out of memory: Killed process", SignOutOfMemory}, {"System is deadlocked on memory", SignOutOfMemory},
	{"out of memory", SignOutOfMemory}, {"trap invalid opcode", SignIllegalInstr},
	{"No init found", SignSwitchStalled}, {"No working init found", SignSwitchStalled},
}

// Sighting is the first time a sign was seen.
type Sighting struct {
	Sign Sign
	At   time.Time
	Line string
}

// Console follows what a machine writes to its serial console. All methods may
// be called concurrently.
type Console struct {
	log io.Writer // receives everything; may be nil

	mu        sync.Mutex // guards what follows
	line      []byte
	escape    escapeState
	tail      []string
	bytes     int64
	sightings []Sighting
	changed   chan struct{} // closed and replaced at each new sighting
}

type escapeState int

const (
	plain escapeState = iota
	afterEscape
	inSequence
	inString
)

const (
	maxLine  = 1024 // longer lines are cut: a guest must not fill our memory
	tailKept = 400  // the ground of a failure stands well above its end
)

// NewConsole returns a console that copies what is written to it to log, which may
// be nil.
func NewConsole(log io.Writer) *Console {
	return &Console{log: log, changed: make(chan struct{})}
}

// Write takes what the machine printed. It never fails on account of the log.
func (c *Console) Write(p []byte) (int, error) {
	if c.log != nil {
		c.log.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += int64(len(p))
	for _, b := range p {
		c.put(b)
	}
	c.match() // a prompt ends without a newline
	return len(p), nil
}

// put takes one byte, dropping terminal escape sequences.
func (c *Console) put(b byte) {
	switch c.escape {
	case afterEscape:
		switch b {
		case '[':
			c.escape = inSequence
		case ']', 'P', '^', '_':
			c.escape = inString
		default:
			c.escape = plain
		}
		return
	case inSequence:
		if b >= 0x40 && b <= 0x7e {
			c.escape = plain
		}
		return
	case inString:
		if b == 7 || b == '\\' || b == '\n' {
			c.escape = plain
		}
		return
	}
	switch {
	case b == 0x1b:
		c.escape = afterEscape
	case b == '\n':
		c.endLine()
	case b < 0x20 && b != '\t' || b == 0x7f:
	default:
		c.line = append(c.line, b)
		if len(c.line) >= maxLine {
			c.endLine()
		}
	}
}

func (c *Console) endLine() {
	c.match()
	if text := strings.ToValidUTF8(string(bytes.TrimSpace(c.line)), "?"); text != "" {
		if len(c.tail) >= tailKept {
			c.tail = append(c.tail[:0], c.tail[1:]...)
		}
		c.tail = append(c.tail, text)
	}
	c.line = c.line[:0]
}

func (c *Console) match() {
	for _, p := range patterns {
		if bytes.Contains(c.line, []byte(p.text)) && !c.has(p.sign) {
			c.sightings = append(c.sightings, Sighting{p.sign, time.Now(),
				strings.ToValidUTF8(string(bytes.TrimSpace(c.line)), "?")})
			close(c.changed)
			c.changed = make(chan struct{})
		}
	}
}

func (c *Console) has(s Sign) bool {
	for _, seen := range c.sightings {
		if seen.Sign == s {
			return true
		}
	}
	return false
}

// Sightings returns the signs seen so far, first ones first.
func (c *Console) Sightings() []Sighting {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Sighting(nil), c.sightings...)
}

// Seen returns the first sighting of any of the signs, in the order of time.
func (c *Console) Seen(signs ...Sign) (Sighting, bool) {
	seen, _ := c.seen(signs)
	return seen, seen.Sign != ""
}

func (c *Console) seen(signs []Sign) (Sighting, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sightings {
		for _, want := range signs {
			if s.Sign == want {
				return s, c.changed
			}
		}
	}
	return Sighting{}, c.changed
}

// WaitFor waits until one of the signs is seen.
func (c *Console) WaitFor(ctx context.Context, signs ...Sign) (Sighting, error) {
	for {
		seen, changed := c.seen(signs)
		if seen.Sign != "" {
			return seen, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Sighting{}, ctx.Err()
		}
	}
}

// Tail returns the last lines printed, the unfinished one included.
func (c *Console) Tail() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	tail := append([]string(nil), c.tail...)
	if text := strings.ToValidUTF8(string(bytes.TrimSpace(c.line)), "?"); text != "" {
		tail = append(tail, text)
	}
	return tail
}

// Bytes counts what was printed.
func (c *Console) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
