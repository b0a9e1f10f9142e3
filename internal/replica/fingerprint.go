package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// Fingerprint is a digest of all that the point's directory has to be relied on for: its
// manifest and layout and facts by their bytes, and its disk by where each of its blocks
// lies. While a clone of the disk is there that nobody writes, every block is shared, and whatever is
// written to a shared block goes to another place: a disk of the same fingerprint before
// and after was not written in between. It takes no reading of the disk.
//
// Where the filesystem cannot share blocks the disk's data is read.
func (p *Point) Fingerprint(ctx context.Context) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("digest recovery point %s of %s: %w", p.ID, p.Manifest.Server, err)
		}
	}()
	h := blake3.New()
	for _, name := range []string{manifestFile, layoutFile, factsFile} {
		sum, err := fileDigest(p.Dir + "/" + name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %s\n", name, sum)
	}
	if err := diskFingerprint(ctx, h, p.Disk()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// Fingerprint is a digest of where the blocks of the replica's disk lie, which a pass
// changes. What it tells, see Point.Fingerprint: here it holds for the blocks that the
// newest point or a clone has too.
func (r *Replica) Fingerprint(ctx context.Context) (string, error) {
	h := blake3.New()
	if err := diskFingerprint(ctx, h, r.Disk()); err != nil {
		return "", fmt.Errorf("digest replica of %s: %w", r.name, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

func diskFingerprint(ctx context.Context, w io.Writer, disk string) (err error) {
	st, err := os.Stat(disk)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "size %d\n", st.Size())
	r, err := openExtents(disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var row [24]byte
	var last extent
	emit := func() {
		binary.LittleEndian.PutUint64(row[0:], uint64(last.logical))
		binary.LittleEndian.PutUint64(row[8:], uint64(last.physical))
		binary.LittleEndian.PutUint64(row[16:], uint64(last.length))
		w.Write(row[:]) // a digest takes everything
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, ok, err := r.read()
		switch {
		case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || ok && e.unplaced:
			return contentOf(ctx, w, disk)
		case err != nil:
			return err
		case !ok:
			emit()
			return nil
		}
		// How a stretch is told in pieces is the kernel's affair, and changes.
		if last.length > 0 && e.logical == last.end() && e.physical == last.physical+last.length {
			last.length += e.length
			continue
		}
		emit()
		last = e
	}
}

// contentOf digests the bytes of a disk whose blocks have no place of their own.
func contentOf(ctx context.Context, w io.Writer, disk string) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		w.Write(buf[:n]) // a digest takes everything
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
