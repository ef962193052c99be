package events_test

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestValidateName(t *testing.T) {
	for _, s := range []string{"a", "Z", "_", "-", "a-b_C9", strings.Repeat("a", 63)} {
		if err := events.ValidateName("id", s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "a.b", "a b", "*", ">", "$a", "a/b", "é", "a\x00", "a\n", "\xff", strings.Repeat("a", 64), strings.Repeat("a", 4096)} {
		checkField(t, events.ValidateName("zone", s), "zone", "want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'")
	}
}

func TestValidateEndpoint(t *testing.T) {
	for _, address := range []string{
		"10.0.0.5:8080", "127.0.0.1:1", "user:80", "user.default.svc.cluster.local:65535", "example.com.:80",
		"[::1]:80", "[2001:db8::5]:8080", "[::ffff:10.0.0.5]:80", "my_host-1:80", "A.example:443", "7f3a2b1c0d9e:80",
		"123456789012:80", "1a.2b:80", strings.Repeat(strings.Repeat("a", 62)+".", 4) + "a:80",
	} {
		for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.GRPCS, events.TCP, events.UDP} {
			if err := events.ValidateEndpoint(protocol, address); err != nil {
				t.Error(err)
			}
		}
	}
	for _, address := range []string{
		"", ":", ":80", "user", "user:", "user:0", "user:00", "user:080", "user:65536", "user:99999999999", "user:-1", "user:+80",
		"user:http", "user:80:80", "user:8 0", " user:80", "user:80 ", "us er:80", "user\n:80", "user:80\r\n", "http://user:80", "user:80/path",
		"a@user:80", "user?:80", "us#er:80", "-user:80", "user-:80", "a..b:80", ".:80", ".a:80", "é:80", "a\x00:80", "\r:80", "\x10:80", "a\r:80",
		"::1:80", "[::1:80", "[::1]80", "[]:80", "[user]:80", "[10.0.0.5]:80", "[fe80::1%eth0]:80", "[fe80::1%a b]:80", "fe80::1%eth0:80",
		"0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "224.0.0.1:80", "[ff02::1]:80",
		"10.0.1:80", "256.1.1.1:80", "1.2.3.4.5:80", "1.2.3.4.:80", "127.1:80", "2130706433:80", "010.0.0.1:80",
		strings.Repeat("a", 64) + ":80", strings.Repeat("a.", 127) + "a:80",
	} {
		for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.GRPCS, events.TCP, events.UDP} {
			checkField(t, events.ValidateEndpoint(protocol, address), "endpoints."+protocol, "want host:port")
		}
	}
	for _, subject := range []string{"user", "svc.user.7f3a", "_INBOX.x", "a.$b", "A-b_c.0", strings.Repeat("a", 255)} {
		if err := events.ValidateEndpoint(events.NATS, subject); err != nil {
			t.Error(err)
		}
	}
	for _, subject := range []string{
		"", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\nb", "*", "a.*", "a*", ">", "a.>", "é", "a\x7f", "a\x00",
		"$JS.API.STREAM.DELETE.KV_proxima", "$SYS.REQ.SERVER.PING", "$KV.proxima.inst.x", "unix:/run/a", strings.Repeat("a", 256),
	} {
		checkField(t, events.ValidateEndpoint(events.NATS, subject), "endpoints.nats", "want a NATS subject")
	}
	for _, protocol := range []string{"", "HTTP", "quic", "http ", "h\nttp", ".http", "httpx.admin"} {
		checkField(t, events.ValidateEndpoint(protocol, "10.0.0.5:80"), "endpoints", "want a protocol of http, https, grpc, grpcs, tcp, udp or nats")
	}
}

func TestAnEndpointMayHaveANameAfterItsProtocol(t *testing.T) {
	for _, endpoint := range []string{"http.admin", "https.a", "grpc.internal", "grpcs.internal-2", "tcp.0", "udp.dns", "nats.jobs", "http.abcdefghijklmno"} {
		address := "10.0.0.5:80"
		if strings.HasPrefix(endpoint, "nats") {
			address = "user.jobs"
		}
		if err := events.ValidateEndpoint(endpoint, address); err != nil {
			t.Error(err)
		}
	}
	for _, endpoint := range []string{"http.", "http.Admin", "http.-a", "http.a-", "http.a_b", "http.a.b", "http.a b", "http.é", "http.abcdefghijklmnop"} {
		checkField(t, events.ValidateEndpoint(endpoint, "10.0.0.5:80"), "endpoints", "want a name after the protocol")
	}
	checkField(t, events.ValidateEndpoint("http.admin", "10.0.0.5"), "endpoints.http.admin", "want host:port")
	for endpoint, want := range map[string][2]string{"http": {"http", ""}, "http.admin": {"http", "admin"}, "": {"", ""}} {
		if protocol, name := events.CutEndpoint(endpoint); protocol != want[0] || name != want[1] {
			t.Errorf("%q is %q and %q, want %q", endpoint, protocol, name, want)
		}
	}
}

func TestASocketIsForCallersOnTheSameHost(t *testing.T) {
	long := "/" + strings.Repeat("a", 103)
	for _, path := range []string{"/run/user.sock", "/a", "/run/a-b_c@d", long} {
		for _, endpoint := range []string{"http", "grpc", "tcp", "http.admin"} {
			if err := events.ValidateEndpoint(endpoint, "unix:"+path); err != nil {
				t.Error(err)
			}
		}
		if network, dial := events.Network("unix:" + path); network != "unix" || dial != path {
			t.Errorf("%s is dialled as %s %s", path, network, dial)
		}
		for _, endpoint := range []string{"https", "grpcs", "udp", "https.admin"} {
			checkField(t, events.ValidateEndpoint(endpoint, "unix:"+path), "endpoints."+endpoint, "want host:port")
		}
	}
	if network, dial := events.Network("10.0.0.5:80"); network != "tcp" || dial != "10.0.0.5:80" {
		t.Errorf("an address is dialled as %s %s", network, dial)
	}
	for _, path := range []string{"", "/", "run/a", "@abstract", "//run/a", "/run//a", "/run/", "/run/../a", "/run/./a", "/a b", "/a\n", "/é", "/a\x00", long + "a"} {
		checkField(t, events.ValidateEndpoint("http", "unix:"+path), "endpoints.http", "want host:port, or unix:")
	}

	in := user()
	in.Endpoints = map[string]string{"http": "unix:/run/user.sock"}
	if in.Location.Host == "" {
		t.Fatal("the instance has no host")
	}
	if err := in.Validate(); err != nil {
		t.Error(err)
	}
	if endpoint, _, found := in.LoopbackEndpoint(); found {
		t.Errorf("%s counts as loopback", endpoint)
	}
	in.Location.Host = ""
	checkField(t, in.Validate(), "location.host", "want the host")
}

func TestTheFirstEndpointOfAProtocolIsTheOneWithoutAName(t *testing.T) {
	in := events.Instance{Endpoints: map[string]string{
		"http": "h:1", "http.admin": "h:2", "grpc.b": "h:3", "grpc.a": "h:4", "tcp": "unix:/run/a", "tcp.z": "h:5", "https.a": "unix:/run/b",
	}}
	for protocol, want := range map[string]string{"http": "h:1", "grpc": "h:4", "tcp": "h:5", "https": "", "udp": ""} {
		if got := in.FirstEndpoint(protocol); got != want {
			t.Errorf("%s is %q, want %q", protocol, got, want)
		}
	}
}

func TestValidateCoordinate(t *testing.T) {
	valid := events.Coordinate{Vec: [8]float64{-10, 10}, Error: 10, Adjustment: -10, Height: math.Copysign(0, -1)}
	if err := valid.Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 10.001, -10.001} {
		for field, c := range map[string]events.Coordinate{
			"coordinate.vec":        {Vec: [8]float64{7: bad}},
			"coordinate.error":      {Error: bad},
			"coordinate.adjustment": {Adjustment: bad},
			"coordinate.height":     {Height: bad},
		} {
			checkField(t, c.Validate(), field, "want finite seconds, at most 10")
		}
	}
	checkField(t, (&events.Coordinate{Error: -0.1}).Validate(), "coordinate.error", "want no negative value")
	checkField(t, (&events.Coordinate{Height: -0.1}).Validate(), "coordinate.height", "want no negative value")
}

func TestAFieldErrorShowsItsValueInShort(t *testing.T) {
	err := events.ValidateName("zone", strings.Repeat("é", 100))
	want := `events: zone "` + strings.Repeat("é", 40) + `…": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func checkField(t *testing.T, err error, field, rule string) {
	t.Helper()
	fe, ok := errors.AsType[*events.FieldError](err)
	if !ok || fe.Field != field || !strings.HasPrefix(fe.Rule, rule) {
		t.Errorf("got %v, want field %s, rule %s", err, field, rule)
	}
}

func FuzzValidateEndpoint(f *testing.F) {
	for _, address := range []string{
		"10.0.0.5:8080", "[::1]:80", "user.example.com:443", "[fe80::1%eth0]:80", "[a]:80", "\x10\r:80", "a.b.>", "$JS.API", "256.1.1.1:1", "a:080",
	} {
		f.Add(uint8(0), address)
		f.Add(uint8(4), address)
	}
	f.Add(uint8(0), "unix:/run/user.sock")
	f.Add(uint8(7), "unix:/run/../a")
	protocols := []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP, events.NATS, "", "quic", "http.admin", events.GRPCS, "udp.dns"}
	f.Fuzz(func(t *testing.T, p uint8, address string) {
		protocol := protocols[int(p)%len(protocols)]
		err := events.ValidateEndpoint(protocol, address)
		if err != nil {
			if _, ok := errors.AsType[*events.FieldError](err); !ok {
				t.Fatalf("%v is no FieldError", err)
			}
			return
		}
		if strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(address) > 270 {
			t.Fatalf("accepted %q", address)
		}
		if network, file := events.Network(address); network == "unix" {
			if protocol != events.HTTP && protocol != events.GRPC && protocol != events.TCP && protocol != "http.admin" {
				t.Fatalf("accepted %q for %s", address, protocol)
			}
			if file != path.Clean(file) || file[0] != '/' || len(file) > 104 {
				t.Fatalf("accepted socket %q", file)
			}
			return
		}
		switch protocol {
		case events.NATS:
			if strings.ContainsAny(address, "*>") || strings.Contains("."+address+".", "..") || address[0] == '$' {
				t.Fatalf("accepted subject %q", address)
			}
			return
		case events.HTTP, events.HTTPS, events.GRPC, events.TCP, events.GRPCS, "http.admin", "udp.dns":
		default:
			t.Fatalf("accepted protocol %q", protocol)
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || net.JoinHostPort(host, port) != address {
			t.Fatalf("accepted %q, which is host %q and port %q: %v", address, host, port, err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
			t.Fatalf("accepted port %q", port)
		}
		if ip, err := netip.ParseAddr(host); err == nil && (ip.Zone() != "" || ip.Unmap().IsUnspecified()) {
			t.Fatalf("accepted %q, which means nothing to others", address)
		}
		u, err := url.Parse("http://" + address + "/path")
		if err != nil || u.Host != address || u.Hostname() != host || u.Port() != port || u.Path != "/path" {
			t.Fatalf("accepted %q, as a URL it is %v, %v", address, u, err)
		}
	})
}
