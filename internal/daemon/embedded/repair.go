package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	repairEvery = time.Second // between two tries to write to a store that could not be written to
	// room is how much must be free for a try to succeed: less than a new block of the store
	// needs, more than a full disk has.
	room = 64 << 10
)

// isOfStore reports whether a line of the server's log says that it could not write to its
// store. The server (2.15.2) then takes no more writes until JetStream is started again,
// or stops JetStream by itself, and tells neither in another way.
func isOfStore(text string) bool {
	for _, sign := range []string{"critical write error", "failed to store a msg", "will be DISABLED", "disabling JetStream"} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(sign)) {
			return true
		}
	}
	return false
}

// Err is why the server cannot write to its store, nil when it can. The server comes back
// by itself when there is room again.
func (s *Server) Err() error {
	if err := s.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// repair starts JetStream again when it could not write and the store can be written to
// again, until ctx ends. Clients stay connected.
func (s *Server) repair(ctx context.Context, domain string) {
	for {
		var why string
		select {
		case <-ctx.Done():
			return
		case why = <-s.broken:
		case <-time.After(repairEvery):
			if s.ns.JetStreamEnabled() {
				continue
			}
			why = "JetStream was disabled"
		}
		s.fail(errors.New(why))
		if !s.awaitRoom(ctx) {
			return
		}
		if err := s.restart(domain); err != nil {
			s.fail(err)
			s.log.Warn("JetStream of the embedded NATS server does not start again, retrying", "error", err)
			continue
		}
		select {
		case <-s.broken: // what was logged before the restart
		default:
		}
		s.fault.Store(nil)
		s.log.Info("the embedded NATS server writes to its store again", "dir", s.dir)
	}
}

func (s *Server) fail(err error) {
	err = fmt.Errorf("embedded NATS: the store %s cannot be written to: %w", s.dir, err)
	s.fault.Store(&err)
}

// awaitRoom waits until the store can be written to. It returns false when ctx ends.
func (s *Server) awaitRoom(ctx context.Context) bool {
	for {
		err := s.tryStore()
		if err == nil {
			return true
		}
		s.fail(err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(repairEvery):
		}
	}
}

// tryStore writes a file to the store directory and removes it.
func (s *Server) tryStore() error {
	name := filepath.Join(s.dir, ".proxima-try")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, room))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(name))
}

// restart stops JetStream and starts it again, from what the store has.
func (s *Server) restart(domain string) error {
	if err := s.ns.ShutdownJetStream(); err != nil {
		return fmt.Errorf("stop JetStream: %w", err)
	}
	if err := s.ns.EnableJetStream(&server.JetStreamConfig{StoreDir: s.dir, Domain: domain}); err != nil {
		return fmt.Errorf("start JetStream: %w", err)
	}
	return nil
}
