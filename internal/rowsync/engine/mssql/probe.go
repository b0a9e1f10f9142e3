package mssql

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
)

// caps is what a server and a database can do, as probed.
type caps struct {
	dialect
	name, edition, version string // of the database and the server, for people
	collation, login       string
	readOnly               bool
	changeTracking         bool
	snapshotOn             atomic.Bool // snapshot isolation is on
	appLock                bool        // sp_getapplock
	writePart              bool        // UPDATE … SET c.WRITE(…)
	marks                  bool        // sp_set_session_context
	hashesUTF16            bool
	canUTF8                bool
}

// probe asks the server what it can do. Only what cannot be done without is an error.
func (d *database) probe(ctx context.Context) error {
	s, err := d.session(ctx)
	if err != nil {
		return err
	}
	defer s.end()
	c := &d.caps
	var edition, version, collation, login *string
	if err := s.QueryRowContext(ctx, sqlServer()).Scan(&c.name, &edition, &version, &collation, &login); err != nil {
		return err
	}
	c.edition, c.version, c.collation, c.login = value(edition), value(version), value(collation), value(login)
	var update *string
	if err := s.QueryRowContext(ctx, sqlProbeUpdateable()).Scan(&update); err == nil {
		c.readOnly = value(update) == "READ_ONLY"
	}
	c.snapshotOn.Store(s.snapshotState(ctx) == snapshotIsOn)
	var v *int64
	c.changeTracking = s.QueryRowContext(ctx, sqlProbeChangeTracking()).Scan(&v) == nil
	if err := c.probeText(ctx, s); err != nil {
		return err
	}
	if c.collation != "" {
		_, err := s.exec(ctx, sqlProbeCollate(c.collation))
		c.Collate = err == nil
	}
	_, err = s.exec(ctx, sqlProbeRowCount())
	c.RowCount = err == nil
	_, err = s.exec(ctx, sqlProbeWrite())
	c.writePart = err == nil
	_, err = s.exec(ctx, sqlMarkSession())
	c.marks = err == nil
	_, err = s.exec(ctx, sqlProbeAppLock())
	c.appLock = err == nil
	return nil
}

// States of snapshot isolation, as sys.databases has them.
const (
	snapshotIsOff     = 0
	snapshotIsOn      = 1
	snapshotComingOn  = 3
	snapshotIsUnknown = -1
)

func (s *session) snapshotState(ctx context.Context) int {
	state := snapshotIsUnknown
	if err := s.QueryRowContext(ctx, sqlProbeSnapshot()).Scan(&state); err != nil {
		return snapshotIsUnknown
	}
	return state
}

// probeText finds out how characters become bytes, and what is hashed of them.
func (c *caps) probeText(ctx context.Context, s *session) error {
	var b []byte
	if err := s.QueryRowContext(ctx, sqlProbeUTF16()).Scan(&b); err == nil {
		c.UTF16 = bytes.Equal(b, []byte{0x36, 0x04})
	}
	var h []byte
	if err := s.QueryRowContext(ctx, sqlProbeHash()).Scan(&h); err != nil {
		return fmt.Errorf("hash: %w", err)
	}
	of16 := sha256.Sum256(toUTF16([]byte("жz")))
	of8 := sha256.Sum256([]byte("жz"))
	switch {
	case bytes.Equal(h, of16[:]):
		c.hashesUTF16 = true
	case !bytes.Equal(h, of8[:]):
		return fmt.Errorf("HASHBYTES of this server hashes neither the UTF-16 nor the UTF-8 of characters: rows cannot be compared")
	}
	if c.hashesUTF16 {
		h = nil
		err := s.QueryRowContext(ctx, sqlProbeUTF8()).Scan(&h)
		c.canUTF8 = err == nil && bytes.Equal(h, of8[:])
	}
	var one int
	c.Float3 = s.QueryRowContext(ctx, sqlProbeFloat()).Scan(&one) == nil && one == 1
	return nil
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// DigestForms names the ways in which rows can be hashed here, the preferred one
// first. Both ends of a stream must use the same.
func (d *database) DigestForms() []string {
	switch {
	case !d.hashesUTF16:
		return []string{"utf8" + d.floatForm()}
	case d.canUTF8:
		return []string{"utf16" + d.floatForm(), "utf8" + d.floatForm()}
	}
	return []string{"utf16" + d.floatForm()}
}

func (d *database) floatForm() string {
	if d.Float3 {
		return ""
	}
	return "-shortfloat"
}

// UseDigestForm chooses one of DigestForms. It must be called before the first digest.
func (d *database) UseDigestForm(form string) error {
	for _, f := range d.DigestForms() {
		if f == form {
			d.UTF8 = d.hashesUTF16 && form == "utf8"+d.floatForm()
			return nil
		}
	}
	return fmt.Errorf("rows cannot be hashed as %s here", form)
}
