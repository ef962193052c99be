// Package embedded runs a NATS server with JetStream inside a program.
//
// It is a package of its own so that only the programs that import it contain a
// NATS server.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// DefaultListen is the default of [Options.Listen].
const DefaultListen = "127.0.0.1:4222"

// startTimeout bounds the start, during which the server reads its store.
const startTimeout = 30 * time.Second

// Options configure [Start]. The zero value is ready to use.
type Options struct {
	// Listen is the host:port for clients; port 0 takes a free one. Default
	// [DefaultListen].
	Listen string
	// StoreDir is the directory of the store. Default: a new one, which Close
	// removes.
	StoreDir string
	// Domain is the JetStream domain. Default: none.
	Domain string
	// Logger for the log of the server. Default [slog.Default].
	Logger *slog.Logger
}

// Server is a running NATS server.
type Server struct {
	options   server.Options // of each server that is started, the first and later ones
	address   string         // host:port
	now       atomic.Pointer[server.Server]
	log       *slog.Logger
	temporary string   // a directory that Close removes, "" for none
	lock      *os.File // of the store directory, nil for none

	stop    context.CancelFunc
	running sync.WaitGroup
	broken  chan string           // what the server logged of its store, when it could not write to it
	fault   atomic.Pointer[error] // nil: the store works
}

// Start starts a server and returns when clients can connect. ctx bounds the start
// only.
func Start(ctx context.Context, o Options) (*Server, error) {
	log := cmp.Or(o.Logger, slog.Default())
	address := cmp.Or(o.Listen, DefaultListen)
	host, port, err := hostPort(address)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: listen on %s: %w", address, err)
	}
	s := &Server{log: log, address: address, stop: func() {}, broken: make(chan string, 1)}
	dir := o.StoreDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "proxima-nats-"); err != nil {
			return nil, fmt.Errorf("embedded NATS: make a store directory: %w", err)
		}
		s.temporary = dir
	} else if err := s.lockDir(dir); err != nil {
		return nil, fmt.Errorf("embedded NATS: store directory %s: %w", dir, err)
	}
	s.options = server.Options{
		Host: host, Port: port,
		JetStream: true, JetStreamDomain: o.Domain, StoreDir: dir,
		NoSigs: true, MaxTracedMsgLen: 256,
	}
	if err := s.tryStore(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded NATS: store directory %s: %w", dir, err), s.release())
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if a, ok := s.ns().Addr().(*net.TCPAddr); ok { // a later server takes the same port
		s.options.Port, s.address = a.Port, net.JoinHostPort(host, strconv.Itoa(a.Port))
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.running.Go(func() { s.repair(run) }) // until Close
	if s.temporary != "" {
		log.Warn("the store of the embedded NATS server is temporary: it is removed when this program ends", "dir", dir)
	}
	return s, nil
}

// ns is the server that runs; nil: none was made yet.
func (s *Server) ns() *server.Server { return s.now.Load() }

// start starts a server.
func (s *Server) start(ctx context.Context) error {
	logs := &adapter{log: s.log, fatal: make(chan string, 1), broken: s.broken}
	ns, err := server.NewServer(s.options.Clone())
	if err != nil {
		return fmt.Errorf("embedded NATS: %w", err)
	}
	ns.SetLoggerV2(logs, s.log.Enabled(ctx, slog.LevelDebug), false, false)
	s.now.Store(ns)
	// The server itself finds a taken port only after it has opened the store,
	// which may be the store of another server.
	probe, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("embedded NATS: %w", err)
	}
	if err := probe.Close(); err != nil {
		return fmt.Errorf("embedded NATS: %w", err)
	}
	ns.Start()
	for deadline := time.Now().Add(startTimeout); ; {
		select {
		case why := <-logs.fatal:
			return fmt.Errorf("embedded NATS: %s", why)
		case <-ctx.Done():
			return fmt.Errorf("embedded NATS: %w", context.Cause(ctx))
		default:
		}
		if ns.ReadyForConnections(100 * time.Millisecond) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("embedded NATS: not ready after %v", startTimeout)
		}
	}
}

// URL is the address for clients in other processes.
func (s *Server) URL() string { return s.ns().ClientURL() }

// InProcess is the option for a connection without a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s) }

// InProcessConn makes such a connection, to the server that runs then.
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns().InProcessConn() }

// Close stops the server and waits until it has ended. It may be called twice.
func (s *Server) Close() error {
	s.stop()
	s.running.Wait()
	s.end()
	return s.release()
}

// end ends the server that runs.
func (s *Server) end() {
	if ns := s.ns(); ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

// lockDir makes the directory if there is none, and locks it.
func (s *Server) lockDir(dir string) (err error) {
	if err = os.MkdirAll(dir, 0o700); err == nil {
		s.lock, err = lock(dir)
	}
	return err
}

// release unlocks the store directory, or removes a temporary one.
func (s *Server) release() error {
	var err error
	if s.lock != nil {
		err = s.lock.Close()
		s.lock = nil
	}
	if s.temporary != "" {
		err = os.RemoveAll(s.temporary)
	}
	if err != nil {
		return fmt.Errorf("embedded NATS: release the store directory: %w", err)
	}
	return nil
}

func hostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("want host:port: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("want host:port with a port of 0 to 65535")
	}
	if n == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(n), nil
}

// adapter writes the log of the server with slog. Notices of the server are logged
// at debug level.
type adapter struct {
	log    *slog.Logger
	fatal  chan string // the first fatal error
	broken chan string // errors of the store
}

func (a *adapter) Noticef(format string, v ...any) { a.write(slog.LevelDebug, format, v) }
func (a *adapter) Debugf(format string, v ...any)  { a.write(slog.LevelDebug, format, v) }
func (a *adapter) Tracef(format string, v ...any)  { a.write(slog.LevelDebug, format, v) }
func (a *adapter) Warnf(format string, v ...any)   { a.write(slog.LevelWarn, format, v) }
func (a *adapter) Errorf(format string, v ...any)  { a.write(slog.LevelError, format, v) }

func (a *adapter) write(level slog.Level, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	if level == slog.LevelError && isOfStore(text) {
		select {
		case a.broken <- text:
		default:
			level = slog.LevelDebug // the first one was logged, each further write fails the same
		}
	}
	a.log.Log(context.Background(), level, "log of the embedded NATS server", "text", text)
}

// Fatalf is called before the server gives up. The logger of the server would end
// the process; this one does not.
func (a *adapter) Fatalf(format string, v ...any) {
	select {
	case a.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}
