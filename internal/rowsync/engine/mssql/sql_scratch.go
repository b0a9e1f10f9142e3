package mssql

// sqlCreateDatabase makes a scratch database for leeward selftest.
func sqlCreateDatabase(name string) string { return "CREATE DATABASE " + id(name) }

// sqlDropDatabase removes it.
func sqlDropDatabase(name string) string { return "DROP DATABASE " + id(name) }

// sqlForgetStreams empties the record of streams of a scratch database.
func sqlForgetStreams() string { return "DELETE FROM [leeward].[stream]" }

// sqlReadVersions lets readers of a scratch database see one state of it without
// asking for one, so that the suite can add up accounts while they change hands.
func sqlReadVersions(name string) string {
	return "ALTER DATABASE " + id(name) + " SET READ_COMMITTED_SNAPSHOT ON"
}
