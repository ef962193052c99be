package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// maxFrame is the largest frame that a peer may send by default, in bytes.
const maxFrame = 16 << 10

// HTTP2 measures the round trip of a frame on an open HTTP/2 connection, for gRPC
// servers and HTTPS. The peer's HTTP/2 answers it, not a handler. The frame is an
// empty SETTINGS, which a peer must acknowledge at once. It is not a PING: gRPC
// servers treat a PING every few seconds as abuse, and close the connection at
// every fourth.
//
// With a nil secure it is cleartext HTTP/2, which ordinary HTTP servers do not
// support; else TLS. A nil dial is that of [net.Dialer].
func HTTP2(dial Dial, address string, secure *tls.Config) *Session {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return newSession(address, func(ctx context.Context) (circuit, error) {
		conn, err := dial(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if secure != nil {
			if conn, err = startTLS(ctx, conn, address, secure); err != nil {
				return nil, err
			}
		}
		c := &frames{Conn: conn, framer: http2.NewFramer(conn, bufio.NewReader(conn)), acks: make(chan struct{}, 1), broken: make(chan struct{})}
		c.framer.SetMaxReadFrameSize(maxFrame)
		if err := c.handshake(ctx); err != nil {
			_ = c.Close()
			return nil, err
		}
		return c, nil
	})
}

// startTLS agrees with the peer on TLS and HTTP/2, or closes conn.
func startTLS(ctx context.Context, conn net.Conn, address string, secure *tls.Config) (net.Conn, error) {
	config := secure.Clone()
	config.NextProtos = []string{http2.NextProtoTLS}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	t := tls.Client(conn, config)
	err := t.HandshakeContext(ctx)
	if err == nil && t.ConnectionState().NegotiatedProtocol != http2.NextProtoTLS {
		err = errors.New("the server does not speak HTTP/2")
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

// frames is an HTTP/2 connection without requests. A goroutine always reads from
// it: a server that stops gracefully waits for its clients.
type frames struct {
	net.Conn
	framer  *http2.Framer
	reading sync.WaitGroup
	acks    chan struct{} // acknowledgements of SETTINGS
	broken  chan struct{} // closed when the reader ends
	err     error         // of the reader, after that

	writing sync.Mutex // one frame at a time
}

// handshake opens the connection. When it returns, the peer has acknowledged the
// first SETTINGS.
func (f *frames) handshake(ctx context.Context) error {
	return f.exchange(ctx, func() error {
		if _, err := io.WriteString(f.Conn, http2.ClientPreface); err != nil {
			return err
		}
		f.reading.Go(f.read) // not before: it writes answers, and the preface must come first
		return f.framer.WriteSettings()
	})
}

func (f *frames) trip(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	err := f.exchange(ctx, func() error { return f.framer.WriteSettings() })
	return time.Since(start), err
}

// exchange writes SETTINGS and waits for their acknowledgement. After an error
// the connection is broken.
func (f *frames) exchange(ctx context.Context, write func() error) error {
	// Writing may block. Closing the connection ends that.
	defer context.AfterFunc(ctx, func() { _ = f.Conn.Close() })()
	if err := f.write(write); err != nil {
		select {
		case <-f.broken: // the reader failed first
			return f.err
		default:
			return err
		}
	}
	select {
	case <-f.acks:
		return nil
	case <-f.broken:
		return f.err
	}
}

func (f *frames) write(write func() error) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	return write()
}

// read reads until the connection ends.
func (f *frames) read() {
	for f.err == nil {
		f.err = f.readFrame()
	}
	close(f.broken)
	_ = f.Conn.Close()
}

// readFrame reads a frame and answers it.
func (f *frames) readFrame() error {
	frame, err := f.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			return f.write(f.framer.WriteSettingsAck)
		}
		select {
		case f.acks <- struct{}{}:
		default:
			return errors.New("an acknowledgement without SETTINGS")
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			return f.write(func() error { return f.framer.WritePing(true, frame.Data) })
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server ends the connection: %v %.100q", frame.ErrCode, frame.DebugData())
	}
	return nil
}

// Close closes the connection and waits for its reader.
func (f *frames) Close() error {
	err := f.Conn.Close()
	f.reading.Wait()
	return err
}
