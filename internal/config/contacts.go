package config

import (
	"net/mail"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Contact is somebody to call when it matters; the documentation names them.
type Contact struct {
	Name  string
	Role  string
	Phone string
	Mail  string
}

func (r *reader) contacts(n *yaml.Node) (out []Contact) {
	r.each("contacts", n, func(i int, n *yaml.Node) {
		c := Contact{}
		r.mapping(label("contact", i, n), n, []field{
			{"name", true, func(w string, n *yaml.Node) { c.Name, _ = r.text(w, n) }},
			{"role", false, func(w string, n *yaml.Node) { c.Role, _ = r.text(w, n) }},
			{"phone", false, func(w string, n *yaml.Node) { c.Phone = r.phone(w, n) }},
			{"mail", false, func(w string, n *yaml.Node) { c.Mail = r.mail(w, n) }},
		})
		out = append(out, c)
	})
	return out
}

func (r *reader) phone(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && (strings.Trim(s, "+0123456789 ()-/.,;ext") != "" || !strings.ContainsAny(s, "0123456789")) {
		r.fault(n, where, "%q: want a number as one dials it, in quotes, as in \"+1 305 555 0100\"", s)
		return ""
	}
	return s
}

func (r *reader) mail(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if !ok {
		return ""
	}
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
		r.fault(n, where, "%q: want a mail address alone, as in ada@example.com", s)
		return ""
	}
	return s
}
