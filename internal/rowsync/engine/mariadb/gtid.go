package mariadb

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// gtid is the last transaction of a domain.
type gtid struct {
	server uint32
	seq    uint64
}

// gtids is a place in the history of a server: the last transaction of each domain.
type gtids map[uint32]gtid

// parseGTIDs reads 0-1-77,5-2-9. The empty string is the beginning.
func parseGTIDs(s string) (gtids, error) {
	out := gtids{}
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		f := strings.Split(part, "-")
		if len(f) != 3 {
			return nil, fmt.Errorf("read position %q: want domain-server-sequence", s)
		}
		domain, err1 := strconv.ParseUint(f[0], 10, 32)
		server, err2 := strconv.ParseUint(f[1], 10, 32)
		seq, err3 := strconv.ParseUint(f[2], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("read position %q: %w", s, err)
		}
		if old, ok := out[uint32(domain)]; !ok || old.seq < seq {
			out[uint32(domain)] = gtid{uint32(server), seq}
		}
	}
	return out, nil
}

func (g gtids) pos() engine.Pos {
	var parts []string
	for _, d := range slices.Sorted(maps.Keys(g)) {
		parts = append(parts, fmt.Sprintf("%d-%d-%d", d, g[d].server, g[d].seq))
	}
	return engine.Pos(strings.Join(parts, ","))
}

// covers reports whether everything up to h is up to g too.
func (g gtids) covers(h gtids) bool {
	for d, x := range h {
		if g[d].seq < x.seq {
			return false
		}
	}
	return true
}

// Before implements engine.History.
func (s *Source) Before(a, b engine.Pos) (bool, error) {
	x, err := parseGTIDs(string(a))
	if err != nil {
		return false, err
	}
	y, err := parseGTIDs(string(b))
	if err != nil {
		return false, err
	}
	return y.covers(x) && !x.covers(y), nil
}
