package tail

import (
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
)

const electedPrefix = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."

// elections tells the tails of a registry when a stream has a leader again. There is one
// subscription for all tails of a stream. The zero value is ready.
type elections struct {
	mu      sync.Mutex
	streams map[string]*election
}

// election is the subscription of a stream.
type election struct {
	sub   *nats.Subscription
	tails map[chan struct{}]bool
}

// join returns a channel that gets a value after an election, and how to leave.
func (e *elections) join(conn *nats.Conn, stream string) (elected chan struct{}, leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	of := e.streams[stream]
	if of == nil {
		of = &election{tails: make(map[chan struct{}]bool)}
		if of.sub, err = conn.Subscribe(electedPrefix+stream, func(*nats.Msg) { e.tell(of) }); err != nil {
			return nil, nil, fmt.Errorf("subscribe to elections of %s: %w", stream, err)
		}
		if e.streams == nil {
			e.streams = make(map[string]*election)
		}
		e.streams[stream] = of
	}
	elected = make(chan struct{}, 1)
	of.tails[elected] = true
	return elected, func() { e.leave(stream, elected) }, nil
}

func (e *elections) leave(stream string, elected chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	of := e.streams[stream]
	if delete(of.tails, elected); len(of.tails) == 0 {
		_ = of.sub.Unsubscribe() // fails only if the connection is closed
		delete(e.streams, stream)
	}
}

// tell wakes the tails. Several elections at a time are one.
func (e *elections) tell(of *election) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for elected := range of.tails {
		select {
		case elected <- struct{}{}:
		default:
		}
	}
}
