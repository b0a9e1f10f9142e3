package switchover

import (
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
)

// asideDir is where in the store rows are kept that going home would overwrite.
const asideDir = "set-aside"

// NewWorld is the world of an estate as it is: its databases, its servers, its name
// service. store is where the data of the target's store is, dir where the state is
// kept. Nobody is reached yet. The caller sets Asker.
func NewWorld(e *config.Estate, store, dir string) *World {
	sh := &Shells{Estate: e}
	rows := &Rows{Estate: e, Store: store}
	w := &World{
		Databases: rows, Tokens: rows, State: NewFile(dir), Shell: sh, Now: time.Now, Aside: filepath.Join(store, asideDir),
		Names: &Redirects{Redirects: e.Switchover.Redirect, Shell: sh, Secret: SecretOf},
		Hosts: &Servers{Estate: e, Shell: sh}, Machines: NewGuests(e, store), Guests: &away{e},
	}
	if e.Switchover.Failback != nil {
		w.Home = &home{estate: e}
	}
	return w
}
