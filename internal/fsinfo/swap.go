package fsinfo

import (
	"io"
)

// ParseSwap reads the header of a swap area, whose signature ends its first page:
// the page size of the machine that made it is found by trying.
func ParseSwap(r io.ReaderAt) (*Info, error) {
	for _, page := range []int{4096, 8192, 16384, 32768, 65536} {
		sig, err := readBlock(r, int64(page)-10, 10)
		if err != nil {
			return nil, err
		}
		if string(sig) != "SWAPSPACE2" {
			continue
		}
		b, err := readBlock(r, 1024, 44)
		if err != nil {
			return nil, err
		}
		if b.u32l(0) != 1 {
			return nil, ErrUnknown // another byte order, or an older kind
		}
		return &Info{Type: "swap", UUID: b.uuid(12), Label: b.text(28, 16), BlockSize: uint32(page),
			SizeBytes: (uint64(b.u32l(4)) + 1) * uint64(page), Params: map[string]string{}}, nil
	}
	return nil, ErrUnknown
}
