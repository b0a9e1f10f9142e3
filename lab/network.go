package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	netnsPrefix = "lw-"
	miami       = netnsPrefix + "miami"
	dallas      = netnsPrefix + "dallas"
	bridge      = "lwbr"
	// dallasBridge is the production network of Dallas, where Miami's addresses stand
	// for others.
	dallasBridge  = "lwdallas0"
	dallasGateway = "10.20.0.1"
	dallasRoute   = "route replace 10.20.0.0/24 via " + dallasAddress // in Miami
	wanMiami      = "lwdallas"                                        // the end of the link that is in Miami
	wanDallas     = "lwmiami"
)

var rateForm = regexp.MustCompile(`^([0-9]+)(kbit|mbit|gbit)$`)

// parseRate reads a link rate such as 200mbit; "0" is an unshaped link, for
// which it returns 0.
func parseRate(s string) (bitsPerSecond int64, err error) {
	if s == "0" {
		return 0, nil
	}
	m := rateForm.FindStringSubmatch(strings.ToLower(s))
	if m == nil {
		return 0, fmt.Errorf("read rate %q: want a number and kbit, mbit or gbit, or 0 for an unshaped link", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n == 0 || n > 1_000_000 {
		return 0, fmt.Errorf("read rate %q: out of range", s)
	}
	unit := map[string]int64{"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[m[2]]
	return n * unit, nil
}

// ip runs the ip command in a namespace for each line, a space-separated
// argument list.
func ip(ctx context.Context, netns string, lines ...string) error {
	for _, line := range lines {
		args := append([]string{"-n", netns}, strings.Fields(line)...)
		if _, err := run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// addNetNS makes a named network namespace with its loopback up.
func addNetNS(ctx context.Context, name string) error {
	if _, err := run(ctx, "ip", "netns", "add", name); err != nil {
		return err
	}
	return ip(ctx, name, "link set lo up")
}

// raiseSites makes Miami, Dallas and the link between them. Neither gets a
// default route: nothing leads out of the lab.
func raiseSites(ctx context.Context, rate int64) error {
	for _, ns := range []string{miami, dallas} {
		if err := addNetNS(ctx, ns); err != nil {
			return err
		}
	}
	err := ip(ctx, miami,
		"link add "+bridge+" type bridge",
		"addr add "+miamiGateway+"/24 dev "+bridge,
		"link set "+bridge+" up",
		"link add "+wanMiami+" type veth peer name "+wanDallas+" netns "+dallas,
		"addr add 10.99.0.1/30 dev "+wanMiami,
		"link set "+wanMiami+" up",
		dallasRoute,
	)
	if err != nil {
		return err
	}
	err = ip(ctx, dallas,
		"addr add "+dallasAddress+"/30 dev "+wanDallas,
		"link set "+wanDallas+" up",
		"route add "+networkPrefix+"0/24 via 10.99.0.1",
		"link add "+dallasBridge+" type bridge",
		"addr add "+dallasGateway+"/24 dev "+dallasBridge,
		"link set "+dallasBridge+" up",
	)
	if err != nil {
		return err
	}
	for _, ns := range []string{miami, dallas} {
		if _, err := run(ctx, "ip", "netns", "exec", ns, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"); err != nil {
			return err
		}
	}
	return shape(ctx, rate)
}

// shape sets the link's rate in both directions; 0 takes the limit away.
func shape(ctx context.Context, rate int64) error {
	for ns, dev := range map[string]string{miami: wanMiami, dallas: wanDallas} {
		if rate == 0 {
			// Absent is fine: a new link has no limit.
			_, _ = run(ctx, "tc", "-n", ns, "qdisc", "del", "dev", dev, "root")
			continue
		}
		burst := max(rate/8/100, 128<<10) // 10 ms worth; a whole segmentation-offload packet at least
		_, err := run(ctx, "tc", "-n", ns, "qdisc", "replace", "dev", dev, "root", "tbf",
			"rate", fmt.Sprintf("%dbit", rate), "burst", fmt.Sprint(burst), "latency", "100ms")
		if err != nil {
			return err
		}
	}
	return nil
}

// plugLight gives a server in its light form a network namespace and a port
// on Miami's bridge.
func plugLight(ctx context.Context, s Spec) error {
	if err := addNetNS(ctx, s.NetNS()); err != nil {
		return err
	}
	port := "lw" + s.Name
	err := ip(ctx, miami,
		"link add "+port+" type veth peer name "+guestNIC+" netns "+s.NetNS(),
		"link set "+port+" master "+bridge,
		"link set "+port+" up",
	)
	if err != nil {
		return err
	}
	return ip(ctx, s.NetNS(),
		"link set "+guestNIC+" address "+s.MAC(),
		"addr add "+s.Address()+"/24 dev "+guestNIC,
		"link set "+guestNIC+" up",
		"route add "+wanRoute+" via "+miamiGateway,
	)
}

// plugGuest makes the tap device for a server that runs as a guest and
// returns its name.
func plugGuest(ctx context.Context, s Spec) (string, error) {
	tap := "lwt" + s.Name
	return tap, ip(ctx, miami,
		"tuntap add "+tap+" mode tap",
		"link set "+tap+" master "+bridge,
		"link set "+tap+" up",
	)
}

// linkStats is what `ip -j -s link` says of one interface.
type linkStats struct {
	Name  string   `json:"ifname"`
	Flags []string `json:"flags"`
	State string   `json:"operstate"`
	Stats struct {
		RX struct {
			Bytes int64 `json:"bytes"`
		} `json:"rx"`
		TX struct {
			Bytes int64 `json:"bytes"`
		} `json:"tx"`
	} `json:"stats64"`
}

// readLink observes an interface.
func readLink(ctx context.Context, netns, dev string) (linkStats, error) {
	out, err := run(ctx, "ip", "-n", netns, "-j", "-s", "link", "show", "dev", dev)
	if err != nil {
		return linkStats{}, err
	}
	var list []linkStats
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return linkStats{}, fmt.Errorf("read state of link %s: %w", dev, err)
	}
	if len(list) != 1 {
		return linkStats{}, fmt.Errorf("read state of link %s: there are %d of them", dev, len(list))
	}
	return list[0], nil
}

// healLink brings the link up and returns when both ends carry again: the kernel
// takes up to a second to notice, and remembers neighbours it did not reach.
func healLink(ctx context.Context) error {
	// Routes over a link are gone when it goes down.
	if err := ip(ctx, miami, "link set "+wanMiami+" up", dallasRoute); err != nil {
		return err
	}
	ends := map[string]string{miami: wanMiami, dallas: wanDallas}
	err := waitFor(ctx, 10*time.Second, "the link to carry", func() bool {
		for ns, dev := range ends {
			if l, err := readLink(ctx, ns, dev); err != nil || l.State != "UP" {
				return false
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	for ns, dev := range ends {
		if err := ip(ctx, ns, "neigh flush dev "+dev); err != nil {
			return err
		}
	}
	return nil
}

// netnsNames lists the lab's network namespaces.
func netnsNames(ctx context.Context) ([]string, error) {
	out, err := run(ctx, "ip", "netns", "list")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], netnsPrefix) {
			names = append(names, f[0])
		}
	}
	return names, nil
}
