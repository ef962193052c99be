package topology_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

const networks = `
# the office
10.0.0.0/8   region=us-east-1
10.1.0.0/16  region=us-east-1 zone=us-east-1a rack=r12   # second floor
10.1.7.0/24  region=us-east-1 zone=us-east-1b host=node-3
10.9.0.0/16  region=_
2001:db8::/32 region=eu-west-1	zone=eu-west-1a
`

func TestTheLongestPrefixWins(t *testing.T) {
	table, err := topology.ParseCIDR(networks)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		addrs, want, prefix string
	}{
		{"10.2.3.4", "us-east-1/_", "10.0.0.0/8"},
		{"10.1.3.4", "us-east-1/us-east-1a/r12", "10.1.0.0/16"},
		{"10.1.7.4", "us-east-1/us-east-1b/_/node-3", "10.1.7.0/24"},
		{"10.9.1.1", "_/_", "10.9.0.0/16"},
		{"::ffff:10.1.3.4", "us-east-1/us-east-1a/r12", "10.1.0.0/16"},
		{"2001:db8::1%eth0", "eu-west-1/eu-west-1a", "2001:db8::/32"},
		{"127.0.0.1 192.168.1.1 10.1.3.4 10.2.0.1 ::1", "us-east-1/us-east-1a/r12", "10.1.0.0/16"},
		{"192.168.1.1", "_/_", ""},
		{"", "_/_", ""},
	} {
		var addrs []netip.Addr
		for a := range strings.FieldsSeq(tt.addrs) {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		got, prefix := topology.LocateCIDR(table, addrs...)
		if got.String() != tt.want {
			t.Errorf("%s is in %s, want %s", tt.addrs, got, tt.want)
		}
		if tt.prefix == "" && prefix.IsValid() || tt.prefix != "" && prefix != netip.MustParsePrefix(tt.prefix) {
			t.Errorf("%s is in network %s, want %s", tt.addrs, prefix, tt.prefix)
		}
		own := func() ([]netip.Addr, error) { return addrs, nil }
		for _, detector := range []topology.Detector{topology.CIDR(table, own), topology.CIDRFile(write(t, networks), own)} {
			if d := topology.Detect(t.Context(), detector); d.Location != got || d.Errors != nil {
				t.Errorf("%s detects %+v, want %s", detector.Name, d, got)
			}
		}
	}
}

func TestOfEquallyLongPrefixesTheFirstOfTheTableWins(t *testing.T) {
	table, err := topology.ParseCIDR("10.2.0.0/16 zone=a\n10.1.0.0/16 zone=b\n")
	if err != nil {
		t.Fatal(err)
	}
	one, two := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")
	for _, addrs := range [][]netip.Addr{{one, two}, {two, one}} {
		if got, _ := topology.LocateCIDR(table, addrs...); got.Zone != "a" {
			t.Errorf("%v is in zone %s, want a", addrs, got.Zone)
		}
	}
}

func TestAWrongNetworkNamesItsLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no network", "# c\nzone=a", `line 2: network "zone=a": want a network such as 10.1.0.0/16`},
		{"an address", "10.1.0.1 zone=a", `line 1: network "10.1.0.1" has no prefix length: want a network such as 10.1.0.0/16`},
		{"host bits", "10.1.0.1/16 zone=a", "line 1: network 10.1.0.1/16: want 10.1.0.0/16, or a longer prefix"},
		{"IPv4 in IPv6", "::ffff:10.1.0.0/112 zone=a", "line 1: network ::ffff:10.1.0.0/112: want an IPv4 network as such"},
		{"an IPv6 zone", "fe80::%eth0/64 zone=a", `line 1: network "fe80::%eth0/64": want a network such as`},
		{"unknown field", "10.1.0.0/16 zoen=a", `line 1: "zoen=a": want region=, zone=, rack= or host= with a value`},
		{"no value", "10.1.0.0/16 zone=", `line 1: "zone=": want region=`},
		{"no equals sign", "10.1.0.0/16 us-east-1a", `line 1: "us-east-1a": want region=`},
		{"field twice", "10.1.0.0/16 zone=a region=r zone=a", "line 1: zone is there twice"},
		{"network twice", "10.1.0.0/16 zone=a\n\n10.1.0.0/16 zone=b", "line 3: network 10.1.0.0/16 is there twice"},
		{"illegal name", "10.1.0.0/16 region=us.east", `line 1: region "us.east": want 1 to 63 of`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, err := topology.ParseCIDR(tt.text)
			if table != nil || err == nil || !strings.HasPrefix(err.Error(), "topology: networks: "+tt.want) {
				t.Errorf("got %v, %v, want the error %q", table, err, tt.want)
			}
			path := write(t, tt.text)
			d := topology.Detect(t.Context(), topology.CIDRFile(path, nil))
			if len(d.Errors) != 1 || !strings.HasPrefix(d.Errors[0].Error(), "topology: cidr "+path+": "+tt.want) {
				t.Errorf("errors of the detector are %v, want %q", d.Errors, tt.want)
			}
		})
	}
}

func TestCIDRReportsWhatItCouldNotRead(t *testing.T) {
	broken := errors.New("permission denied")
	d := topology.Detect(t.Context(),
		topology.CIDR(nil, func() ([]netip.Addr, error) { return nil, broken }),
		topology.CIDRFile(filepath.Join(t.TempDir(), "networks"), nil),
	)
	if len(d.Errors) != 2 || !errors.Is(d.Errors[0], broken) || !errors.Is(d.Errors[1], fs.ErrNotExist) {
		t.Errorf("errors are %v", d.Errors)
	}
}

func TestCIDRUsesTheAddressesOfThisMachine(t *testing.T) {
	own, err := topology.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	if len(own) == 0 {
		t.Fatal("no address, want at least the loopback's")
	}
	for _, a := range own {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			t.Errorf("address %v is not plain", a)
		}
	}
	table := []topology.CIDREntry{{Prefix: netip.PrefixFrom(own[0], own[0].BitLen()), Location: topology.Location{Zone: "here"}}}
	d := topology.Detect(t.Context(), topology.CIDR(table, nil))
	if d.Location.Zone != "here" || d.Won[topology.Zone] != "cidr" {
		t.Errorf("got %+v", d)
	}
}

func TestLocateCIDRAgreesWithASearchThroughSortedPrefixes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(rnd.IntN(4)), byte(rnd.IntN(4)), byte(rnd.IntN(8))})
	}
	for range 500 {
		byPrefix := make(map[netip.Prefix]topology.Location)
		var table []topology.CIDREntry
		for range 20 {
			p := netip.PrefixFrom(addr(), 8+rnd.IntN(25)).Masked()
			if _, ok := byPrefix[p]; !ok {
				byPrefix[p] = topology.Location{Host: p.String()}
				table = append(table, topology.CIDREntry{Prefix: p, Location: byPrefix[p]})
			}
		}
		a := addr()
		var want topology.Location
		for bits := 32; bits >= 0; bits-- {
			p, err := a.Prefix(bits)
			if err != nil {
				t.Fatal(err)
			}
			if l, ok := byPrefix[p]; ok {
				want = l
				break
			}
		}
		if got, _ := topology.LocateCIDR(table, a); got != want {
			t.Fatalf("%s is in %s, want %s", a, got.Host, want.Host)
		}
	}
}

func FuzzParseCIDR(f *testing.F) {
	f.Add(networks)
	f.Add("10.1.0.1/16 zone=a")
	f.Add("::/0 host=a=b rack=é#x")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := topology.ParseCIDR(text)
		if err != nil {
			if table != nil {
				t.Fatalf("refused and still %v", table)
			}
			return
		}
		var again strings.Builder
		for _, e := range table {
			if err := e.Location.Validate(); err != nil {
				t.Fatalf("%q was accepted: %v", text, err)
			}
			again.WriteString(e.Prefix.String())
			for level, value := range map[string]string{"region": e.Location.Region, "zone": e.Location.Zone, "rack": e.Location.Rack, "host": e.Location.Host} {
				if value != "" {
					again.WriteString(" " + level + "=" + value)
				}
			}
			again.WriteString("\n")
			if got, prefix := topology.LocateCIDR(table, e.Prefix.Addr()); !prefix.IsValid() || prefix.Bits() < e.Prefix.Bits() {
				t.Fatalf("the first address of %s is in %s %s", e.Prefix, prefix, got)
			}
		}
		back, err := topology.ParseCIDR(again.String())
		if diff := cmp.Diff(table, back, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); err != nil || diff != "" {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}
