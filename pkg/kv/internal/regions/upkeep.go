package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How often somebody in a region looks whether the others are read: soon while one
// is out of reach, so that all agree within a second of its return, and not so soon
// if it is that for long.
const (
	lookEvery   = 3 * time.Second
	lookAway    = 150 * time.Millisecond
	lookLong    = time.Second
	awayFactor  = 200              // of the time that it is away, so that this grows from one to the other
	clockSkew   = 10 * time.Minute // that the clocks of those who look may differ by
	lookTimeout = 500 * time.Millisecond
	lookSilence = 5 * sourceHeartbeat / 2 // of a source; it speaks up more often
	maxVain     = 5                       // begun anew in vain: the wait doubles so often at most
	patient     = 5 * lookEvery           // with who looks and says nothing
)

// reading is how well another region is read, as far as is known. Those who look
// after it tell each other.
type reading struct {
	Born  int64  `json:"born"`           // when our stream was made
	Made  int64  `json:"made"`           // and the consumer over there
	Epoch int64  `json:"epoch"`          // of the source; it grows
	Count uint64 `json:"count"`          // of what was delivered since the consumer was last wound back
	Seen  uint64 `json:"seen"`           // the sequence, over there, of the last that was stored here
	Safe  uint64 `json:"safe"`           // the same some seconds before: nothing up to it is missing
	Away  bool   `json:"away,omitempty"` // it was out of reach
	Vain  int    `json:"vain,omitempty"` // how often in a row it was begun anew
	Skip  int    `json:"skip,omitempty"` // looks to let pass before that is done again
}

// look is what one look at a region finds.
type look struct {
	reached bool  // it answers
	sourced bool  // our stream has it as a source
	silent  bool  // and has not heard of it lately
	born    int64 // as in reading
	made    int64
	epoch   int64
	count   uint64
	seen    uint64 // 0: nothing from that source
	told    uint64 // the last sequence that it has delivered
}

// next is what is known after a look, and whether the source is to be begun anew,
// after the message Safe.
//
// The servers go on by themselves after an outage, but not well enough: one that
// asks for its consumer while the way is closed waits five seconds for an answer,
// and then ever longer until it asks again; and one that was told something on a
// connection that was dead already may never hear it. For what was delivered and
// not acknowledged counts as acknowledged when it is replaced in its bucket, and
// with it all that was delivered before (nats-server 2.15.2; see docs/decisions).
func (was reading) next(is look) (reading, bool) {
	now := was
	if !is.reached {
		now.Away = true
		return now, false
	}
	known := was.Epoch != 0 && is.born == was.Born // else nobody knows what was before
	now.Safe = min(was.Safe, is.told)
	if !known {
		now.Safe = 0
	}
	switch {
	case known && is.sourced && is.epoch > was.Epoch:
		// Somebody else has begun anew.
		return reading{Born: is.born, Made: is.made, Epoch: is.epoch, Count: is.count, Seen: is.seen, Vain: was.Vain}, false
	case was.Skip > 0 && (is.silent || !is.sourced || was.Away && was.Vain > 2): // or it comes and goes
		now.Skip--
		return now, false
	case !is.sourced, is.silent, was.Away,
		known && (is.epoch < was.Epoch || is.made != was.Made || is.count < was.Count):
		now.Born, now.Made = is.born, is.made
		return now, true
	}
	now = reading{Born: is.born, Made: is.made, Epoch: is.epoch, Count: is.count, Seen: min(max(was.Seen, is.seen), is.told)}
	if known {
		now.Safe = min(was.Seen, is.told)
	} else {
		now.Seen = min(is.seen, is.told)
	}
	return now, false
}

// begun is what is known when the source was begun anew.
func (was reading) begun(epoch int64) reading {
	vain := min(was.Vain+1, maxVain)
	return reading{Born: was.Born, Made: was.Made, Epoch: epoch, Safe: was.Safe, Seen: was.Safe, Vain: vain, Skip: 1<<(vain-1) - 1}
}

// sourcing looks after the sources of a registry, while somebody watches it. All
// such processes of a region share the work: each waits for a time that is drawn
// at random, and begins anew with that when another looks. If several begin to
// look at once, the one does it whose message about it comes first.
type sourcing struct {
	r     *Registry
	id    string
	heard chan *nats.Msg
	due   *time.Timer
	state map[string]reading   // by region
	away  map[string]time.Time // regions that were out of reach at the last look: since when
	known map[string]bool      // regions that this one has reached
	told  time.Time            // when somebody last said what was found
}

// looked is what they tell each other: first that one looks, then what it found.
type looked struct {
	By      string             `json:"by"`
	Regions map[string]reading `json:"regions,omitempty"`
}

func newSourcing(r *Registry) *sourcing {
	s := &sourcing{
		r: r, id: r.link.Conn.NewInbox(), heard: make(chan *nats.Msg, 64),
		state: map[string]reading{}, away: map[string]time.Time{}, known: map[string]bool{}, told: time.Now(),
	}
	s.due = time.NewTimer(s.wait(false))
	return s
}

func (s *sourcing) run(ctx context.Context) {
	defer s.due.Stop()
	sub, err := s.r.link.Conn.ChanSubscribe(s.subject(), s.heard)
	if err != nil {
		return // the connection is closed: nothing will ever be read again
	}
	defer func() { _ = sub.Unsubscribe() }() // fails as above
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-s.heard:
			s.hear(msg)
		case <-s.due.C:
			if s.first(ctx) {
				s.look(ctx)
				s.due.Reset(s.wait(true))
			}
		}
	}
}

func (s *sourcing) subject() string { return s.r.link.Live + "sources." + s.r.opts.Domain }

// wait is how long until the next look, if nobody else is faster: who did the last
// one is likely to do the next.
func (s *sourcing) wait(mine bool) time.Duration {
	wait := lookEvery
	for region, x := range s.state {
		if x.Away {
			wait = min(wait, max(lookAway, min(time.Since(s.away[region])/awayFactor, lookLong)))
		}
	}
	if !mine {
		wait *= 2
	}
	return wait + rand.N(2*wait/3)
}

// hear takes in that somebody looks, or what was found. It returns who it was.
func (s *sourcing) hear(msg *nats.Msg) (by string) {
	l, err := decodeLooked(msg.Data)
	if err != nil {
		s.r.link.Invalid(msg.Subject, err)
		return ""
	}
	if len(l.Regions) == 0 {
		// Who looks and never says what was found holds nobody up for long.
		if time.Since(s.told) < patient {
			s.due.Reset(s.wait(false) + lookTimeout)
		}
		return l.By
	}
	s.told = time.Now()
	latest := time.Now().Add(clockSkew).UnixMicro()
	for _, region := range s.r.regions {
		x, ok := l.Regions[region]
		have := s.state[region]
		if !ok || x.Epoch > latest || x.Born == have.Born && x.Epoch < have.Epoch {
			continue
		}
		s.state[region] = x
		s.mark(region, x.Away)
	}
	s.due.Reset(s.wait(l.By == s.id))
	return l.By
}

// mark notes since when a region is out of reach.
func (s *sourcing) mark(region string, away bool) {
	if _, ok := s.away[region]; !away {
		delete(s.away, region)
	} else if !ok {
		s.away[region] = time.Now()
	}
}

func decodeLooked(data []byte) (looked, error) {
	var l looked
	if err := json.Unmarshal(data, &l); err != nil {
		return looked{}, fmt.Errorf("not what is known of other regions: %w", err)
	}
	for region, x := range l.Regions {
		if x.Epoch < 0 || x.Vain < 0 || x.Vain > maxVain || x.Skip < 0 || x.Skip >= 1<<maxVain {
			return looked{}, fmt.Errorf("not what is known of region %q: %+v", region, x)
		}
	}
	return l, nil
}

// first says that one looks, and whether nobody said so before: that comes back in
// the order in which it was said. On a connection without echo nothing comes back,
// and it looks a moment later.
func (s *sourcing) first(ctx context.Context) bool {
	if !s.r.link.Conn.IsConnected() {
		s.due.Reset(s.wait(false))
		return false
	}
	s.tell(nil)
	deadline := time.NewTimer(lookTimeout / 2)
	defer deadline.Stop()
	for {
		select {
		case msg := <-s.heard:
			switch by := s.hear(msg); {
			case by == s.id:
				return true
			case by != "" && time.Since(s.told) < patient:
				return false
			}
		case <-deadline.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// look looks at all regions, and begins anew to read those that need it.
func (s *sourcing) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.r.link.OpTimeout)
	defer cancel()
	found, err := s.find(ctx)
	if err != nil {
		s.r.link.Log.Debug("it is not known how well other regions are read", "error", err)
		return
	}
	for _, region := range s.r.regions {
		was, is := s.state[region], found[region]
		if s.known[region] = s.known[region] || is.reached; !s.known[region] && was.Epoch != 0 {
			continue // others reach it: perhaps we may not ask
		}
		now, again := was.next(is)
		if again {
			epoch := max(time.Now().UnixMicro(), was.Epoch+1, is.epoch+1)
			if err := s.r.source(ctx, region, epoch, now.Safe); err != nil {
				s.r.link.Log.Debug("a region is not read anew", "region", region, "error", err)
				now.Away, now.Skip = true, 0 // tried again soon
			} else {
				s.r.link.Log.Debug("a region is read anew", "region", region, "after", now.Safe)
				now = now.begun(epoch)
			}
		}
		s.state[region] = now
		s.mark(region, now.Away)
	}
	s.tell(s.state)
}

func (s *sourcing) tell(found map[string]reading) {
	data, err := json.Marshal(looked{s.id, found})
	if err != nil {
		panic(err) // numbers and names
	}
	_ = s.r.link.Conn.Publish(s.subject(), data) // if nobody hears it, others look as well
}

// find looks at all regions at once. The error is of our own.
func (s *sourcing) find(ctx context.Context) (map[string]look, error) {
	found := map[string]look{}
	var mu sync.Mutex // guards found
	var asking sync.WaitGroup
	for _, region := range s.r.regions {
		asking.Go(func() {
			is := s.ask(ctx, region)
			mu.Lock()
			defer mu.Unlock()
			found[region] = is
		})
	}
	asking.Wait()
	if !slices.ContainsFunc(s.r.regions, func(region string) bool { return found[region].reached }) {
		return found, ctx.Err()
	}
	stream, err := s.r.link.JS.Stream(ctx, s.r.others.Stream)
	if err != nil {
		return nil, err
	}
	info := stream.CachedInfo()
	for region, is := range found {
		is.born, is.silent = info.Created.UnixNano(), true
		if i := sourceOf(info.Config.Sources, region); i >= 0 {
			is.sourced, is.epoch = true, epochOf(info.Config.Sources[i])
		}
		for _, x := range info.Sources {
			if x.External != nil && x.External.APIPrefix == apiOf(region) {
				is.seen, is.silent = x.Seq, x.Active < 0 || x.Active > lookSilence
			}
		}
		found[region] = is
	}
	return found, nil
}

// ask asks a region for the consumer that we read it with.
func (s *sourcing) ask(ctx context.Context, region string) look {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var info jetstream.ConsumerInfo
	if err := s.r.call(ctx, apiOf(region)+".CONSUMER.INFO."+s.r.link.Stream+"."+sourceName(s.r.opts.Domain), nil, &info); err != nil {
		return look{}
	}
	return look{reached: true, made: info.Created.UnixNano(), count: info.Delivered.Consumer, told: info.Delivered.Stream}
}

// call asks JetStream's API of another region.
func (r *Registry) call(ctx context.Context, subject string, request []byte, into any) error {
	msg, err := r.link.Conn.RequestWithContext(ctx, subject, request)
	if err != nil {
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &failed); err != nil {
		return err
	}
	if failed.Error != nil {
		return failed.Error
	}
	return json.Unmarshal(msg.Data, into)
}

func apiOf(region string) string { return "$JS." + region + ".API" }

// sourceOf is where a region is among the sources of our stream, -1: nowhere.
func sourceOf(sources []*jetstream.StreamSource, region string) int {
	return slices.IndexFunc(sources, func(s *jetstream.StreamSource) bool {
		return s.External != nil && s.External.APIPrefix == apiOf(region)
	})
}

// source makes a region a source of our stream, of an epoch, that is read from the
// message after a sequence of its bucket, whether it is one already or not.
func (r *Registry) source(ctx context.Context, region string, epoch int64, after uint64) error {
	select {
	case r.ensuring <- struct{}{}:
		defer func() { <-r.ensuring }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// First of all nobody may read: what was acknowledged would not be told again.
	if err := r.setSource(ctx, region, nil); err != nil {
		return err
	}
	if err := r.rewind(ctx, region, after); err != nil {
		return err
	}
	if err := r.setSource(ctx, region, r.sourceConfig(region, epoch)); err != nil {
		return err
	}
	// Somebody who changed another source at that moment may have undone it.
	s, err := r.link.JS.Stream(ctx, r.others.Stream)
	if err != nil {
		return err
	}
	sources := s.CachedInfo().Config.Sources
	if i := sourceOf(sources, region); i < 0 || epochOf(sources[i]) != epoch {
		return errors.New("kv: somebody else changes the sources")
	}
	return nil
}

// setSource replaces the source of a region, nil: by none.
func (r *Registry) setSource(ctx context.Context, region string, source *jetstream.StreamSource) error {
	s, err := r.link.JS.Stream(ctx, r.others.Stream)
	if err != nil {
		return err
	}
	config := s.CachedInfo().Config
	i := sourceOf(config.Sources, region)
	if i >= 0 {
		config.Sources = slices.Delete(config.Sources, i, i+1)
	}
	if source != nil {
		config.Sources = append(config.Sources, source)
		config.Subjects = nil // what the server gives to a stream that has no source
	} else if i < 0 {
		return nil
	}
	_, err = r.link.JS.UpdateStream(ctx, config)
	return err
}

// The epoch of a source is part of its name, as the server makes it up. It goes on
// after the last message that it stored from a source of that name; so one that
// shall read again what it may have missed needs another. It stands in the filter
// of a subject that nobody writes to.
const epochFamily = "epoch."

func (r *Registry) epochTransform(epoch int64) jetstream.SubjectTransformConfig {
	name := epochFamily + strconv.FormatInt(epoch, 10)
	return jetstream.SubjectTransformConfig{Source: r.link.Prefix + name, Destination: r.others.Prefix + name}
}

// epochOf is 0 for a source that has none.
func epochOf(s *jetstream.StreamSource) int64 {
	for _, t := range s.SubjectTransforms {
		if _, epoch, ok := strings.Cut(t.Source, "."+epochFamily); ok {
			n, _ := strconv.ParseInt(epoch, 10, 64)
			return n
		}
	}
	return 0
}
