package switchover

import (
	"fmt"

	"github.com/leeward-dr/leeward/internal/config"
)

// handPhysical gives the engine's own tools what a step does to a physical copy; ok is
// false where that is what it does to rows.
func (b *builder) handPhysical(action string, db *config.Database, way Way) (out []string, ok bool) {
	from, to, end := client{db, db.Source.DSN}, client{db, db.Target.DSN}, db.Target
	if way == Back {
		from, to, end = to, from, db.Source
	}
	maria := db.Engine == "mariadb"
	switch action {
	case actionPreflight:
		if maria {
			return []string{from.sql("SELECT 1"), to.sql("SHOW SLAVE STATUS")}, true
		}
		return []string{from.sql("SELECT * FROM pg_stat_replication"), to.sql("SELECT pg_is_in_recovery(), * FROM pg_stat_wal_receiver")}, true
	case actionCatchUp, actionDrain:
		if maria {
			return []string{from.sql("SELECT @@GLOBAL.gtid_binlog_pos"), to.sql("SELECT MASTER_GTID_WAIT('POSITION')") + "  # that of the other end"}, true
		}
		return []string{from.sql("SELECT pg_current_wal_lsn()"), to.sql("SELECT pg_last_wal_replay_lsn()") + "  # until it is there"}, true
	case actionReverse:
		return rejoinCommands(from, to, end), true
	case actionFence:
		if maria {
			return from.fence(), true
		}
		return append(from.fence(), "# the same for each other database of that server"), true
	case actionPromote, actionFailover:
		if maria {
			return append([]string{to.sql("STOP SLAVE IO_THREAD") + "  # then wait: SHOW SLAVE STATUS has read all relay log", to.sql("STOP SLAVE; RESET SLAVE ALL")}, to.unfence()...), true
		}
		return append([]string{to.sql("SELECT pg_promote()")}, to.unfence()...), true
	}
	return nil, false
}

// rejoinCommands make a server the standby of the one that took its place.
func rejoinCommands(from, to client, end config.Endpoint) []string {
	data := "DATA"
	if end.Server != nil {
		data = end.Server.Data
	}
	if from.db.Engine == "mariadb" {
		return []string{to.sql("SET GLOBAL gtid_slave_pos = @@GLOBAL.gtid_binlog_pos"),
			to.sql("CHANGE MASTER TO master_host = 'HOST', master_user = 'USER', master_password = 'SECRET', master_use_gtid = slave_pos") + "  # of the other end",
			to.sql("SET GLOBAL read_only = 1; START SLAVE")}
	}
	return []string{fmt.Sprintf("pg_ctl stop -m fast -D %s  # there, as its owner, unless it is a standby already", quote(data)),
		fmt.Sprintf("pg_rewind --target-pgdata %s --source-server %s --write-recovery-conf", quote(data), quote(from.dsn)),
		fmt.Sprintf("pg_ctl start -D %s", quote(data))}
}

// wholeNotes says what moves along with a physical copy.
func (b *builder) wholeNotes(names []string) {
	for _, name := range names {
		if db := b.e.Database(name); db != nil && db.Mode == modePhysical {
			b.note("%s is replicated as a whole server: every database of that server is fenced and moves with it", name)
		}
	}
}
