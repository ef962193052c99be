package check_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
)

func TestACommandListensWhereItsFirstEndpointIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := filepath.Join(t.TempDir(), "a.sock")
	s, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open, shut := l.Addr().String(), "127.0.0.1:1"
	for _, tt := range []struct {
		endpoints map[string]string
		passes    bool
	}{
		{map[string]string{"http": open, "http.admin": shut}, true},
		{map[string]string{"http": shut, "http.admin": open}, false},
		{map[string]string{"grpc.a": shut, "http.b": open}, true},
		{map[string]string{"grpcs": open, "udp": shut, "nats": "a.b"}, true},
		{map[string]string{"http": "unix:" + socket, "tcp": open}, true},
		{map[string]string{"http": "unix:" + socket}, true},
		{map[string]string{"http.a": "unix:" + socket + "2"}, false},
	} {
		if err := check.Listening(tt.endpoints, time.Hour)(t.Context()); (err == nil) != tt.passes {
			t.Errorf("%v: %v", tt.endpoints, err)
		}
	}
	if check.Listening(map[string]string{"udp": open, "nats": "a.b"}, time.Hour) != nil {
		t.Error("there is nothing to connect to")
	}
}
