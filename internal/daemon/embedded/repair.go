package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	repairEvery = time.Second // between two tries to write to a store that could not be written to
	// room is how much must be free for a try to succeed: less than a new block of the store
	// needs, more than a full disk has.
	room = 64 << 10
)

// isOfStore reports whether a line of the server's log says that it could not write to its
// store. The server (2.15.2) then takes no more writes until it is started again,
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

// repair replaces the server when it could not write and its store can be written to
// again, until ctx ends. Clients connect again to the same address.
//
// To stop and start JetStream alone would keep them connected. The server (2.15.2) then
// keeps what answered requests before, and each is answered twice.
func (s *Server) repair(ctx context.Context) {
	down := false // the last one has not started
	for {
		var why string
		select {
		case <-ctx.Done():
			return
		case why = <-s.broken:
		case <-time.After(repairEvery):
			if !down && s.ns().JetStreamEnabled() {
				continue
			}
			why = "JetStream does not run"
		}
		s.fail(errors.New(why))
		if !s.awaitRoom(ctx) {
			return
		}
		s.end()
		select {
		case <-s.broken: // the former server logged it
		default:
		}
		err := s.start(ctx)
		if down = err != nil; down {
			if ctx.Err() != nil {
				return
			}
			s.fail(err)
			s.log.Warn("the embedded NATS server does not start again, retrying", "error", err)
			continue
		}
		s.fault.Store(nil)
		s.log.Info("the embedded NATS server was started again, and writes to its store", "dir", s.options.StoreDir)
	}
}

func (s *Server) fail(err error) {
	err = fmt.Errorf("embedded NATS: the store %s cannot be written to: %w", s.options.StoreDir, err)
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
	name := filepath.Join(s.options.StoreDir, ".proxima-try")
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
