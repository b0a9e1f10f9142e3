package look

import (
	"context"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// sites reads what the configurations of web servers and proxies serve.
func (l *looker) sites(context.Context) {
	if b, ok := l.config("sites of nginx", "etc/nginx/nginx.conf"); ok {
		r := &nginxReader{l: l, seen: map[string]bool{}}
		r.file("/etc/nginx/nginx.conf", b)
		l.inv.Sites = append(l.inv.Sites, r.sites...)
	}
	for _, f := range l.glob("etc/apache2/sites-enabled/*", "etc/httpd/conf/httpd.conf", "etc/httpd/conf.d/*.conf", "etc/apache2/vhosts.d/*.conf", "etc/apache2/conf.d/*.conf") {
		if b, ok := l.config("sites in "+f, f); ok {
			l.inv.Sites = append(l.inv.Sites, parseApache(f, b)...)
		}
	}
	if b, ok := l.config("sites of haproxy", "etc/haproxy/haproxy.cfg"); ok {
		l.inv.Sites = append(l.inv.Sites, parseHAProxy("/etc/haproxy/haproxy.cfg", b)...)
	}
}

// directive is one of nginx's: words, and what stands between its braces.
type directive struct {
	words []string
	inner []directive
	file  string
}

// nginxTokens cuts a configuration of nginx into words and the marks ; { }.
func nginxTokens(b []byte) (out []string) {
	s := string(b)
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case c == '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case c == ';' || c == '{' || c == '}':
			out = append(out, string(c))
			i++
		case c == '"' || c == '\'':
			var w strings.Builder
			for i++; i < len(s) && s[i] != c; i++ {
				if s[i] == '\\' && i+1 < len(s) {
					i++
				}
				w.WriteByte(s[i])
			}
			i++
			out = append(out, "\x00"+w.String()) // quoted: never a mark
		default:
			from := i
			for i < len(s) && !strings.ContainsRune(" \t\r\n;{}", rune(s[i])) {
				if s[i] == '$' && i+1 < len(s) && s[i+1] == '{' { // ${variable}
					for i < len(s) && s[i] != '}' {
						i++
					}
				}
				i++
			}
			out = append(out, s[from:min(i, len(s))])
		}
	}
	return out
}

const maxNesting = 32

// parseNginx reads directives from tokens, up to the brace that closes them.
func parseNginx(tokens []string, file string, depth int) (out []directive, rest []string) {
	var words []string
	for len(tokens) > 0 {
		t := tokens[0]
		tokens = tokens[1:]
		switch {
		case t == ";":
			if len(words) > 0 {
				out = append(out, directive{words: words, file: file})
			}
			words = nil
		case t == "{":
			d := directive{words: words, file: file}
			if depth >= maxNesting {
				return out, nil
			}
			d.inner, tokens = parseNginx(tokens, file, depth+1)
			if len(words) > 0 {
				out = append(out, d)
			}
			words = nil
		case t == "}":
			return out, tokens
		default:
			words = append(words, strings.TrimPrefix(t, "\x00"))
		}
	}
	return out, nil
}

// nginxReader collects servers from a file and those it includes.
type nginxReader struct {
	l         *looker
	seen      map[string]bool
	sites     []inventory.Site
	upstreams map[string][]string
}

func (r *nginxReader) file(path string, b []byte) {
	ds := r.load(path, b)
	r.upstreams = map[string][]string{}
	walk(ds, func(d directive) {
		if d.words[0] == "upstream" && len(d.words) > 1 {
			for _, s := range d.inner {
				if s.words[0] == "server" && len(s.words) > 1 {
					r.upstreams[d.words[1]] = append(r.upstreams[d.words[1]], s.words[1])
				}
			}
		}
	})
	walk(ds, func(d directive) {
		if d.words[0] == "server" && d.inner != nil {
			r.sites = append(r.sites, r.server(d))
		}
	})
}

// load reads a file with those it includes in their places.
func (r *nginxReader) load(path string, b []byte) []directive {
	if r.seen[path] || len(r.seen) > 500 {
		return nil
	}
	r.seen[path] = true
	ds, _ := parseNginx(nginxTokens(b), path, 0)
	return r.include(ds)
}

func (r *nginxReader) include(ds []directive) (out []directive) {
	for _, d := range ds {
		if d.words[0] != "include" || len(d.words) < 2 {
			d.inner = r.include(d.inner)
			out = append(out, d)
			continue
		}
		p := d.words[1]
		if !filepath.IsAbs(p) {
			p = "/etc/nginx/" + p
		}
		for _, f := range r.l.glob(p) {
			if b, ok := r.l.config("sites in "+f, f); ok {
				out = append(out, r.load(f, b)...)
			}
		}
	}
	return out
}

func walk(ds []directive, f func(directive)) {
	for _, d := range ds {
		f(d)
		walk(d.inner, f)
	}
}

func (r *nginxReader) server(d directive) inventory.Site {
	s := inventory.Site{Server: "nginx", File: d.file}
	walk(d.inner, func(x directive) {
		if len(x.words) < 2 {
			return
		}
		switch v := x.words[1]; x.words[0] {
		case "listen":
			s.Listen = append(s.Listen, strings.Join(x.words[1:], " "))
		case "server_name":
			s.Names = append(s.Names, x.words[1:]...)
		case "root":
			if s.Root == "" {
				s.Root = v
			}
		case "ssl_certificate":
			s.Cert = v
		case "proxy_pass", "fastcgi_pass", "uwsgi_pass", "grpc_pass":
			s.Passes = append(s.Passes, r.passes(v)...)
		}
	})
	slices.Sort(s.Passes)
	s.Passes = slices.Compact(s.Passes)
	return s
}

// passes resolves what a request is passed to: an upstream's servers, or the host itself.
func (r *nginxReader) passes(to string) []string {
	host := to
	if u, err := url.Parse(to); err == nil && u.Host != "" {
		host = u.Host
	}
	if servers := r.upstreams[host]; len(servers) > 0 {
		return servers
	}
	return []string{redact(host)}
}

// parseApache reads the virtual hosts of a file.
func parseApache(file string, b []byte) (out []inventory.Site) {
	var s *inventory.Site
	lines(b, func(_ int, line string) {
		f := strings.Fields(line)
		switch key := strings.ToLower(f[0]); {
		case key == "<virtualhost" && len(f) > 1:
			listen := f[1:]
			for i := range listen {
				listen[i] = strings.TrimSuffix(listen[i], ">")
			}
			s = &inventory.Site{Server: "apache", File: file, Listen: listen}
		case key == "</virtualhost>" && s != nil:
			out = append(out, *s)
			s = nil
		case s == nil || len(f) < 2:
		case key == "servername" || key == "serveralias":
			s.Names = append(s.Names, f[1:]...)
		case key == "documentroot":
			s.Root = strings.Trim(f[1], `"`)
		case key == "sslcertificatefile":
			s.Cert = strings.Trim(f[1], `"`)
		case key == "proxypass" && len(f) > 2:
			if u, err := url.Parse(f[2]); err == nil && u.Host != "" {
				s.Passes = append(s.Passes, u.Host)
			}
		}
	})
	return out
}

// parseHAProxy reads frontends and what the backends they use hand on to.
func parseHAProxy(file string, b []byte) (out []inventory.Site) {
	backends := map[string][]string{}
	uses := map[int][]string{}
	var kind, name string
	lines(b, func(_ int, line string) {
		f := strings.Fields(line)
		switch f[0] {
		case "frontend", "listen", "backend", "defaults", "global":
			kind, name = f[0], ""
			if len(f) > 1 {
				name = f[1]
			}
			if kind == "frontend" || kind == "listen" {
				out = append(out, inventory.Site{Server: "haproxy", Names: []string{name}, File: file})
			}
			return
		}
		last := len(out) - 1
		switch {
		case len(f) < 2:
		case f[0] == "server" && len(f) > 2 && kind == "listen":
			out[last].Passes = append(out[last].Passes, f[2])
		case f[0] == "server" && len(f) > 2:
			backends[name] = append(backends[name], f[2])
		case kind != "frontend" && kind != "listen":
		case f[0] == "bind":
			out[last].Listen = append(out[last].Listen, f[1])
			if i := slices.Index(f, "crt"); i >= 0 && i+1 < len(f) {
				out[last].Cert = f[i+1]
			}
		case f[0] == "default_backend" || f[0] == "use_backend":
			uses[last] = append(uses[last], f[1])
		}
	})
	for i, names := range uses {
		for _, n := range names {
			out[i].Passes = append(out[i].Passes, backends[n]...)
		}
		slices.Sort(out[i].Passes)
		out[i].Passes = slices.Compact(out[i].Passes)
	}
	return out
}
