package regions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// sourceSlack is how much larger than in the bucket of its region a message may
// be where it is sourced: a header tells where it comes from. One that did not
// fit would hold up all that follow.
const sourceSlack = 4096

// Sources are the other regions, as the streams of this one read them. It is safe
// for concurrent use.
type Sources struct {
	Bucket *wire.Bucket // what the others have written

	link     *wire.Link
	own      string
	others   []string
	there    map[string]jetstream.JetStream // in the others
	missing  chan struct{}                  // says that their stream is gone
	changing chan struct{}                  // full while the sources of the stream are being changed, which waits for the server
}

// New prepares to read the other regions of all, from the one that is named own.
// It returns nil if there are none.
func New(link *wire.Link, own string, all []string) (*Sources, error) {
	var others []string
	for _, name := range all {
		if err := events.ValidateName("region", name); err != nil {
			return nil, err
		}
		if name != own && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	if own == "" {
		return nil, errors.New("with regions, the JetStream domain of this one must be given, and be named as the region")
	}
	b := wire.NewBucket(link.Name+"_"+own, link.Name, link.API)
	s := &Sources{Bucket: &b, link: link, own: own, others: others, there: map[string]jetstream.JetStream{}, missing: make(chan struct{}, 1), changing: make(chan struct{}, 1)}
	for _, region := range others {
		var err error
		if s.there[region], err = jetstream.NewWithDomain(link.Conn, region); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Belongs refuses instances of other regions: those are listed there, so that no
// two regions can say different things of one.
func (s *Sources) Belongs(region string) error {
	if s == nil || region == "" || region == events.Unknown || region == s.own {
		return nil
	}
	return &events.FieldError{Field: "location.region", Value: region, Rule: "want " + s.own + ": this is the registry of that region, and others have their own"}
}

// Make makes the stream that sources the instances and documents of the other regions,
// and the consumers with which they source this region, unless they are there. All of
// it is made in our own domain, so no other region need be within reach. Own is the
// stream of this region's bucket; seen says that it has been seen before. Regions that
// cannot be reached now are left to [Sources.Keep].
func (s *Sources) Make(ctx context.Context, own jetstream.Stream, seen bool) error {
	for _, reader := range s.others {
		config := s.consumer(reader)
		is, err := own.PushConsumer(ctx, config.Durable)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			_, err = own.CreatePushConsumer(ctx, config)
		case err == nil && !tells(s.link.Prefix, is.CachedInfo().Config, wire.PolicyFamily):
			// Made by a program that knew of no policies. The reader begins anew when it
			// finds this.
			_, err = own.UpdatePushConsumer(ctx, config)
		}
		if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) { // made by another process meanwhile
			return fmt.Errorf("let region %s read this one: %w", reader, err)
		}
	}
	want := s.streamConfig(own.CachedInfo().Config)
	stream, err := s.link.FindStream(ctx, s.Bucket.Stream, seen)
	made := errors.Is(err, jetstream.ErrStreamNotFound)
	if made {
		stream, err = s.link.JS.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // made by another process meanwhile
			made = false
			stream, err = s.link.JS.Stream(ctx, s.Bucket.Stream)
		}
	}
	if err != nil {
		return fmt.Errorf("source the other regions: %w", err)
	}
	config := stream.CachedInfo().Config
	if !config.AllowDirect || !config.AllowMsgTTL || config.MaxMsgsPerSubject != 1 || config.RePublish == nil || *config.RePublish != *want.RePublish {
		return fmt.Errorf("%w: stream %s was not made by Proxima, remove it", errOthers, s.Bucket.Stream)
	}
	if !made {
		return nil
	}
	_, err = s.addMissing(ctx)
	return err
}

// addMissing adds the regions that are not sourced yet and can be reached, and
// reports whether all are sourced. None is ever taken away: while a new list is
// rolled out, there are two.
func (s *Sources) addMissing(ctx context.Context) (all bool, err error) {
	stream, err := s.link.JS.Stream(ctx, s.Bucket.Stream)
	if err != nil {
		return false, fmt.Errorf("source the other regions: %w", err)
	}
	all = true
	for _, region := range s.others {
		if sourceOf(stream.CachedInfo().Config.Sources, region) >= 0 {
			continue // what it lacks is found by the upkeep
		}
		if err := s.source(ctx, region, time.Now().UnixMicro(), 0); err != nil {
			s.link.Log.Debug("a region is not read yet", "region", region, "error", err)
			all = false
		}
	}
	return all, nil
}

// tells reports whether a consumer sends the documents of a family.
func tells(prefix string, c jetstream.ConsumerConfig, family string) bool {
	return slices.Contains(c.FilterSubjects, prefix+family+">")
}

// takes reports whether a source stores the documents of a family.
func takes(prefix string, s *jetstream.StreamSource, family string) bool {
	return slices.ContainsFunc(s.SubjectTransforms, func(t jetstream.SubjectTransformConfig) bool { return t.Source == prefix+family+">" })
}

// rewind has a region send again what it wrote after the message of that sequence.
// Its consumer remembers what it has sent, also to a stream of ours that was lost.
func (s *Sources) rewind(ctx context.Context, region string, after uint64) error {
	ctx, cancel := context.WithTimeout(ctx, s.link.OpTimeout/4)
	defer cancel()
	_, err := s.there[region].ResetConsumerToSequence(ctx, s.link.Stream, sourceName(s.own), after+1)
	return err
}

var errOthers = errors.New("kv: the bucket of the other regions cannot be used")

// consumer is what another region reads our bucket with. It stays when it is not
// used, and sends a heartbeat every second when it is: so the reader notices within
// a second that the way to us is open again. A consumer that the reader makes anew
// after an outage takes half a minute (see docs/decisions/0015).
func (s *Sources) consumer(reader string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        sourceName(reader),
		Description:    "What region " + reader + " reads of this one",
		DeliverSubject: s.sourceSubject(s.own, reader),
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckFlowControlPolicy,
		MaxAckPending:  4096,
		FlowControl:    true,
		IdleHeartbeat:  sourceHeartbeat,
		FilterSubjects: []string{s.instOf(s.own), s.link.Prefix + wire.EvacuateFamily + ">", s.link.Prefix + wire.PolicyFamily + ">"},
	}
}

func sourceName(reader string) string { return "region_" + reader }

// sourceSubject is where what one region says is delivered to another.
func (s *Sources) sourceSubject(from, reader string) string {
	return s.link.Live + "source." + from + "." + reader
}

// instOf are the records of the instances that are in a region: what its bucket has
// of others is not read elsewhere.
func (s *Sources) instOf(region string) string { return s.link.Inst + "*." + region + ".>" }

// streamConfig is the stream of the other regions' instances and documents, before it has sources.
// No client writes to it: it has no subjects.
func (s *Sources) streamConfig(own jetstream.StreamConfig) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                   s.Bucket.Stream,
		Description:            "The instances of the other regions, sourced from their buckets",
		Storage:                own.Storage,
		Replicas:               own.Replicas,
		MaxMsgsPerSubject:      1,
		MaxMsgSize:             own.MaxMsgSize + sourceSlack,
		Discard:                jetstream.DiscardOld,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: wire.MarkerTTL,
		AllowDirect:            true,
		DenyDelete:             true,
		RePublish:              &jetstream.RePublish{Source: s.Bucket.Prefix + ">", Destination: s.Bucket.Live + ">"},
	}
}

// sourceConfig is how another region is sourced: its instances, and its orders and
// policies by its name. Policies says that the region sends these: programs of an earlier
// version make a consumer that does not.
func (s *Sources) sourceConfig(region string, epoch int64, policies bool) *jetstream.StreamSource {
	b := s.Bucket
	source := &jetstream.StreamSource{
		Name:     s.link.Stream,
		External: &jetstream.ExternalStream{APIPrefix: apiOf(region)},
		Consumer: &jetstream.StreamConsumerSource{Name: sourceName(s.own), DeliverSubject: s.sourceSubject(region, s.own)},
		SubjectTransforms: []jetstream.SubjectTransformConfig{
			{Source: s.instOf(region), Destination: b.Inst + "{{wildcard(1)}}." + region + ".>"},
			{Source: s.link.Prefix + wire.EvacuateFamily + ">", Destination: b.Prefix + wire.EvacuateFamily + region + ".>"},
			s.epochTransform(epoch),
		},
	}
	if policies {
		source.SubjectTransforms = append(source.SubjectTransforms, jetstream.SubjectTransformConfig{
			Source: s.link.Prefix + wire.PolicyFamily + ">", Destination: b.Prefix + wire.PolicyFamily + region + ".>",
		})
	}
	return source
}
