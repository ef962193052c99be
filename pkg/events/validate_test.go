package events_test

import (
	"errors"
	"math"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestValidateService(t *testing.T) {
	for _, s := range []string{"a", "0", "user", "user-2", "2-user", strings.Repeat("a", 63)} {
		if err := events.ValidateService(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "-", "-a", "a-", "A", "a_b", "a.b", "a b", "*", ">", "é", "a\x00", "a\n", "_", strings.Repeat("a", 64)} {
		checkField(t, events.ValidateService(s), "service", "want a DNS label")
	}
}

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
		for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP} {
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
		for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP} {
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
		"$JS.API.STREAM.DELETE.KV_proxima", "$SYS.REQ.SERVER.PING", "$KV.proxima.inst.x", strings.Repeat("a", 256),
	} {
		checkField(t, events.ValidateEndpoint(events.NATS, subject), "endpoints.nats", "want a NATS subject")
	}
	for _, protocol := range []string{"", "HTTP", "udp", "http ", "h\nttp"} {
		checkField(t, events.ValidateEndpoint(protocol, "10.0.0.5:80"), "endpoints", "want a protocol of http, https, grpc, tcp or nats")
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
	protocols := []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP, events.NATS, "", "udp"}
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
		switch protocol {
		case events.NATS:
			if strings.ContainsAny(address, "*>") || strings.Contains("."+address+".", "..") || address[0] == '$' {
				t.Fatalf("accepted subject %q", address)
			}
			return
		case events.HTTP, events.HTTPS, events.GRPC, events.TCP:
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
