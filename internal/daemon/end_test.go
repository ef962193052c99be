package daemon_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

// elapsed is how long after now a context ends.
func elapsed(ctx context.Context) time.Duration {
	began := time.Now()
	<-ctx.Done()
	return time.Since(began)
}

func TestAnEndDrainsThenWaitsAndThenCuts(t *testing.T) {
	for _, tt := range []struct {
		name             string
		hurry            time.Duration // after the stop; 0: none
		closing, cutting time.Duration // after the stop
	}{
		{"unhurried", 0, 5 * time.Second, 15 * time.Second},
		{"hurried in the drain", 2 * time.Second, 2 * time.Second, 2 * time.Second},
		{"hurried in the grace", 7 * time.Second, 5 * time.Second, 7 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				hurried, hurry := context.WithCancel(t.Context())
				defer hurry()
				end := daemon.End{Drain: 5 * time.Second, Grace: 10 * time.Second, Hurry: hurried.Done()}
				closing, cutting, release := end.Phases(ctx)
				defer release()
				time.Sleep(time.Hour)
				if closing.Err() != nil {
					t.Fatal("it closes before the stop")
				}
				stop()
				if tt.hurry > 0 {
					time.AfterFunc(tt.hurry, hurry)
				}
				began := time.Now()
				if got := elapsed(closing); got != tt.closing {
					t.Errorf("closing after %v, want %v", got, tt.closing)
				}
				if <-cutting.Done(); time.Since(began) != tt.cutting {
					t.Errorf("cutting after %v, want %v", time.Since(began), tt.cutting)
				}
			})
		})
	}
}

func TestAnEndThatIsReleasedCutsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		closing, cutting, release := daemon.End{Grace: time.Second}.Phases(ctx)
		stop()
		<-closing.Done()
		release()
		time.Sleep(time.Minute)
		if cutting.Err() != nil {
			t.Error("it cuts")
		}
	})
}

// Clients of both protocols that keep a connection get all answers, and the next
// request after the stop has begun is on another connection.
func TestLastAnswersEndKeptConnectionsWithoutAFailure(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			stopping := make(chan struct{})
			srv := daemon.NewHTTPServer(daemon.LastAnswers(stopping, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.RemoteAddr)
			})), slog.New(slog.DiscardHandler))
			protocols := new(http.Protocols)
			protocols.SetHTTP1(protocol == "HTTP/1.1")
			protocols.SetUnencryptedHTTP2(protocol == "HTTP/2.0")
			srv.Protocols = protocols
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = srv.Serve(l) }() // ends with Close
			defer srv.Close()
			client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
			defer client.CloseIdleConnections()
			ask := func() (from string) {
				t.Helper()
				resp, err := client.Get("http://" + l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.Proto != protocol {
					t.Errorf("%s: %v", resp.Proto, err)
				}
				return string(body)
			}
			first, second := ask(), ask()
			if first != second {
				t.Fatalf("the connection was not kept: %s, %s", first, second)
			}
			close(stopping)
			last, other := ask(), ask()
			if last != first {
				t.Errorf("the kept connection was cut: %s, then %s", first, last)
			}
			// With HTTP/2 the client may send a request before it has read the
			// GOAWAY: it is answered too.
			for deadline := time.Now().Add(patience); other == first && time.Now().Before(deadline); {
				other = ask()
			}
			if other == first {
				t.Error("the connection is still used")
			}
		})
	}
}

func TestAnUpgradeIsNotAskedToCloseItsConnection(t *testing.T) {
	stopping := make(chan struct{})
	close(stopping)
	handler := daemon.LastAnswers(stopping, http.NotFoundHandler())
	for upgrade, want := range map[string]string{"": "close", "websocket": ""} {
		w, req := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Upgrade", upgrade)
		handler.ServeHTTP(w, req)
		if got := w.Header().Get("Connection"); got != want {
			t.Errorf("upgrade %q: connection %q, want %q", upgrade, got, want)
		}
	}
}
