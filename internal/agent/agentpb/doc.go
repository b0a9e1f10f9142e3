// Package agentpb is the schema of the protocol between Leeward and its agent.
// The .proto files beside it are the source; `make proto` writes the Go.
package agentpb

// Protocol is the version both ends must share. It changes with any change that
// an older end would misread.
const Protocol = 1
