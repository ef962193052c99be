package kv

import "time"

// Ages is how old messages are taken to be that were stored at these times on
// the server's clock, when ours shows now.
func Ages(stored []time.Time, now time.Time) []time.Duration {
	all := make([]kept, len(stored))
	for i, at := range stored {
		all[i].at = at
	}
	date(all, now)
	ages := make([]time.Duration, len(all))
	for i := range all {
		ages[i] = all[i].age
	}
	return ages
}

// ServerClock is what changes tell of the server's clock. Heard says that one
// came now that was stored at that time.
type ServerClock struct{ c clock }

func NewServerClock() *ServerClock            { return &ServerClock{clock{start: time.Now()}} }
func (s *ServerClock) Heard(stored time.Time) { s.c.hear(stored.UnixNano()) }
func (s *ServerClock) Ahead() time.Duration   { return s.c.ahead }
