package look

import (
	"bytes"
	"context"
	"os"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// packages lists what is installed, by the catalog that is there.
func (l *looker) packages(ctx context.Context) {
	switch {
	case l.exists("var/lib/dpkg/status"):
		b, err := read(l.path("var/lib/dpkg/status"), maxCatalog)
		if err != nil {
			l.unknown("packages", err)
			return
		}
		l.inv.Packages = parseDpkg(b)
	case l.exists("lib/apk/db/installed"):
		b, err := read(l.path("lib/apk/db/installed"), maxCatalog)
		if err != nil {
			l.unknown("packages", err)
			return
		}
		l.inv.Packages, l.owned = parseApk(b)
	case l.exists("var/lib/rpm"), l.exists("usr/lib/sysimage/rpm"):
		out, err := l.run(ctx, "rpm", "-qa", "--queryformat", rpmFormat)
		if err != nil {
			l.unknown("packages", err)
			return
		}
		l.inv.Packages = parseRpm(out)
	case l.exists("var/lib/pacman/local"):
		l.pacman()
	default:
		l.unknown("packages", "no catalog of dpkg, rpm, apk or pacman is there")
	}
}

// parseDpkg reads dpkg's status file: fields of packages that are installed.
func parseDpkg(b []byte) (out []inventory.Package) {
	var p inventory.Package
	installed := false
	flush := func() {
		if installed && p.Name != "" {
			out = append(out, p)
		}
		p, installed = inventory.Package{}, false
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			flush()
			continue
		}
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "Status":
			installed = strings.HasSuffix(value, " installed")
		}
	}
	flush()
	return out
}

// rpmFormat prints a package a line, its fields apart by tabs.
const rpmFormat = `%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\n`

func parseRpm(b []byte) (out []inventory.Package) {
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 3 || f[0] == "" || f[0] == "gpg-pubkey" {
			continue
		}
		if f[2] == "(none)" {
			f[2] = ""
		}
		out = append(out, inventory.Package{Name: f[0], Version: f[1], Arch: f[2]})
	}
	return out
}

// parseApk reads Alpine's catalog, and who owns which file (apk-tools, "installed" file:
// P name, V version, A architecture, F directory, R file).
func parseApk(b []byte) (out []inventory.Package, owned map[string]string) {
	owned = map[string]string{}
	var p inventory.Package
	dir := ""
	flush := func() {
		if p.Name != "" {
			out = append(out, p)
		}
		p, dir = inventory.Package{}, ""
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		key, value, ok := strings.Cut(line, ":")
		switch {
		case line == "":
			flush()
		case !ok:
		case key == "P":
			p.Name = value
		case key == "V":
			p.Version = value
		case key == "A":
			p.Arch = value
		case key == "F":
			dir = value
		case key == "R":
			owned["/"+strings.TrimPrefix(dir+"/"+value, "/")] = p.Name
		}
	}
	flush()
	return out, owned
}

// pacman reads Arch Linux's catalog, a directory for each package.
func (l *looker) pacman() {
	for _, file := range l.glob("var/lib/pacman/local/*/desc") {
		b, err := read(l.path(file), maxConfig)
		if err != nil {
			l.unknown("package in "+file, err)
			continue
		}
		var p inventory.Package
		key := ""
		for line := range strings.Lines(string(b)) {
			switch line = strings.TrimSpace(line); {
			case strings.HasPrefix(line, "%"):
				key = line
			case line == "":
				key = ""
			case key == "%NAME%":
				p.Name = line
			case key == "%VERSION%":
				p.Version = line
			case key == "%ARCH%":
				p.Arch = line
			}
		}
		if p.Name != "" {
			l.inv.Packages = append(l.inv.Packages, p)
		}
	}
}

// owners finds which packages the files belong to. Those that none owns are absent.
func (l *looker) owners(ctx context.Context, files []string) map[string]string {
	out := map[string]string{}
	if len(files) == 0 {
		return out
	}
	switch {
	case l.owned != nil:
		for _, f := range files {
			if p, ok := l.owned[f]; ok {
				out[f] = p
			}
		}
	case l.exists("var/lib/dpkg/info"):
		l.dpkgOwners(ctx, files, out)
	case l.exists("var/lib/rpm"), l.exists("usr/lib/sysimage/rpm"):
		for _, f := range files {
			if b, err := l.run(ctx, "rpm", "-qf", "--queryformat", "%{NAME}\n", f); err == nil && ctx.Err() == nil {
				out[f], _, _ = strings.Cut(strings.TrimSpace(string(b)), "\n")
			}
		}
	}
	return out
}

// dpkgOwners looks through dpkg's lists of files. Those of a system whose /usr is merged
// name files where they were before as well.
func (l *looker) dpkgOwners(ctx context.Context, files []string, out map[string]string) {
	want := map[string]string{}
	for _, f := range files {
		want[f] = f
		if short, ok := strings.CutPrefix(f, "/usr/"); ok {
			want["/"+short] = f
		} else {
			want["/usr"+f] = f
		}
	}
	entries, err := os.ReadDir(l.path("var/lib/dpkg/info"))
	if err != nil {
		l.unknown("which package a program is of", err)
		return
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".list")
		if !ok || ctx.Err() != nil {
			continue
		}
		l.rest(ctx)
		b, err := read(l.path("var/lib/dpkg/info", e.Name()), maxCatalog)
		if err != nil {
			continue // one list of many; its files then have no package
		}
		name, _, _ = strings.Cut(name, ":")
		for line := range bytes.Lines(b) {
			if f, ok := want[string(bytes.TrimRight(line, "\n"))]; ok {
				out[f] = name
			}
		}
	}
}
