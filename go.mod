module github.com/leeward-dr/leeward

go 1.26.0

require (
	github.com/go-mysql-org/go-mysql v1.13.0 // the row binlog of MariaDB and MySQL; its replication package only
	github.com/go-sql-driver/mysql v1.10.1 // queries of MariaDB and MySQL, and LOAD DATA from a reader
	github.com/jackc/pgx/v5 v5.12.0 // the wire protocol of PostgreSQL, COPY and logical replication; its pgconn and pgproto3 alone
	github.com/klauspost/compress v1.20.4 // zstd and gzip in Go: what travels is compressed on sources that have no tool for it
	github.com/microsoft/go-mssqldb v1.11.2 // TDS: the protocol of Microsoft SQL Server, with its bulk copy
	github.com/miekg/dns v1.1.73 // DNS messages, dynamic updates and their signatures: clients are led to the other site
	github.com/pierrec/lz4/v4 v4.1.33 // to read initramfs images packed with lz4, Ubuntu's former default
	github.com/ulikunitz/xz v0.5.17 // to read initramfs images and kernel modules packed with xz
	github.com/zeebo/blake3 v0.2.4 // BLAKE3 with vector code: every byte that is read is hashed
	go.etcd.io/bbolt v1.5.0 // catalogs: a crash-safe ordered map on disk, so that a million files need little memory
	go.yaml.in/yaml/v3 v3.0.6 // leeward.yaml as nodes with line numbers
	golang.org/x/sys v0.50.0 // system calls: mounts, namespaces, loop devices, file flags
	golang.org/x/time v0.16.0 // rate limits
	google.golang.org/protobuf v1.36.12 // the protocol between Leeward and its agent, typed and versioned
)

require (
	filippo.io/edwards25519 v1.2.0 // indirect
	github.com/goccy/go-json v0.10.2 // indirect
	github.com/golang-sql/civil v0.0.0-20220223132316-b832511892a9 // indirect
	github.com/golang-sql/sqlexp v0.1.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/klauspost/cpuid/v2 v2.0.12 // indirect
	github.com/pingcap/errors v0.11.5-0.20250318082626-8f80e5cb09ec // indirect
	github.com/pingcap/log v1.1.1-0.20241212030209-7e3ff8601a2a // indirect
	github.com/pingcap/tidb/pkg/parser v0.0.0-20250421232622-526b2c79173d // indirect
	github.com/shopspring/decimal v1.4.0 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.27.0 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/net v0.58.0 // indirect
	golang.org/x/text v0.41.0 // indirect
	gopkg.in/natefinch/lumberjack.v2 v2.2.1 // indirect
)
