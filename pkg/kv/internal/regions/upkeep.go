package regions

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

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// maxFailedRestarts: the back-off of a source doubles at most this often.
const maxFailedRestarts = 5

// upkeep looks after the sources of a registry. All processes of a region that do so
// share the work: each waits for a random time, and starts to wait again when another
// process looks. If several processes begin to look at once, the one that published
// first goes on.
type upkeep struct {
	*Sources
	id    string
	heard chan *nats.Msg
	due   *time.Timer
	state map[string]reading   // by region
	away  map[string]time.Time // regions that were out of reach at the last look: since when
	known map[string]bool      // regions that this one has reached
	told  time.Time            // when a process last published what it found
}

// looked is what the processes publish: first that one looks, then what it found.
type looked struct {
	By      string             `json:"by"`
	Regions map[string]reading `json:"regions,omitempty"`
}

func newUpkeep(r *Sources) *upkeep {
	s := &upkeep{
		Sources: r, id: r.link.Conn.NewInbox(), heard: make(chan *nats.Msg, 64),
		state: map[string]reading{}, away: map[string]time.Time{}, known: map[string]bool{}, told: time.Now(),
	}
	s.due = time.NewTimer(s.wait(false))
	return s
}

// Keep looks after the sources until ctx ends. Ensure calls [Sources.Make] in the
// end.
func (s *Sources) Keep(ctx context.Context, ensure func(context.Context) error) {
	var both sync.WaitGroup
	both.Go(func() { newUpkeep(s).run(ctx) })
	both.Go(func() { s.remake(ctx, ensure) })
	both.Wait()
}

// remake makes the stream and the consumers again if they are gone, and adds the
// regions that are not sourced yet. It tries again soon if something fails or if the
// upkeep misses the stream, otherwise after ensureEvery.
func (s *Sources) remake(ctx context.Context, ensure func(context.Context) error) {
	for wait := time.Duration(0); ctx.Err() == nil; {
		err := ensure(ctx)
		all := false
		if err == nil {
			all, err = s.addMissing(ctx)
		}
		if err != nil {
			s.link.Log.Debug("regions are not sourced", "error", err)
		}
		if wait = min(2*wait+ensureSoon, ensureLater); all {
			wait = ensureEvery
		}
		select {
		case <-time.After(wire.Jitter(wait)):
		case <-s.missing:
			wait = 0
		case <-ctx.Done():
		}
	}
}

func (s *upkeep) run(ctx context.Context) {
	defer s.due.Stop()
	sub, err := s.link.Conn.ChanSubscribe(s.subject(), s.heard)
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
			if s.claim(ctx) {
				s.look(ctx)
				s.due.Reset(s.wait(true))
			}
		}
	}
}

func (s *upkeep) subject() string { return s.link.Live + "sources." + s.own }

// wait is how long until the next look, if no other process is faster. The process
// that did the last look waits half as long as the others.
func (s *upkeep) wait(mine bool) time.Duration {
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

// hear takes in that a process looks, or what it found, and returns its id.
func (s *upkeep) hear(msg *nats.Msg) (by string) {
	l, err := decodeLooked(msg.Data)
	if err != nil {
		s.link.Invalid(msg.Subject, err)
		return ""
	}
	if len(l.Regions) == 0 {
		// A process that begins looks and never publishes what it found delays the
		// others for no longer than reportTimeout.
		if time.Since(s.told) < reportTimeout {
			s.due.Reset(s.wait(false) + lookTimeout)
		}
		return l.By
	}
	s.told = time.Now()
	latest := time.Now().Add(clockSkew).UnixMicro()
	for _, region := range s.others {
		x, ok := l.Regions[region]
		have := s.state[region]
		if !ok || x.Epoch > latest || x.Born == have.Born && x.Epoch < have.Epoch {
			continue
		}
		s.state[region] = x
		s.markAway(region, x.Away)
	}
	s.due.Reset(s.wait(l.By == s.id))
	return l.By
}

// markAway notes since when a region is out of reach.
func (s *upkeep) markAway(region string, away bool) {
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
		if x.Epoch < 0 || x.Vain < 0 || x.Vain > maxFailedRestarts || x.Skip < 0 || x.Skip >= 1<<maxFailedRestarts {
			return looked{}, fmt.Errorf("not what is known of region %q: %+v", region, x)
		}
	}
	return l, nil
}

// claim publishes that this process looks, and reports whether no other did so
// before: the server delivers these messages in one order. On a connection without
// echo nothing comes back, and the process looks a moment later.
func (s *upkeep) claim(ctx context.Context) bool {
	if !s.link.Conn.IsConnected() {
		s.due.Reset(s.wait(false))
		return false
	}
	s.publish(nil)
	deadline := time.NewTimer(lookTimeout / 2)
	defer deadline.Stop()
	for {
		select {
		case msg := <-s.heard:
			switch by := s.hear(msg); {
			case by == s.id:
				return true
			case by != "" && time.Since(s.told) < reportTimeout:
				return false
			}
		case <-deadline.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// look looks at all regions, and begins to read those again that need it.
func (s *upkeep) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.link.OpTimeout)
	defer cancel()
	found, err := s.find(ctx)
	if err != nil {
		s.link.Log.Debug("the sources of other regions cannot be inspected", "error", err)
		return
	}
	for i, region := range s.others {
		was, is := s.state[region], found[i]
		if s.known[region] = s.known[region] || is.reached; !s.known[region] && was.Epoch != 0 {
			continue // others reach it: perhaps we may not ask
		}
		now, again := was.next(is)
		if is.narrow() && was.Skip == 0 { // what it did not send before is missing
			now.Safe, again = 0, true
		}
		if again {
			epoch := max(time.Now().UnixMicro(), was.Epoch+1, is.epoch+1)
			if err := s.source(ctx, region, epoch, now.Safe); err != nil {
				s.link.Log.Debug("a region is not read anew", "region", region, "error", err)
				now.Away, now.Skip = true, 0 // tried again soon
			} else {
				s.link.Log.Debug("a region is read anew", "region", region, "after", now.Safe)
				now = now.begun(epoch)
			}
		}
		s.state[region] = now
		s.markAway(region, now.Away)
	}
	s.publish(s.state)
}

func (s *upkeep) publish(found map[string]reading) {
	data, err := json.Marshal(looked{s.id, found})
	if err != nil {
		panic(err) // numbers and names
	}
	_ = s.link.Conn.Publish(s.subject(), data) // if it is lost, others look as well
}

// find looks at all regions at once. The error is about our own.
func (s *upkeep) find(ctx context.Context) ([]look, error) {
	found := make([]look, len(s.others))
	var asking sync.WaitGroup
	for i, region := range s.others {
		asking.Go(func() { found[i] = s.ask(ctx, region) })
	}
	asking.Wait()
	if !slices.ContainsFunc(found, func(is look) bool { return is.reached }) {
		return found, ctx.Err()
	}
	stream, err := s.link.JS.Stream(ctx, s.Bucket.Stream)
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			select {
			case s.missing <- struct{}{}:
			default: // it is being made
			}
		}
		return nil, err
	}
	info := stream.CachedInfo()
	for i, region := range s.others {
		is := &found[i]
		is.born, is.silent = info.Created.UnixNano(), true
		if i := sourceOf(info.Config.Sources, region); i >= 0 {
			is.sourced, is.epoch = true, epochOf(info.Config.Sources[i])
			is.takes = takes(s.link.Prefix, info.Config.Sources[i], wire.PolicyFamily)
		}
		for _, x := range info.Sources {
			if x.External != nil && x.External.APIPrefix == apiOf(region) {
				is.seen, is.silent = x.Seq, x.Active < 0 || x.Active > lookSilence
			}
		}
	}
	return found, nil
}

// ask asks a region for the consumer that we read it with.
func (s *upkeep) ask(ctx context.Context, region string) look {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	consumer, err := s.there[region].PushConsumer(ctx, s.link.Stream, sourceName(s.own))
	if err != nil {
		return look{}
	}
	info := consumer.CachedInfo()
	return look{reached: true, tells: tells(s.link.Prefix, info.Config, wire.PolicyFamily), made: info.Created.UnixNano(), count: info.Delivered.Consumer, told: info.Delivered.Stream}
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
func (s *Sources) source(ctx context.Context, region string, epoch int64, after uint64) error {
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// First the source is taken away: what it acknowledges would not be sent again.
	if err := s.setSource(ctx, region, nil); err != nil {
		return err
	}
	if err := s.rewind(ctx, region, after); err != nil {
		return err
	}
	consumer, err := s.there[region].PushConsumer(ctx, s.link.Stream, sourceName(s.own))
	if err != nil {
		return err
	}
	policies := tells(s.link.Prefix, consumer.CachedInfo().Config, wire.PolicyFamily)
	if err := s.setSource(ctx, region, s.sourceConfig(region, epoch, policies)); err != nil {
		return err
	}
	// Another process that changed another source at that moment may have undone it.
	stream, err := s.link.JS.Stream(ctx, s.Bucket.Stream)
	if err != nil {
		return err
	}
	sources := stream.CachedInfo().Config.Sources
	if i := sourceOf(sources, region); i < 0 || epochOf(sources[i]) != epoch {
		return errors.New("kv: another process changes the sources")
	}
	return nil
}

// setSource replaces the source of a region, nil: by none.
func (s *Sources) setSource(ctx context.Context, region string, source *jetstream.StreamSource) error {
	stream, err := s.link.JS.Stream(ctx, s.Bucket.Stream)
	if err != nil {
		return err
	}
	config := stream.CachedInfo().Config
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
	_, err = s.link.JS.UpdateStream(ctx, config)
	return err
}

// The epoch of a source is part of the name that the server derives for it. The
// server goes on after the last message that it stored from a source of that name; to
// read again what was missed, a source needs another epoch. It stands in the filter of
// a subject that has no messages.
const epochFamily = "epoch."

func (s *Sources) epochTransform(epoch int64) jetstream.SubjectTransformConfig {
	name := epochFamily + strconv.FormatInt(epoch, 10)
	return jetstream.SubjectTransformConfig{Source: s.link.Prefix + name, Destination: s.Bucket.Prefix + name}
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
