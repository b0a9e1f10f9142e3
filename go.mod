module github.com/leeward-dr/leeward

go 1.26.0

require (
	github.com/klauspost/compress v1.20.4 // zstd and gzip in Go: what travels is compressed on sources that have no tool for it
	github.com/pierrec/lz4/v4 v4.1.33 // to read initramfs images packed with lz4, Ubuntu's former default
	github.com/ulikunitz/xz v0.5.17 // to read initramfs images and kernel modules packed with xz
	github.com/zeebo/blake3 v0.2.4 // BLAKE3 with vector code: every byte that is read is hashed
	go.etcd.io/bbolt v1.5.0 // catalogs: a crash-safe ordered map on disk, so that a million files need little memory
	go.yaml.in/yaml/v3 v3.0.6 // leeward.yaml as nodes with line numbers
	golang.org/x/sys v0.50.0 // system calls: mounts, namespaces, loop devices, file flags
	golang.org/x/time v0.16.0 // rate limits
	google.golang.org/protobuf v1.36.12 // the protocol between Leeward and its agent, typed and versioned
)

require github.com/klauspost/cpuid/v2 v2.0.12 // indirect
