package drill

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestSQLProbeIsAskedByTheServersOwnClient(t *testing.T) {
	all := func(string) (string, error) { return "/usr/bin/x", nil }
	old := func(name string) (string, error) {
		if name == "mysql" {
			return "/usr/bin/mysql", nil
		}
		return "", exec.ErrNotFound
	}
	none := func(string) (string, error) { return "", exec.ErrNotFound }
	for _, c := range []struct {
		p    Probe
		find func(string) (string, error)
		want string
	}{
		{Probe{SQL: "select 'a; b'", Engine: "postgres", Database: "shop"}, none,
			"runuser|-u|postgres|--|psql|-X|-A|-t|-q|-v|ON_ERROR_STOP=1|-c|select 'a; b'|-d|shop"},
		{Probe{SQL: "select 1", Engine: "postgres"}, none, "runuser|-u|postgres|--|psql|-X|-A|-t|-q|-v|ON_ERROR_STOP=1|-c|select 1|-d|postgres"},
		{Probe{SQL: "select 1", Engine: "mariadb", Database: "plant"}, all, "mariadb|--batch|--skip-column-names|--user=root|--execute=select 1|--database=plant"},
		{Probe{SQL: "select 1", Engine: "mariadb"}, old, "mysql|--batch|--skip-column-names|--user=root|--execute=select 1"},
	} {
		argv, err := c.p.client(c.find)
		if err != nil || !slices.Equal(argv, strings.Split(c.want, "|")) {
			t.Errorf("%+v: %q, %v", c.p, argv, err)
		}
	}
	if _, err := (Probe{SQL: "select 1", Engine: "mariadb"}).client(none); err == nil {
		t.Error("no client is there, and no error")
	}
}

func TestSQLAnswers(t *testing.T) {
	for _, c := range []struct {
		engine, answer, expect string
		good                   bool
	}{
		{"postgres", "42\n", "42", true},
		{"postgres", "420\n", "42", false}, // whole, not a part
		{"postgres", "a|1\nb|2\n", "a|1\nb|2", true},
		{"mariadb", "a\t1\n", "a|1", true},
		{"mariadb", "", "1", false},
		{"mariadb", "", "", true},
	} {
		p := Probe{SQL: "select", Engine: c.engine, Expect: c.expect}
		if _, err := p.judgeRows(c.answer); (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
