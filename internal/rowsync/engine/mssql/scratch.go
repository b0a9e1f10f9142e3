package mssql

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	mssql "github.com/microsoft/go-mssqldb"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Scratch is a pair of new, empty databases for the suite that every driver must pass:
// leeward selftest runs it on a user's own servers, and touches nothing else there. The
// login needs CREATE ANY DATABASE.
type Scratch struct {
	Source, Target engine.Options
	servers        [2]engine.Options
	names          [2]string
}

// NewScratch makes a database at each of two servers, which may be one.
func NewScratch(ctx context.Context, source, target engine.Options) (*Scratch, error) {
	tag := strings.ToLower(rand.Text()[:10])
	s := &Scratch{servers: [2]engine.Options{source, target}, names: [2]string{"leeward_selftest_" + tag + "_s", "leeward_selftest_" + tag + "_t"}}
	var options [2]engine.Options
	for i, o := range s.servers {
		if err := atServer(ctx, o, sqlCreateDatabase(s.names[i])); err != nil {
			return nil, errors.Join(fmt.Errorf("make scratch database %s: %w", s.names[i], err), s.Close())
		}
		// A server that cannot do it reads versions anyway.
		_ = atServer(ctx, o, sqlReadVersions(s.names[i]))
		options[i] = o
		var err error
		if options[i].DSN, err = withDatabase(o.DSN, s.names[i]); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		options[i].Tables = engine.Filter{}
	}
	s.Source, s.Target = options[0], options[1]
	return s, nil
}

// withDatabase makes a DSN name another database. Both forms of a DSN let settings be
// said more than once only in one of them, so the URL's is replaced.
func withDatabase(dsn, name string) (string, error) {
	if !strings.Contains(dsn, "://") {
		return strings.TrimRight(dsn, "; ") + ";database=" + name, nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New("read the DSN: it is no URL") // the cause would repeat the password
	}
	q := u.Query()
	for k := range q {
		if strings.EqualFold(k, "database") {
			q.Del(k)
		}
	}
	q.Set("database", name)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func atServer(ctx context.Context, o engine.Options, statement string) error {
	d, err := openDatabase(ctx, o, "master")
	if err != nil {
		return err
	}
	defer d.Close()
	s, err := d.session(ctx)
	if err != nil {
		return err
	}
	defer s.end()
	_, err = s.exec(ctx, statement)
	return err
}

const (
	dropTries = 20
	dropWait  = 500 * time.Millisecond
)

// Close removes the databases. Sessions of the suite may take a moment to go.
func (s *Scratch) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for i, name := range s.names {
		// Where the server cannot do it, only our own sessions are in there.
		_ = atServer(ctx, s.servers[i], sqlEndSessions(name, 0))
		var err error
		for range dropTries {
			if err = atServer(ctx, s.servers[i], sqlDropDatabase(name)); err == nil || number(err) == 3701 {
				err = nil
				break
			}
			if e := sleep(ctx, dropWait); e != nil {
				break
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove scratch database %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Session is a connection as an application has it.
type Session struct{ s *session }

// Connect opens one.
func Connect(ctx context.Context, o engine.Options) (*Session, error) {
	d, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	s, err := d.session(ctx)
	if err != nil {
		d.Close()
		return nil, err
	}
	return &Session{s}, nil
}

// Exec runs one batch.
func (s *Session) Exec(ctx context.Context, statement string) error {
	_, err := s.s.exec(ctx, statement)
	return err
}

// Query returns values as text.
func (s *Session) Query(ctx context.Context, query string) ([]engine.Row, error) {
	rows, err := s.s.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	var out []engine.Row
	for rows.Next() {
		values := make([]any, len(types))
		into := make([]any, len(types))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		r := make(engine.Row, len(types))
		for i, v := range values {
			r[i] = plainText(types[i].DatabaseTypeName(), v)
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func plainText(name string, v any) []byte {
	switch v := v.(type) {
	case nil:
		return nil
	case []byte:
		return append([]byte{}, v...)
	case mssql.UniqueIdentifier:
		return []byte(v.String())
	case time.Time:
		return []byte(v.Format(offsetForm))
	case float64:
		t := typ{kind: kindFloat}
		if name == "REAL" {
			t.kind = kindReal
		}
		b, _ := t.encode(v)
		return b
	}
	b, err := typ{}.encode(v)
	if err != nil {
		return []byte(fmt.Sprint(v))
	}
	return b
}

// Close ends it.
func (s *Session) Close() error { return errors.Join(s.s.end(), s.s.d.Close()) }

// PossibleShapes returns the shapes whose tables a server can make, and the names of
// the others with what it said.
func PossibleShapes(ctx context.Context, o engine.Options) (out []Shape, lacking []string, err error) {
	scratch, err := NewScratch(ctx, o, o)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	s, err := Connect(ctx, scratch.Source)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	for _, shape := range Shapes() {
		var refused error
		for _, q := range append(shape.Create, shape.Fill...) {
			if refused = s.Exec(ctx, q); refused != nil {
				break
			}
		}
		if refused != nil {
			lacking = append(lacking, fmt.Sprintf("%s: %v", shape.Name, refused))
			continue
		}
		out = append(out, shape)
	}
	return out, lacking, nil
}

// Expire makes a source of the suite lose its history, as a restore to an earlier time
// does: the record of its streams goes.
func Expire(ctx context.Context, o engine.Options) error {
	s, err := Connect(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Exec(ctx, sqlForgetStreams())
}
