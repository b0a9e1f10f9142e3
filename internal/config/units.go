package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// rateUnits are the ways to write a rate, in bytes per second each. They are
// listed in the order they are offered to a person.
var rateUnits = []struct {
	name  string
	bytes float64
}{
	{"kbit/s", 1e3 / 8}, {"Mbit/s", 1e6 / 8}, {"Gbit/s", 1e9 / 8},
	{"kB/s", 1e3}, {"MB/s", 1e6}, {"GB/s", 1e9},
	{"KiB/s", 1 << 10}, {"MiB/s", 1 << 20}, {"GiB/s", 1 << 30},
	{"bit/s", 1.0 / 8}, {"B/s", 1},
}

var rateRE = regexp.MustCompile(`^([0-9]{1,12}(?:\.[0-9]{1,6})?) *([A-Za-z/]*)$`)

// ParseRate reads a rate such as 200 Mbit/s or 50 MB/s.
func ParseRate(s string) (Rate, error) { return parseRate(s) }

// parseRate reads 200 Mbit/s, 50MB/s and the like; "none" is no limit.
func parseRate(s string) (Rate, error) {
	if s == "none" {
		return 0, nil
	}
	m := rateRE.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is no rate: want a number and a unit, as in 200 Mbit/s or 50 MB/s", s)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no rate: %w", s, err)
	}
	for _, u := range rateUnits {
		if u.name != m[2] {
			continue
		}
		r := n * u.bytes
		if r < 1 || r > math.MaxInt64/4 {
			return 0, fmt.Errorf("%q is out of range; for no limit write none", s)
		}
		return Rate(r), nil
	}
	return 0, fmt.Errorf("%q: %s", s, rateUnitHelp(m[2]))
}

// rateUnitHelp says what to write in place of unit. A lone b may mean bits or
// bytes, a factor of eight, so it is never guessed.
func rateUnitHelp(unit string) string {
	if unit == "" {
		return "the unit is missing; write Mbit/s, MB/s or another"
	}
	prefix := strings.ToUpper(unit[:1])
	if prefix == "K" {
		prefix = "k"
	}
	switch strings.ToLower(unit) {
	case "kbps", "mbps", "gbps", "kb/s", "mb/s", "gb/s", "kb", "mb", "gb", "k", "m", "g":
		return fmt.Sprintf("unit %q may be bits or bytes; write %sbit/s or %sB/s", unit, prefix, prefix)
	}
	names := make([]string, len(rateUnits))
	for i, u := range rateUnits {
		names[i] = u.name
	}
	return fmt.Sprintf("unknown unit %q; %s", unit, suggest(unit, names))
}

// String writes r as parseRate reads it, in bits as links are sold.
func (r Rate) String() string {
	bits := float64(r) * 8
	switch {
	case r == 0:
		return "none"
	case bits >= 1e9:
		return trimZero(bits/1e9) + " Gbit/s"
	case bits >= 1e6:
		return trimZero(bits/1e6) + " Mbit/s"
	}
	return trimZero(bits/1e3) + " kbit/s"
}

func trimZero(f float64) string {
	return strings.TrimRight(strings.TrimRight(strconv.FormatFloat(f, 'f', 2, 64), "0"), ".")
}

var durationRE = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)$`)

// parseDuration reads 90s, 10m, 1h30m.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err == nil && d > 0:
		return d, nil
	case err == nil:
		return 0, fmt.Errorf("%q: want more than nothing", s)
	}
	m := durationRE.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is no duration: want a number and a unit, as in 90s, 10m or 1h30m", s)
	}
	unit := strings.TrimSuffix(strings.ToLower(m[2]), "s")
	switch unit {
	case "":
		return 0, fmt.Errorf("%q: the unit is missing; write s, m or h after it", s)
	case "d", "day":
		return 0, fmt.Errorf("%q: unknown unit %q; write days as hours: 1 day is 24h", s, m[2])
	case "sec", "second":
		return 0, fmt.Errorf("%q: unknown unit %q; did you mean %q?", s, m[2], m[1]+"s")
	case "min", "minute":
		return 0, fmt.Errorf("%q: unknown unit %q; did you mean %q?", s, m[2], m[1]+"m")
	case "h", "hr", "hour":
		return 0, fmt.Errorf("%q: unknown unit %q; did you mean %q?", s, m[2], m[1]+"h")
	}
	return 0, fmt.Errorf("%q: unknown unit %q; want s, m or h", s, m[2])
}
