package probe_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// A gRPC server counts PINGs, and ends the connection at the fourth.
func TestGRPCServersAcceptAPingEveryFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		serveGRPC(t, m)
		p := probe.HTTP2(m.Dial, "10.0.0.1:80", nil)
		defer p.Close()
		for range 500 {
			wantRTT(t, p.Probe, 2*delay)
			time.Sleep(10 * time.Second)
		}
		if n := m.dialled(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

func TestHTTP2OverTLS(t *testing.T) {
	srv, trust, opened := secureServer(t, unimplemented, true)
	p := probe.HTTP2(nil, srv.Listener.Addr().String(), trust)
	defer p.Close()
	for range 20 {
		if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
			t.Errorf("got %v, %v", rtt, err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// A server may close idle connections: that is no failure.
func TestAServerMayCloseIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		serveGRPC(t, m, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Second}))
		p := probe.HTTP2(m.Dial, "10.0.0.1:80", nil)
		defer p.Close()
		for range 10 {
			wantRTT(t, p.Probe, 2*delay)
			time.Sleep(20 * time.Second)
		}
	})
}

// peer is the other end of an HTTP/2 connection, as a test wants it.
func peer(t *testing.T, f func(*http2.Framer)) *probe.Session {
	t.Helper()
	p := probe.HTTP2(nil, listen(t, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			t.Error(err)
			return
		}
		f(http2.NewFramer(conn, conn))
		_, _ = io.Copy(io.Discard, conn) // until the other end closes
	}), nil)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// settled answers n SETTINGS.
func settled(t *testing.T, f *http2.Framer, n int) {
	for n > 0 {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Error(err)
			return
		}
		if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
			_ = f.WriteSettingsAck()
			n--
		}
	}
}

func TestHTTP2AnswersSettingsAndPingsOfThePeer(t *testing.T) {
	answers := make(chan string, 10)
	p := peer(t, func(f *http2.Framer) {
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 7})
		_ = f.WriteWindowUpdate(0, 1000)
		settled(t, f, 1)
		_ = f.WritePing(false, [8]byte{1, 2, 3})
		for range 3 {
			switch frame, err := f.ReadFrame(); frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if frame.IsAck() && frame.Data == [8]byte{1, 2, 3} {
					answers <- "ping"
				}
			default:
				t.Errorf("got %v, %v", frame, err)
			}
		}
	})
	if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 {
		t.Errorf("got %v, %v", rtt, err)
	}
	select {
	case <-answers:
	case <-time.After(10 * time.Second):
		t.Error("a ping was not answered")
	}
}

func TestHTTP2GivesUpOnAPeerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		peer  func(*http2.Framer)
		fails string
	}{
		"speaks, and does not answer": {func(f *http2.Framer) {
			_ = f.WriteSettings()
			for f.WritePing(false, [8]byte{}) == nil {
				if frame, err := f.ReadFrame(); err != nil || frame == nil {
					return
				}
			}
		}, "deadline exceeded"},
		"ends": {func(f *http2.Framer) {
			settled(t, f, 1)
			_ = f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte(strings.Repeat("too_many_pings ", 1000)))
		}, `ends the connection: ENHANCE_YOUR_CALM "too_many_pings`},
		"sends a frame that is too large": {func(f *http2.Framer) {
			_ = f.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 17<<10))
		}, "frame too large"},
		"sends nonsense": {func(f *http2.Framer) {
			_ = f.WriteRawFrame(http2.FramePing, 0, 1, []byte{1})
		}, "FRAME_SIZE_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			p := peer(t, tt.peer)
			ctx, cancel := contextFor(t, time.Second)
			defer cancel()
			rtt, err := p.Probe(ctx)
			if rtt != 0 || err == nil || !strings.Contains(err.Error(), tt.fails) || len(err.Error()) > 300 || errors.Is(err, probe.ErrNotProbed) {
				t.Errorf("got %v, %v, want an error with %s", rtt, err, tt.fails)
			}
		})
	}
}

// FuzzHTTP2Peer lets the peer send anything.
func FuzzHTTP2Peer(f *testing.F) {
	settings, ack := "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00\x00\x04\x01\x00\x00\x00\x00"
	for _, s := range []string{
		"", settings, settings + ack, settings + ack + ack, ack + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678" + ack,
		ack + "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b", "HTTP/1.1 400 Bad Request\r\n\r\n", "\xff\xff\xff\x00\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		var work sync.WaitGroup
		defer work.Wait()
		p := probe.HTTP2(func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			work.Go(func() { _, _ = io.Copy(io.Discard, there) })
			work.Go(func() {
				_, _ = there.Write(sent)
				_ = there.Close()
			})
			return here, nil
		}, "10.0.0.1:80", nil)
		defer p.Close()
		rtt, err := p.Probe(t.Context())
		if (err == nil) != (rtt > 0) || err == nil && len(sent) < 2*len(ack) {
			t.Errorf("%q: %v, %v", sent, rtt, err)
		}
	})
}

func TestAProbeDoesNotKeepAServerFromStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		srv := serveGRPC(t, m)
		p := probe.HTTP2(m.Dial, "10.0.0.1:80", nil)
		defer p.Close()
		wantRTT(t, p.Probe, 2*delay)
		began := time.Now()
		srv.GracefulStop() // asks its clients to go, and waits for 6s at most
		if took := time.Since(began); took > 10*delay {
			t.Errorf("it took %v", took)
		}
	})
}
