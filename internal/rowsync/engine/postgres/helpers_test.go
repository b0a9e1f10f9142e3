package postgres

import (
	"bufio"
	"bytes"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func newBuffered(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

func testTable() *engine.Table {
	return &engine.Table{Name: engine.Name{Schema: "s", Name: "t"}, Columns: []engine.Column{{Name: "id"}, {Name: "big"}}, Key: []int{0}}
}

// testChanges swap two rows whose large values do not travel, and more.
func testChanges(row func(id, big string) [][]byte, unset []bool) []engine.Change {
	n := engine.Name{Schema: "s", Name: "t"}
	key := func(id string) engine.Row { return engine.Row{[]byte(id)} }
	move := func(from, to string) engine.Change {
		return engine.Change{Table: n, Old: key(from), New: row(to, ""), Unset: unset}
	}
	return []engine.Change{
		move("1", "t"), move("2", "1"), move("t", "2"),
		{Table: n, New: row("3", "old")}, {Table: n, New: row("3", "new")},
		{Table: n, New: row("4", "x")}, {Table: n, Old: key("4")},
		{Table: n, New: row("5", "x")}, move("5", "6"),
	}
}
