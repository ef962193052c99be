package events_test

import (
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestLoopbackIsTheMachineOfTheReader(t *testing.T) {
	for _, host := range []string{
		"", "localhost", "LocalHost", "localhost.", "user.localhost", "localhost.localdomain", "ip6-localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "::ffff:127.0.0.1",
		"0.0.0.0", "::", "[::]",
	} {
		if !events.Loopback(host) {
			t.Errorf("%q is not loopback", host)
		}
	}
	for _, host := range []string{"10.0.0.5", "128.0.0.1", "fd00::1", "fe80::1%eth0", "user", "localhost.example", "localdomain", "mylocalhost", "127.0.0.1.example", "example.com"} {
		if events.Loopback(host) {
			t.Errorf("%q is loopback", host)
		}
	}
}

func TestTheLoopbackEndpointIsTheFirstByProtocol(t *testing.T) {
	for _, tt := range []struct {
		endpoints map[string]string
		want      string
	}{
		{map[string]string{events.HTTP: "10.0.0.5:80", events.TCP: "[fd00::1]:80"}, ""},
		{map[string]string{events.NATS: "localhost"}, ""},
		{map[string]string{events.HTTP: "10.0.0.5:80", events.TCP: "[::1]:80"}, "tcp=[::1]:80"},
		{map[string]string{events.HTTPS: "localhost:2", events.GRPC: "127.0.0.1:1"}, "grpc=127.0.0.1:1"},
		{nil, ""},
	} {
		in := events.Instance{Endpoints: tt.endpoints}
		protocol, address, found := in.LoopbackEndpoint()
		got := ""
		if found {
			got = protocol + "=" + address
		}
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.endpoints, got, tt.want)
		}
	}
}
