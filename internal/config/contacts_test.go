package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestContacts(t *testing.T) {
	const head = "estate: a\ntarget: {store: /s}\nservers: [{name: web1}]\n"
	e, err := Parse("f", []byte(head+"contacts:\n  - {name: Ada, role: on call, phone: \"+1 305 555 0100\", mail: ada@example.com}\n  - {name: Bo}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []Contact{{"Ada", "on call", "+1 305 555 0100", "ada@example.com"}, {Name: "Bo"}}; !reflect.DeepEqual(e.Contacts, want) {
		t.Errorf("got %+v, want %+v", e.Contacts, want)
	}
	for text, want := range map[string]string{
		"contacts: [{role: x}]":                            "name",
		"contacts: [{name: a, phone: call me}]":            "as one dials it",
		"contacts: [{name: a, mail: \"x <a@b.c>\"}]":       "mail address alone",
		"contacts: [{name: a, fone: 1}]":                   "unknown key",
		"contacts: [{name: a, mail: \"a@b?subject=x y\"}]": "mail address",
	} {
		if _, err := Parse("f", []byte(head+text+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
