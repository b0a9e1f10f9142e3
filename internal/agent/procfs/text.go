package procfs

import (
	"iter"
	"strings"
)

// lines are the non-empty lines of data, without their ends.
func lines(data []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for l := range strings.SplitSeq(string(data), "\n") {
			if l = strings.TrimSuffix(l, "\r"); l != "" && !yield(l) {
				return
			}
		}
	}
}

// ParseAssignments reads KEY=VALUE lines as in os-release and udev's uevent files:
// comments are left out, quotes taken off. Of keys given twice the last counts.
func ParseAssignments(data []byte) map[string]string {
	m := map[string]string{}
	for line := range lines(data) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		m[key] = unquote(value)
	}
	return m
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != s[len(s)-1] {
		return s
	}
	switch s[0] {
	case '\'':
		return s[1 : len(s)-1]
	case '"':
		return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`").Replace(s[1 : len(s)-1])
	}
	return s
}

// ParseColons reads "Key: value" lines as in /proc/meminfo and /proc/PID/status. Of
// keys given twice the first counts.
func ParseColons(data []byte) map[string]string {
	m := map[string]string{}
	for line := range lines(data) {
		key, value, ok := strings.Cut(line, ":")
		key = strings.TrimSpace(key)
		if _, seen := m[key]; ok && !seen {
			m[key] = strings.TrimSpace(value)
		}
	}
	return m
}

// CPU is what /proc/cpuinfo tells of the processors.
type CPU struct {
	Count int
	Model string
	Level int // x86-64 level, 1 to 4; 0 unknown or another architecture
}

// The processor flags each x86-64 level adds, as /proc/cpuinfo names them (the
// System V ABI's table; lahf_lm is LAHF-SAHF, pni is SSE3, abm is LZCNT).
var x86Levels = []string{
	"cmov cx8 fpu fxsr mmx syscall sse sse2 lm",
	"cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
	"avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
	"avx512f avx512bw avx512cd avx512dq avx512vl",
}

// ParseCPUInfo reads /proc/cpuinfo. All processors are taken to be as the first.
func ParseCPUInfo(data []byte) CPU {
	var c CPU
	for line := range lines(data) {
		if strings.HasPrefix(line, "processor") {
			c.Count++
		}
	}
	first := ParseColons(data)
	c.Model = first["model name"]
	flags := map[string]bool{}
	for _, f := range strings.Fields(first["flags"]) {
		flags[f] = true
	}
	for _, level := range x86Levels {
		for _, f := range strings.Fields(level) {
			if !flags[f] {
				return c
			}
		}
		c.Level++
	}
	return c
}
