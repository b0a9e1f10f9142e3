package look

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// maxContainers bounds how many are listed.
const maxContainers = 10_000

// containers reads the state files of Docker and Podman: no socket is asked, for that is
// the same as being root on the host, and would wait for a daemon that hangs.
func (l *looker) containers(context.Context) {
	files := l.glob("var/lib/docker/containers/*/config.v2.json")
	if len(files) > maxContainers {
		l.unknown(fmt.Sprintf("%d of %d containers", len(files)-maxContainers, len(files)), "more are not listed")
		files = files[:maxContainers]
	}
	for _, f := range files {
		b, err := read(l.path(f), maxConfig)
		if err != nil {
			l.unknown("container in "+f, err)
			continue
		}
		c, err := parseDocker(b)
		if err != nil {
			l.unknown("container in "+f, err)
			continue
		}
		if hb, err := read(l.path(filepath.Dir(f), "hostconfig.json"), maxConfig); err == nil {
			c.Restart, c.Ports = parseDockerHost(hb)
		}
		l.inv.Containers = append(l.inv.Containers, c)
	}
	for _, f := range l.glob("var/lib/containers/storage/overlay-containers/containers.json", "var/lib/containers/storage/vfs-containers/containers.json",
		"home/*/.local/share/containers/storage/overlay-containers/containers.json") {
		b, err := read(l.path(f), 16*maxConfig)
		if err != nil {
			l.unknown("containers in "+f, err)
			continue
		}
		list, err := parsePodman(b)
		if err != nil {
			l.unknown("containers in "+f, err)
		}
		l.inv.Containers = append(l.inv.Containers, list...)
	}
	if l.exists("run/k3s") || l.exists("etc/kubernetes/kubelet.conf") || l.exists("var/lib/kubelet/config.yaml") {
		l.unknown("pods of Kubernetes", "the host is a node of a cluster, which knows them; Leeward does not ask it")
	}
}

// parseDocker reads a container's config.v2.json; the environment, where secrets are, is
// left out.
func parseDocker(b []byte) (c inventory.Container, err error) {
	var d struct {
		ID    string
		Name  string
		State struct {
			Running, Paused, Dead bool
			ExitCode              int
		}
		Config      struct{ Image string }
		MountPoints map[string]struct {
			Source, Destination, Name string
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return c, fmt.Errorf("read state: %w", err)
	}
	c = inventory.Container{Name: strings.TrimPrefix(d.Name, "/"), ID: short(d.ID), Engine: "docker", Image: d.Config.Image, State: "stopped"}
	switch {
	case d.State.Paused:
		c.State = "paused"
	case d.State.Running:
		c.State = "running"
	}
	for _, m := range d.MountPoints {
		from := m.Source
		if m.Name != "" {
			from = m.Name
		}
		c.Volumes = append(c.Volumes, from+":"+m.Destination)
	}
	slices.Sort(c.Volumes)
	return c, nil
}

// parseDockerHost reads hostconfig.json: when Docker starts the container by itself, and
// the ports it has at the host.
func parseDockerHost(b []byte) (restart string, ports []string) {
	var d struct {
		RestartPolicy struct{ Name string }
		PortBindings  map[string][]struct{ HostIp, HostPort string }
	}
	if json.Unmarshal(b, &d) != nil {
		return "", nil
	}
	for inside, at := range d.PortBindings {
		for _, p := range at {
			ports = append(ports, strings.TrimPrefix(p.HostIp+":"+p.HostPort+"->"+inside, ":"))
		}
	}
	slices.Sort(ports)
	return d.RestartPolicy.Name, ports
}

// parsePodman reads containers.json of containers/storage.
func parsePodman(b []byte) (out []inventory.Container, err error) {
	var list []struct {
		ID       string   `json:"id"`
		Names    []string `json:"names"`
		Metadata string   `json:"metadata"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	for _, d := range list[:min(len(list), maxContainers)] {
		var m struct {
			Image string `json:"image-name"`
			Name  string `json:"name"`
		}
		_ = json.Unmarshal([]byte(d.Metadata), &m) // without it the image is not known
		c := inventory.Container{Name: m.Name, ID: short(d.ID), Engine: "podman", Image: m.Image}
		if c.Name == "" && len(d.Names) > 0 {
			c.Name = d.Names[0]
		}
		out = append(out, c)
	}
	return out, nil
}

func short(id string) string { return id[:min(12, len(id))] }
