package postgres

import (
	"regexp"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// objectsDDL is one of everything, statements apart by empty lines.
const objectsDDL = `CREATE SCHEMA shop

CREATE TYPE shop.mood AS ENUM ('sad', 'o''k', 'happy')

CREATE DOMAIN shop.email AS text CONSTRAINT email_check CHECK (VALUE LIKE '%@%')

CREATE TYPE shop.address AS (street text, "House No" int)

CREATE TYPE shop.pricerange AS RANGE (SUBTYPE = numeric)

CREATE COLLATION shop.plain (provider = libc, locale = 'C')

CREATE SEQUENCE shop.tickets START 100 INCREMENT 5 MINVALUE 50 MAXVALUE 9999 CACHE 3 CYCLE

CREATE FUNCTION shop.twice(n int, OUT doubled int) LANGUAGE sql IMMUTABLE AS 'SELECT n * 2'

CREATE FUNCTION shop.twice(t text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN t || t; END $$

CREATE FUNCTION shop.atomic(n int) RETURNS int LANGUAGE sql STABLE BEGIN ATOMIC; SELECT n + 1; END

CREATE PROCEDURE shop.nothing() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$

CREATE AGGREGATE shop.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')

CREATE TABLE shop.customers (id serial PRIMARY KEY, name varchar(40) COLLATE shop.plain NOT NULL DEFAULT 'x''y', mail shop.email, feels shop.mood DEFAULT 'sad',
	home shop.address, ticket bigint DEFAULT nextval('shop.tickets'), code char(3) COLLATE "C", CONSTRAINT name_not_empty CHECK (name <> ''))
	WITH (fillfactor = 70, autovacuum_enabled = true)

ALTER TABLE shop.customers ALTER mail SET STORAGE EXTERNAL, ALTER name SET STATISTICS 500

CREATE FUNCTION shop.of_customer(c shop.customers) RETURNS text LANGUAGE sql AS 'SELECT c.name'

CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 2) PRIMARY KEY, customer int NOT NULL REFERENCES shop.customers ON DELETE CASCADE,
	price numeric(10,2), doubled numeric GENERATED ALWAYS AS (price * 2) STORED, n int DEFAULT shop.twice(4), during int4range,
	"Odd ""name""" text, CONSTRAINT once UNIQUE (customer, price) DEFERRABLE INITIALLY DEFERRED, EXCLUDE USING gist (during WITH &&))

CREATE INDEX orders_price ON shop.orders (price DESC NULLS LAST, lower("Odd ""name""")) INCLUDE (n) WHERE n > 3

CREATE UNIQUE INDEX orders_n ON shop.orders ((n + 1))

CREATE INDEX ON shop.customers USING hash (name)

CREATE TABLE shop.events (at timestamptz NOT NULL, id int NOT NULL, what text, CHECK (id > 0), PRIMARY KEY (at, id)) PARTITION BY RANGE (at)

CREATE TABLE shop.events_2023 PARTITION OF shop.events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')

CREATE TABLE shop.events_2024 PARTITION OF shop.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id)

CREATE TABLE shop.events_2024_1 PARTITION OF shop.events_2024 FOR VALUES IN (1, 2)

CREATE TABLE shop.events_rest PARTITION OF shop.events DEFAULT

CREATE INDEX events_what ON shop.events (what)

CREATE TABLE shop.refers (at timestamptz, id int, FOREIGN KEY (at, id) REFERENCES shop.events)

ALTER TABLE shop.refers REPLICA IDENTITY FULL

CREATE TABLE shop.parent (id int NOT NULL, note text)

CREATE UNIQUE INDEX parent_id ON shop.parent (id)

ALTER TABLE shop.parent REPLICA IDENTITY USING INDEX parent_id

CREATE TABLE shop.child (extra int) INHERITS (shop.parent)

CREATE VIEW shop.rich WITH (security_barrier = true) AS SELECT c.id, c.name, shop.total(o.n) AS n FROM shop.customers c JOIN shop.orders o ON o.customer = c.id GROUP BY c.id

CREATE VIEW a_view_of_a_view AS SELECT * FROM shop.rich WHERE n > 1

CREATE MATERIALIZED VIEW shop.counts AS SELECT feels, count(*) AS n FROM shop.customers GROUP BY feels

CREATE UNIQUE INDEX ON shop.counts (feels)

CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $$

CREATE TRIGGER touched BEFORE UPDATE OF name ON shop.customers FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION shop.touch()

CREATE CONSTRAINT TRIGGER later AFTER INSERT ON shop.orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.touch()

CREATE TRIGGER off BEFORE INSERT ON shop.customers FOR EACH ROW EXECUTE FUNCTION shop.touch()

ALTER TABLE shop.customers DISABLE TRIGGER off

CREATE RULE guard AS ON DELETE TO shop.parent DO INSTEAD NOTHING

CREATE STATISTICS shop.linked (dependencies) ON customer, price FROM shop.orders

ALTER TABLE shop.customers ENABLE ROW LEVEL SECURITY

CREATE POLICY own_rows ON shop.customers FOR SELECT TO PUBLIC USING (name = CURRENT_USER)

CREATE TABLE shop.self (id int PRIMARY KEY, up int REFERENCES shop.self, CHECK (up <> id) NOT VALID)`

// TestDefinitions makes all objects at an empty target, in their order, and has
// pg_dump say whether the two databases are the same.
func TestDefinitions(t *testing.T) {
	e := open2(t, "")
	psql(t, e.src, strings.ReplaceAll(objectsDDL, "\n\n", ";\n\n"))
	psql(t, e.src, "CREATE EXTENSION hstore SCHEMA shop; CREATE TABLE shop.h (id int PRIMARY KEY, h shop.hstore)")
	s, err := e.s.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, late := range []bool{false, true} {
		for _, o := range s.Objects {
			if o.Late != late {
				continue
			}
			if err := e.d.Execute(t.Context(), o.Definition); err != nil {
				t.Fatalf("make %s %s: %v\n%s", o.Kind, o.Name, err, o.Definition)
			}
		}
	}
	clean := func(dsn string) string {
		d := dump(t, dsn, "-s", "--no-owner", "--no-privileges", "--no-comments")
		d = regexp.MustCompile(`(?m)^(--.*|\\(un)?restrict.*)?\n`).ReplaceAllString(d, "")
		return strings.ReplaceAll(d, " USING btree ", " ")
	}
	if a, b := clean(e.src), clean(e.dst); a != b {
		la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
		for i := range la {
			if i >= len(lb) || la[i] != lb[i] {
				t.Fatalf("the dumps differ at line %d\nsource:\n%s\ntarget:\n%s", i, strings.Join(la[max(0, i-3):min(len(la), i+8)], "\n"),
					strings.Join(lb[min(len(lb), max(0, i-3)):min(len(lb), i+8)], "\n"))
			}
		}
		t.Fatal("the target's dump is longer")
	}
	again, err := e.d.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[engine.Object]bool{}
	for _, o := range again.Objects {
		have[o] = true
	}
	for _, o := range s.Objects {
		if !have[o] {
			t.Errorf("the target has no such %s %s: %s", o.Kind, o.Name, o.Definition)
		}
	}
	if len(again.Objects) != len(s.Objects) || len(s.Objects) < 60 {
		t.Errorf("%d objects at the source, %d at the target", len(s.Objects), len(again.Objects))
	}
}

func TestFilterHidesWhatNeedsHiddenTables(t *testing.T) {
	e := open2(t, "")
	psql(t, e.src, strings.ReplaceAll(objectsDDL, "\n\n", ";\n\n"))
	src, err := Driver{}.Source(t.Context(), engine.Options{DSN: e.src, Tables: engine.Filter{Include: []string{"shop.*"}, Exclude: []string{"shop.customers", "shop.events*"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	s, err := src.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range s.Tables {
		if x.Name.Name == "customers" {
			t.Error("an excluded table is there")
		}
	}
	for _, o := range s.Objects {
		if strings.Contains(o.Definition, "customers") && o.Kind != "routine" {
			t.Errorf("%s %s needs an excluded table: %s", o.Kind, o.Name, o.Definition)
		}
		if err := e.d.Execute(t.Context(), o.Definition); err != nil {
			t.Errorf("make %s %s: %v", o.Kind, o.Name, err)
		}
	}
}
