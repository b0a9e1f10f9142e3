package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Linux values that x/sys does not name (include/uapi/linux/ioprio.h).
const (
	ioprioWhoProcess = 1
	ioprioShift      = 13
	ioprioBestEffort = 2
	ioprioIdle       = 3
)

// setNice sets the CPU and disk priority of every thread of the process. Threads
// started later inherit it from the one that starts them; a second round catches
// those that were started meanwhile by a thread not yet reached.
func setNice(nice int) error {
	for range 2 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		for _, t := range tasks {
			if err := niceThread(t.Name(), nice); err != nil {
				return err
			}
		}
	}
	return nil
}

func niceThread(name string, nice int) error {
	tid, err := strconv.Atoi(name)
	if err != nil {
		return fmt.Errorf("thread id %q: %w", name, err)
	}
	err = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
	if err == nil {
		_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(ioprio(nice)))
		if errno != 0 {
			err = errno
		}
	}
	switch {
	case err == nil, errors.Is(err, unix.ESRCH), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("set nice %d: only root may raise priority", nice)
	case errors.Is(err, unix.ENOSYS):
		return nil // a kernel without I/O priorities
	}
	return fmt.Errorf("set nice %d: %w", nice, err)
}

// ioprio is the disk priority that goes with nice: the kernel's own mapping, but
// idle for the very nicest, so that it reads only when nobody else does.
func ioprio(nice int) int {
	if nice == 19 {
		return ioprioIdle << ioprioShift
	}
	return ioprioBestEffort<<ioprioShift | (nice+20)/5
}
