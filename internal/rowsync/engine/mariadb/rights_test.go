package mariadb

import (
	"strings"
	"testing"
)

func TestParseGrant(t *testing.T) {
	for text, want := range map[string]grantOn{
		"GRANT ALL PRIVILEGES ON `shop`.* TO `app`@`%`":                                       {"ALL PRIVILEGES", "", "shop", "", " TO `app`@`%`"},
		"GRANT SELECT (`a ON b`), INSERT ON `sh``op`.`t.x` TO `app`@`10.%` WITH GRANT OPTION": {"SELECT (`a ON b`), INSERT", "", "sh`op", "t.x", " TO `app`@`10.%` WITH GRANT OPTION"},
		"GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `r`":                                        {"EXECUTE", "PROCEDURE ", "shop", "p", " TO `r`"},
	} {
		if g, ok := parseGrant(text); !ok || g != want {
			t.Errorf("%s: %+v, %v", text, g, ok)
		}
	}
	for _, text := range []string{"GRANT USAGE ON *.* TO `app`@`%` IDENTIFIED BY PASSWORD '*A ON `b`.`c` TO x'", "GRANT `r` TO `app`@`%`", "SET DEFAULT ROLE `r` FOR `app`@`%`", "GRANT X ON `a`.`b", "GRANT ON `a`.* TO x", ""} {
		if g, ok := parseGrant(text); ok {
			t.Errorf("%s: %+v", text, g)
		}
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add("GRANT SELECT (`a`), INSERT ON `sh``op`.`t` TO `app`@`%` WITH GRANT OPTION")
	f.Add("GRANT EXECUTE ON PACKAGE BODY `shop`.`p` TO `r`")
	f.Fuzz(func(t *testing.T, text string) {
		g, ok := parseGrant(text)
		if !ok {
			return
		}
		object := "*"
		if g.object != "" {
			object = ident(g.object)
		}
		again := "GRANT " + g.privileges + " ON " + g.kind + ident(g.database) + "." + object + g.rest
		if g.object != "" && again != text && !strings.Contains(text, "``") {
			t.Errorf("%q became %q", text, again)
		}
	})
}
