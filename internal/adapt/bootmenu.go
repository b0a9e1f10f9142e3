package adapt

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// bootEntry is one entry of the source's boot menu.
type bootEntry struct {
	id, title string
	linux     string   // path as the loader names it
	initrds   []string // likewise
	args      string
	children  []*bootEntry // of a submenu
}

// bootMenu is what a boot loader's configuration offers.
type bootMenu struct {
	entries  []*bootEntry
	fallback string // the default entry as the configuration names it
}

// grubWords splits a line of grub.cfg into words as GRUB's shell does: quotes
// group, a backslash keeps the next byte, # begins a comment.
func grubWords(line string) []string {
	var words []string
	var w strings.Builder
	in, started := byte(0), false
	flush := func() {
		if started {
			words = append(words, w.String())
			w.Reset()
			started = false
		}
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && in != '\'' && i+1 < len(line):
			i++
			w.WriteByte(line[i])
			started = true
		case in != 0 && c == in:
			in = 0
		case in != 0:
			w.WriteByte(c)
		case c == '\'' || c == '"':
			in, started = c, true
		case c == '#' && !started:
			return words
		case c == ' ' || c == '\t' || c == '\r':
			flush()
		case c == ';' || c == '{' || c == '}':
			if c != ';' && started { // ${name}, or a brace within a word
				w.WriteByte(c)
				continue
			}
			flush()
			words = append(words, string(c))
		default:
			w.WriteByte(c)
			started = true
		}
	}
	flush()
	return words
}

const maxMenuDepth = 16

// parseGrubConfig reads the entries of a grub.cfg. Conditions are not evaluated:
// all entries count, and of several defaults the last that names no one-time
// choice.
func parseGrubConfig(text string) *bootMenu {
	root := &bootEntry{}
	menu := &bootMenu{}
	stack := []*bootEntry{root}
	braces := []int{} // depth of other braces at each open entry
	depth := 0
	for _, line := range strings.Split(text, "\n") {
		words := grubWords(line)
		for len(words) > 0 {
			var stmt []string
			stmt, words = cutStatement(words)
			switch {
			case len(stmt) == 0:
			case stmt[0] == "}":
				if len(braces) > 0 && braces[len(braces)-1] == depth {
					braces, stack = braces[:len(braces)-1], stack[:len(stack)-1]
				} else if depth > 0 {
					depth--
				}
			case stmt[0] == "menuentry" || stmt[0] == "submenu":
				if stmt[len(stmt)-1] != "{" || len(stack) > maxMenuDepth {
					continue
				}
				e := newGrubEntry(stmt)
				parent := stack[len(stack)-1]
				parent.children = append(parent.children, e)
				stack, braces = append(stack, e), append(braces, depth)
			default:
				if stmt[len(stmt)-1] == "{" {
					depth++
				}
				menu.command(stmt, stack[len(stack)-1])
			}
		}
	}
	menu.entries = root.children
	return menu
}

// cutStatement takes the words of one command; braces end it.
func cutStatement(words []string) (stmt, rest []string) {
	for i, w := range words {
		switch w {
		case ";":
			return words[:i], words[i+1:]
		case "{":
			return words[:i+1], words[i+1:]
		case "}":
			if i == 0 {
				return words[:1], words[1:]
			}
			return words[:i], words[i:]
		}
	}
	return words, nil
}

func newGrubEntry(stmt []string) *bootEntry {
	e := &bootEntry{}
	if len(stmt) > 2 {
		e.title = stmt[1]
	}
	for i, w := range stmt {
		if (w == "--id" || w == "$menuentry_id_option") && i+1 < len(stmt) {
			e.id = stmt[i+1]
		}
		if id, ok := strings.CutPrefix(w, "--id="); ok {
			e.id = id
		}
	}
	return e
}

// command applies one command of grub.cfg to the entry it stands in.
func (m *bootMenu) command(stmt []string, e *bootEntry) {
	switch stmt[0] {
	case "set":
		if v, ok := strings.CutPrefix(strings.Join(stmt[1:], " "), "default="); ok && !strings.Contains(v, "next_entry") {
			m.fallback = v
		}
	case "linux", "linux16", "linuxefi":
		if len(stmt) > 1 && e.linux == "" {
			e.linux = stmt[1]
			e.args = quoteArgs(stmt[2:])
		}
	case "initrd", "initrd16", "initrdefi":
		e.initrds = append(e.initrds, stmt[1:]...)
	}
}

// find resolves the name of a default entry: index, title or id, parts of nested
// ones joined by ">".
func (m *bootMenu) find(name string) *bootEntry {
	list := m.entries
	var e *bootEntry
	for _, part := range strings.Split(name, ">") {
		e = findEntry(list, part)
		if e == nil {
			return nil
		}
		list = e.children
	}
	for e != nil && e.linux == "" && len(e.children) > 0 { // a submenu: its first
		e = e.children[0]
	}
	return e
}

func findEntry(list []*bootEntry, name string) *bootEntry {
	for _, e := range list {
		if name != "" && (e.title == name || e.id == name) {
			return e
		}
	}
	if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(list) {
		return list[i]
	}
	return nil
}

// all returns the entries that boot a kernel, nested ones included.
func (m *bootMenu) all() []*bootEntry {
	var flat []*bootEntry
	var walk func([]*bootEntry)
	walk = func(list []*bootEntry) {
		for _, e := range list {
			if e.linux != "" {
				flat = append(flat, e)
			}
			walk(e.children)
		}
	}
	walk(m.entries)
	return flat
}

// parseGrubEnv reads the variables of a grubenv block.
func parseGrubEnv(text string) map[string]string {
	vars := map[string]string{}
	for _, line := range strings.Split(text, "\n") {
		if k, v, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			vars[k] = v
		}
	}
	return vars
}

// parseBLS reads one entry of the Boot Loader Specification; vars fill in
// $kernelopts and the like.
func parseBLS(name, text string, vars map[string]string) *bootEntry {
	e := &bootEntry{id: strings.TrimSuffix(name, ".conf")}
	var args []string
	for _, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if k, v, ok := strings.Cut(key, "\t"); ok {
			key, value = k, v+" "+value
		}
		value = strings.TrimSpace(value)
		switch key {
		case "title":
			e.title = value
		case "linux":
			e.linux = value
		case "initrd":
			for _, f := range strings.Fields(value) {
				if f[0] != '$' { // $tuned_initrd
					e.initrds = append(e.initrds, f)
				}
			}
		case "options":
			args = append(args, expandVars(value, vars))
		}
	}
	e.args = strings.Join(args, " ")
	return e
}

var grubVar = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?`)

func expandVars(s string, vars map[string]string) string {
	return grubVar.ReplaceAllStringFunc(s, func(m string) string { return vars[grubVar.FindStringSubmatch(m)[1]] })
}

// parseExtlinux reads extlinux.conf.
func parseExtlinux(text string) *bootMenu {
	m := &bootMenu{}
	var e *bootEntry
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		rest := strings.Join(f[1:], " ")
		switch strings.ToUpper(f[0]) {
		case "DEFAULT":
			m.fallback = rest
		case "LABEL":
			e = &bootEntry{id: rest, title: rest}
			m.entries = append(m.entries, e)
		case "LINUX", "KERNEL":
			if e != nil {
				e.linux = f[1]
			}
		case "INITRD":
			if e != nil {
				e.initrds = strings.Split(f[1], ",")
			}
		case "APPEND":
			if e != nil {
				e.args = rest
				e.takeInitrdArg()
			}
		}
	}
	return m
}

// takeInitrdArg moves initrd= out of the arguments.
func (e *bootEntry) takeInitrdArg() {
	var keep []string
	for _, a := range splitArgs(e.args) {
		if v, ok := strings.CutPrefix(a, "initrd="); ok {
			e.initrds = append(e.initrds, strings.Split(v, ",")...)
		} else {
			keep = append(keep, a)
		}
	}
	e.args = strings.Join(keep, " ")
}

// readMenu collects the source's boot menu, whichever loader it has, and its
// default entry, nil if none is known.
func (j *job) readMenu() (entries []*bootEntry, preferred *bootEntry) {
	for _, dir := range []string{"/boot/grub2", "/boot/grub"} {
		text, err := j.img.ReadFile(dir + "/grub.cfg")
		if err != nil {
			continue
		}
		env, _ := j.img.ReadFile(dir + "/grubenv") // not there is empty
		vars := parseGrubEnv(string(env))
		menu := parseGrubConfig(string(text))
		name := menu.fallback
		if strings.Contains(name, "saved_entry") {
			name = vars["saved_entry"]
		}
		if strings.Contains(string(text), "blscfg") {
			menu.entries = append(j.readBLS("/boot/loader/entries", vars), menu.entries...)
			if name == "" || menu.find(name) == nil {
				name = "0"
			}
		}
		return menu.all(), menu.find(name)
	}
	for _, dir := range []string{"/boot", "/efi", "/boot/efi"} {
		if list := j.readBLS(dir+"/loader/entries", nil); len(list) > 0 {
			conf, _ := j.img.ReadFile(dir + "/loader/loader.conf")
			return list, loaderDefault(string(conf), list)
		}
	}
	for _, file := range []string{"/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg"} {
		if text, err := j.img.ReadFile(file); err == nil {
			m := parseExtlinux(string(text))
			return m.all(), m.find(m.fallback)
		}
	}
	return nil, nil
}

// readBLS returns the entries of a directory, the highest version first, as GRUB
// and systemd-boot sort them.
func (j *job) readBLS(dir string, vars map[string]string) []*bootEntry {
	var list []*bootEntry
	for _, file := range j.img.Glob(dir, "*.conf") {
		if text, err := j.img.ReadFile(file); err == nil {
			if e := parseBLS(path.Base(file), string(text), vars); e.linux != "" {
				list = append(list, e)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *bootEntry) int { return compareVersions(b.id, a.id) })
	return list
}

func loaderDefault(conf string, list []*bootEntry) *bootEntry {
	for _, line := range strings.Split(conf, "\n") {
		f := strings.Fields(line)
		if len(f) != 2 || f[0] != "default" {
			continue
		}
		for _, e := range list {
			if ok, _ := path.Match(strings.TrimSuffix(f[1], ".conf"), e.id); ok {
				return e
			}
		}
	}
	return list[0]
}
