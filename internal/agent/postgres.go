package agent

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// Postgres is the service that holds PostgreSQL servers in backup mode while their
// files are copied, by PostgreSQL's own psql and as the user the server runs as.
// See "Making a Base Backup Using the Low Level API" in PostgreSQL's manual.
type Postgres struct{}

// Handlers returns the call the service answers.
func (Postgres) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{"postgres.backup": backupHandler}
}

func backupHandler(ctx context.Context, st *pipe.Stream) error {
	var req agentpb.PostgresBackupRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	s, err := startPSQL(ctx, &req)
	if err != nil {
		return fmt.Errorf("backup mode of PostgreSQL in %s: %w", req.DataDir, err)
	}
	defer s.close()
	reply, err := s.begin(&req)
	if err != nil {
		return fmt.Errorf("backup mode of PostgreSQL in %s: %w", req.DataDir, err)
	}
	if err := st.Send(reply); err != nil {
		return err
	}
	if err := st.Recv(&agentpb.PostgresBackupRequest{}); err != nil {
		return err // the session ends with us, and so does backup mode
	}
	if reply, err = s.end(); err != nil {
		return fmt.Errorf("end backup mode of PostgreSQL in %s: %w", req.DataDir, err)
	}
	return st.Send(reply)
}

// psqlSession is one session of psql, which backup mode is bound to.
type psqlSession struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	version int // server_version_num
}

func startPSQL(ctx context.Context, req *agentpb.PostgresBackupRequest) (*psqlSession, error) {
	st, err := os.Stat("/proc/" + strconv.Itoa(int(req.Pid)))
	if err != nil {
		return nil, fmt.Errorf("find its process: %w", err)
	}
	owner := st.Sys().(*syscall.Stat_t)
	program, err := findPSQL()
	if err != nil {
		return nil, err
	}
	args := []string{"-X", "-q", "-A", "-t", "-d", "postgres"}
	if req.SocketDir != "" {
		args = append(args, "-h", req.SocketDir)
	}
	if req.Port != 0 {
		args = append(args, "-p", strconv.Itoa(int(req.Port)))
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "PGCONNECT_TIMEOUT=30"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start psql: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start psql: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("start psql: %w", err)
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	s := &psqlSession{cmd: cmd, in: in, out: sc}
	v, err := s.query("SHOW server_version_num;")
	if err == nil {
		s.version, err = strconv.Atoi(v)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("ask for its version: %w", err)
	}
	return s, nil
}

// findPSQL prefers the one in PATH; Debian keeps the versions apart.
func findPSQL() (string, error) {
	if p, err := exec.LookPath("psql"); err == nil {
		return p, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql") // the pattern is well-formed
	more, _ := filepath.Glob("/usr/pgsql-*/bin/psql")
	found = append(found, more...)
	if len(found) == 0 {
		return "", fmt.Errorf("psql is not installed beside the server")
	}
	sort.Strings(found)
	return found[len(found)-1], nil
}

const psqlMark = "leeward-end-of-answer"

// query runs one statement and returns its output. What psql says on standard
// error counts as failure.
func (s *psqlSession) query(sql string) (string, error) {
	if _, err := fmt.Fprintf(s.in, "%s\n\\echo %s\n", sql, psqlMark); err != nil {
		return "", fmt.Errorf("ask psql: %w", err)
	}
	var lines []string
	for s.out.Scan() {
		if s.out.Text() == psqlMark {
			answer := strings.Join(lines, "\n")
			if strings.Contains(answer, "ERROR:") || strings.Contains(answer, "FATAL:") {
				return "", fmt.Errorf("psql: %s", answer)
			}
			return answer, nil
		}
		lines = append(lines, s.out.Text())
	}
	return "", fmt.Errorf("psql ended: %s", strings.Join(lines, " "))
}

func (s *psqlSession) begin(req *agentpb.PostgresBackupRequest) (*agentpb.PostgresBackupReply, error) {
	reply := &agentpb.PostgresBackupReply{}
	// A slot of this session keeps the log that the copy will need from being
	// recycled before it has been copied.
	slot := fmt.Sprintf("SELECT pg_create_physical_replication_slot('leeward_%d', true, true);", os.Getpid())
	if _, err := s.query(slot); err != nil {
		reply.Warning = "no slot to hold back the log with, a long pass may outrun it: " + err.Error()
	}
	start := "SELECT pg_backup_start('leeward', true);"
	if s.version < 150000 {
		start = "SELECT pg_start_backup('leeward', true, false);"
	}
	if _, err := s.query(start); err != nil {
		return nil, err
	}
	wal := filepath.Join(req.DataDir, "pg_wal")
	if s.version < 100000 {
		wal = filepath.Join(req.DataDir, "pg_xlog")
	}
	var err error
	reply.WalDir, err = filepath.EvalSymlinks(wal)
	return reply, err
}

func (s *psqlSession) end() (*agentpb.PostgresBackupReply, error) {
	stop := "pg_backup_stop(false)"
	if s.version < 150000 {
		stop = "pg_stop_backup(false, false)"
	}
	out, err := s.query("SELECT encode(convert_to(labelfile, 'UTF8'), 'hex') || '|' || encode(convert_to(spcmapfile, 'UTF8'), 'hex') FROM " + stop + ";")
	if err != nil {
		return nil, err
	}
	// A NOTICE about archiving may come before the answer.
	lines := strings.Split(out, "\n")
	label, spaces, ok := strings.Cut(lines[len(lines)-1], "|")
	if !ok {
		return nil, fmt.Errorf("unexpected answer %q", out)
	}
	reply := &agentpb.PostgresBackupReply{}
	if reply.BackupLabel, err = hex.DecodeString(label); err == nil {
		reply.TablespaceMap, err = hex.DecodeString(spaces)
	}
	if err != nil || len(reply.BackupLabel) == 0 {
		return nil, fmt.Errorf("unexpected answer %q", out)
	}
	return reply, nil
}

func (s *psqlSession) close() {
	s.in.Close()
	s.cmd.Process.Kill() // it may be gone already
	s.cmd.Wait()
}
