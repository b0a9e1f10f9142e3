// Package postgres drives PostgreSQL 12 and newer: changes come from a logical slot
// whose exported snapshot the seed reads, digests are computed in the server, and
// rows travel by COPY.
//
// Everything it makes at a source carries the name of the stream; everything it
// makes at a target is in the schema leeward, but for one trigger on each table that
// tells of foreign writes. Values travel as the text that PostgreSQL itself prints
// with pinned settings, and in COPY in its binary form where both ends read that
// alike.
package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// ownSchema holds what a target remembers.
const ownSchema = "leeward"

const oldest = 120000 // the server_version_num below which nothing is tried

// Driver opens databases of PostgreSQL.
type Driver struct{}

var _ engine.Driver = Driver{}

// Source opens a database that is replicated.
func (Driver) Source(ctx context.Context, o engine.Options) (engine.Source, error) {
	d, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &source{database: d, slots: map[string]*slot{}}, nil
}

// Target opens a database that is brought up to date.
func (Driver) Target(ctx context.Context, o engine.Options) (engine.Target, error) {
	d, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &target{database: d, appliers: newPool(d.settings.session(applying()))}, nil
}

// database is what both ends have in common.
type database struct {
	reader   // committed data
	known    *relations
	catalog  *pool // for the catalogue and everything that is not bulk
	version  int   // server_version_num
	name     string
	settings settings
}

func open(ctx context.Context, o engine.Options) (*database, error) {
	s, err := parse(o)
	if err != nil {
		return nil, err
	}
	d := &database{settings: s, catalog: newPool(s.session(nil))}
	d.known = &relations{catalog: d.catalog, filter: o.Tables}
	d.reader = reader{take: newPool(s.session(scanning())), known: d.known}
	rows, err := d.catalog.query(ctx, "SELECT current_setting('server_version_num'), current_database()")
	if err != nil {
		d.shut()
		return nil, fmt.Errorf("open database: %w", err)
	}
	d.version, d.name = number(rows[0][0]), string(rows[0][1])
	if d.version < oldest {
		d.shut()
		return nil, fmt.Errorf("open database %s: PostgreSQL %d is too old, 12 is the oldest that can be replicated", d.name, d.version/10000)
	}
	return d, nil
}

func (d *database) shut() {
	d.catalog.close()
	if p, ok := d.take.(*pool); ok {
		p.close()
	}
}

// objectName spells a name that a server allows for slots, and that tells streams apart
// whatever they are called.
func objectName(stream string) string {
	var b strings.Builder
	b.WriteString("leeward_")
	for _, r := range strings.ToLower(stream) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			b.WriteRune(r)
		} else {
			b.WriteByte('_')
		}
	}
	name := b.String()
	if name == "leeward_"+stream && len(name) < 54 {
		return name
	}
	sum := sha256.Sum256([]byte(stream))
	return name[:min(len(name), 45)] + "_" + hex.EncodeToString(sum[:4])
}
