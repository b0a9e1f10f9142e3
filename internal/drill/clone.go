package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const copyStep = 64 << 20

// CloneFile makes dst, which must not exist, a copy of src. They share blocks
// where the filesystem can; elsewhere data is copied and holes stay holes.
func CloneFile(ctx context.Context, src, dst string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); at < st.Size(); {
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole to the end
		}
		if err != nil {
			return fmt.Errorf("find data in %s: %w", src, err)
		}
		end, err := in.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find data in %s: %w", src, err)
		}
		if err := copyRange(ctx, out, in, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func copyRange(ctx context.Context, out, in *os.File, start, end int64) error {
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(end-start, copyStep)
		if _, err := in.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, n); err != nil {
			return err
		}
		start += n
	}
	return nil
}
