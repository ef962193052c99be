package topology

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// CIDREntry is the location of the addresses of a network.
type CIDREntry struct {
	Prefix   netip.Prefix
	Location Location
}

// ParseCIDR reads a table of networks, one to a line, with '#' before a
// comment:
//
//	# network    where
//	10.1.0.0/16  region=us-east-1 zone=us-east-1a
//	10.1.7.0/24  region=us-east-1 zone=us-east-1a rack=r12
//
// A field that a line leaves out, or that is "_", is unknown there.
func ParseCIDR(text string) ([]CIDREntry, error) {
	table, err := parseCIDR(text)
	if err != nil {
		return nil, fmt.Errorf("topology: networks: %w", err)
	}
	return table, nil
}

func parseCIDR(text string) ([]CIDREntry, error) {
	var table []CIDREntry
	seen := make(map[netip.Prefix]bool)
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		entry, err := parseEntry(words[0], words[1:])
		if err == nil && seen[entry.Prefix] {
			err = fmt.Errorf("network %s is there twice", entry.Prefix)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		seen[entry.Prefix] = true
		table = append(table, entry)
	}
	return table, nil
}

func parseEntry(network string, words []string) (CIDREntry, error) {
	prefix, err := netip.ParsePrefix(network)
	switch {
	case err != nil && isAddr(network):
		return CIDREntry{}, fmt.Errorf("network %.80q has no prefix length: want a network such as 10.1.0.0/16, or a /32 (IPv6: /128) of one address", network)
	case err != nil:
		return CIDREntry{}, fmt.Errorf("network %.80q: want a network such as 10.1.0.0/16", network)
	case prefix.Addr().Is4In6():
		return CIDREntry{}, fmt.Errorf("network %s: want an IPv4 network as such", prefix)
	case prefix != prefix.Masked():
		return CIDREntry{}, fmt.Errorf("network %s: want %s, or a longer prefix", prefix, prefix.Masked())
	}
	entry := CIDREntry{Prefix: prefix}
	given := make(map[string]bool)
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		into := entry.Location.field(Level(key))
		switch {
		case into == nil || value == "":
			return CIDREntry{}, fmt.Errorf("%.80q: want region=, zone=, rack= or host= with a value", word)
		case given[key]:
			return CIDREntry{}, fmt.Errorf("%s is there twice", key)
		}
		*into, given[key] = value, true
	}
	entry.Location.Normalize()
	return entry, entry.Location.Validate()
}

func isAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" // a zone may hold a '/'
}

// LocateCIDR returns the location and prefix of the network that contains one of the
// addresses: the one with the longest prefix, of equally long ones the first. Prefix
// is invalid when no network does.
func LocateCIDR(table []CIDREntry, addrs ...netip.Addr) (where Location, prefix netip.Prefix) {
	for _, e := range table {
		if prefix.IsValid() && e.Prefix.Bits() <= prefix.Bits() {
			continue
		}
		for _, a := range addrs {
			if e.Prefix.Contains(a.Unmap().WithZone("")) {
				where, prefix = e.Location, e.Prefix
				break
			}
		}
	}
	return where, prefix
}

// CIDR is a detector that looks this machine's own addresses up in a table.
// A nil addrs is [InterfaceAddrs].
func CIDR(table []CIDREntry, addrs func() ([]netip.Addr, error)) Detector {
	return Detector{"cidr", func(context.Context) (Location, error) { return locate(table, addrs) }}
}

// CIDRFile is [CIDR] with the table of a file, which is read anew at each
// detection. See [ParseCIDR].
func CIDRFile(path string, addrs func() ([]netip.Addr, error)) Detector {
	return Detector{"cidr " + path, func(context.Context) (Location, error) {
		text, err := readFile(path)
		if err != nil {
			return Location{}, err
		}
		table, err := parseCIDR(text)
		if err != nil {
			return Location{}, err
		}
		return locate(table, addrs)
	}}
}

func locate(table []CIDREntry, addrs func() ([]netip.Addr, error)) (Location, error) {
	if addrs == nil {
		addrs = InterfaceAddrs
	}
	own, err := addrs()
	if err != nil {
		return Location{}, fmt.Errorf("own addresses: %w", err)
	}
	l, _ := LocateCIDR(table, own...)
	return l, nil
}

// InterfaceAddrs are the addresses of this machine's interfaces that are up.
func InterfaceAddrs() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				own = append(own, p.Addr().Unmap())
			}
		}
	}
	return own, nil
}
