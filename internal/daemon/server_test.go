package daemon_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestHealthIsServedUntilTheContextEnds(t *testing.T) {
	l, err := daemon.Listen("--admin", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var why error
	mux := http.NewServeMux()
	daemon.HandleHealth(mux, func() error { return why }, nil, http.NotFoundHandler())
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- daemon.Serve(ctx, daemon.NewHTTPServer(mux, slog.New(slog.DiscardHandler)), l, daemon.Ending{Grace: time.Second})
	}()
	url := "http://" + l.Addr().String()
	if code, body := get(t, url+"/healthz"); code != 200 || body != `{"ok":true}` {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if code, body := get(t, url+"/readyz"); code != 200 || body != `{"ready":true}` {
		t.Errorf("/readyz: %d %s", code, body)
	}
	why = errors.New(`"user" is not registered`)
	if code, body := get(t, url+"/readyz"); code != 503 || body != `{"ready":false,"reason":"\"user\" is not registered"}` {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _ := get(t, url+"/metrics"); code != 404 {
		t.Errorf("/metrics: %d", code)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("still served")
	}
}

func TestServeClosesConnectionsAfterTheGraceTime(t *testing.T) {
	l, err := daemon.Listen("--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	srv := daemon.NewHTTPServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}), slog.New(slog.DiscardHandler))
	go func() { served <- daemon.Serve(ctx, srv, l, daemon.Ending{Grace: 10 * time.Millisecond}) }()
	asked := make(chan error, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err == nil {
			resp.Body.Close()
		}
		asked <- err
	}()
	<-begun
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := <-asked; err == nil {
		t.Error("the request was answered")
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	srv := daemon.NewHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if err := daemon.Serve(t.Context(), srv, l, daemon.Ending{Grace: time.Second}); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("error %v", err)
	}
}

func TestListenReportsAWrongAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		address string
		usage   bool
		want    string
	}{
		{taken.Addr().String(), false, "address already in use"},
		{"127.0.0.1", true, "want host:port: "},
		{"127.0.0.1:x", true, "want host:port: "},
	} {
		_, err := daemon.Listen("--admin", tt.address)
		_, usage := errors.AsType[*daemon.UsageError](err)
		if err == nil || usage != tt.usage || !strings.HasPrefix(err.Error(), "--admin "+tt.address+": ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: usage %v, error %v", tt.address, usage, err)
		}
	}
}
