// Package selftest is the suite that every driver must pass, made ready to run on a
// user's own SQL Servers, of which none can be had for the tests. It works in scratch
// databases and touches nothing else there.
package selftest

import (
	"context"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/mssql"
)

// MSSQL returns what the suite needs to run against two servers, which may be one, and
// the tables that the source cannot make, with why.
func MSSQL(ctx context.Context, source, target engine.Options) (f enginetest.Factory, leftOut []string, err error) {
	shapes, leftOut, err := mssql.PossibleShapes(ctx, source)
	if err != nil {
		return f, nil, err
	}
	f = enginetest.Factory{
		Driver:  mssql.Driver{},
		Scratch: func(ctx context.Context) (enginetest.Scratch, error) { return scratch(ctx, source, target) },
		Dialect: enginetest.Dialect{
			Begin: mssql.Begin, Savepoint: mssql.Savepoint, RollbackTo: mssql.RollbackTo, Identity: mssql.Identity, Objects: mssql.Objects(),
		},
		Expire: func(ctx context.Context, s enginetest.Scratch) error { return mssql.Expire(ctx, s.Source.Options) },
	}
	for _, s := range shapes {
		f.Shapes = append(f.Shapes, enginetest.Shape(s))
	}
	return f, leftOut, nil
}

func scratch(ctx context.Context, source, target engine.Options) (enginetest.Scratch, error) {
	s, err := mssql.NewScratch(ctx, source, target)
	if err != nil {
		return enginetest.Scratch{}, err
	}
	connect := func(o engine.Options) func(context.Context) (enginetest.Session, error) {
		return func(ctx context.Context) (enginetest.Session, error) { return mssql.Connect(ctx, o) }
	}
	return enginetest.Scratch{
		Source: enginetest.End{Options: s.Source, Connect: connect(s.Source)},
		Target: enginetest.End{Options: s.Target, Connect: connect(s.Target)},
		Close:  s.Close,
	}, nil
}
