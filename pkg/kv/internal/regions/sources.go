package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// sourceHeartbeat is how often such a consumer speaks up. The server wants this.
const sourceHeartbeat = time.Second

// sourceSlack is how much larger than in the bucket of its region a message may
// be where it is sourced: a header tells where it comes from. One that did not
// fit would hold up all that follow.
const sourceSlack = 4096

// regionNames are the other regions of the options.
func regionNames(o Options) ([]string, error) {
	var others []string
	for _, name := range o.Regions {
		if err := events.ValidateName("region", name); err != nil {
			return nil, fmt.Errorf("kv: open: %w", err)
		}
		if name != o.Domain && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if len(others) > 0 && o.Domain == "" {
		return nil, errors.New("kv: open: with regions, the JetStream domain of this one must be given, and be named as the region")
	}
	return others, nil
}

// openOthers prepares to read what the other regions write.
func (r *Registry) openOthers() error {
	var err error
	if r.regions, err = regionNames(r.opts); err != nil || len(r.regions) == 0 {
		return err
	}
	b := wire.NewBucket(r.opts.Bucket+"_"+r.opts.Domain, r.opts.Bucket, r.link.API)
	r.others = &b
	return nil
}

// belongs refuses instances of other regions: those are listed there, so that no
// two regions can say different things of one.
func (r *Registry) belongs(region string) error {
	if r.others == nil || region == "" || region == events.Unknown || region == r.opts.Domain {
		return nil
	}
	return &events.FieldError{Field: "location.region", Value: region, Rule: "want " + r.opts.Domain + ": this is the registry of that region, and others have their own"}
}

// ensureRegions makes what sources the instances and orders of the other regions,
// and what they source ours with, unless it is there. All of it is made in our own
// domain, so it can be done whoever is out of reach.
func (r *Registry) ensureRegions(ctx context.Context, own jetstream.Stream) error {
	for _, reader := range r.regions {
		config := r.sourceConsumer(reader)
		_, err := own.PushConsumer(ctx, config.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = own.CreatePushConsumer(ctx, config)
		}
		if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) { // made by somebody else meanwhile
			return fmt.Errorf("let region %s read this one: %w", reader, err)
		}
	}
	want := r.othersConfig(own.CachedInfo().Config)
	s, err := r.link.JS.Stream(ctx, r.others.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = r.absent(ctx, r.others.Stream)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = r.link.JS.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = r.link.JS.Stream(ctx, r.others.Stream)
		}
	}
	if err != nil {
		return fmt.Errorf("source the other regions: %w", err)
	}
	config := s.CachedInfo().Config
	if !config.AllowDirect || !config.AllowMsgTTL || config.MaxMsgsPerSubject != 1 || config.RePublish == nil || *config.RePublish != *want.RePublish {
		return fmt.Errorf("%w: stream %s was not made by Proxima, remove it", errOthers, r.others.Stream)
	}
	return r.addSources(ctx, config)
}

// addSources adds the regions that are not sourced yet and can be reached. None is
// ever taken away: while a new list is rolled out, there are two.
func (r *Registry) addSources(ctx context.Context, config jetstream.StreamConfig) error {
	before, missing := len(config.Sources), false
	for _, region := range r.regions {
		if sourceOf(config.Sources, region) >= 0 {
			continue
		}
		if err := r.rewind(ctx, region, 0); err != nil {
			r.link.Log.Debug("a region is not read yet", "region", region, "error", err)
			missing = true
			continue
		}
		config.Sources = append(config.Sources, r.sourceConfig(region, time.Now().UnixMicro()))
	}
	r.incomplete.Store(missing)
	if len(config.Sources) == before {
		return nil
	}
	config.Subjects = nil // what the server gives to a stream that has no source yet
	if _, err := r.link.JS.UpdateStream(ctx, config); err != nil {
		r.incomplete.Store(true)
		return fmt.Errorf("source more regions: %w", err)
	}
	return nil
}

// rewind has a region tell what it wrote after the message of that sequence. Its
// consumer remembers what it has told, also to a stream of ours that was lost.
func (r *Registry) rewind(ctx context.Context, region string, after uint64) error {
	ctx, cancel := context.WithTimeout(ctx, r.link.OpTimeout/4)
	defer cancel()
	request, err := json.Marshal(struct {
		Seq uint64 `json:"seq"`
	}{after + 1})
	if err != nil {
		return err
	}
	return r.call(ctx, apiOf(region)+".CONSUMER.RESET."+r.link.Stream+"."+sourceName(r.opts.Domain), request, &struct{}{})
}

var errOthers = errors.New("kv: the bucket of the other regions cannot be used")

// firstSequence is where the sequences of a bucket begin that other regions read:
// after those of the bucket that was there before and lost, as memory is. What
// has lower ones than before would be taken for known. 0: at 1, as everywhere.
func (r *Registry) firstSequence() uint64 {
	if r.others == nil {
		return 0
	}
	return uint64(time.Now().UnixMicro())
}

// sourceConsumer is what another region reads our bucket with. It stands while
// nobody reads, and speaks up every second while somebody does: so the reader
// notices within a second that the way to us is open again. One that the reader
// has to make anew after an outage takes half a minute (see docs/decisions).
func (r *Registry) sourceConsumer(reader string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        sourceName(reader),
		Description:    "What region " + reader + " reads of this one",
		DeliverSubject: r.sourceSubject(r.opts.Domain, reader),
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckFlowControlPolicy,
		MaxAckPending:  4096,
		FlowControl:    true,
		IdleHeartbeat:  sourceHeartbeat,
		FilterSubjects: []string{r.instOf(r.opts.Domain), r.link.Prefix + evacuateFamily + ">"},
	}
}

func sourceName(reader string) string { return "region_" + reader }

// sourceSubject is where what one region says is delivered to another.
func (r *Registry) sourceSubject(from, reader string) string {
	return r.link.Live + "source." + from + "." + reader
}

// instOf are the records of the instances that are in a region: what is said of
// others there is not heard elsewhere.
func (r *Registry) instOf(region string) string { return r.link.Inst + "*." + region + ".>" }

// othersConfig is the stream of what the other regions say, before it has sources.
// Nobody writes to it: it has no subjects.
func (r *Registry) othersConfig(own jetstream.StreamConfig) jetstream.StreamConfig {
	b := r.others
	c := jetstream.StreamConfig{
		Name:                   b.Stream,
		Description:            "The instances of the other regions, sourced from their buckets",
		Storage:                own.Storage,
		Replicas:               own.Replicas,
		MaxMsgsPerSubject:      1,
		MaxMsgSize:             own.MaxMsgSize + sourceSlack,
		Discard:                jetstream.DiscardOld,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: markerTTL,
		AllowDirect:            true,
		DenyDelete:             true,
		RePublish:              &jetstream.RePublish{Source: b.Prefix + ">", Destination: b.Live + ">"},
	}
	return c
}

// sourceConfig is how another region is sourced: its instances, and its orders by
// its name.
func (r *Registry) sourceConfig(region string, epoch int64) *jetstream.StreamSource {
	b := r.others
	return &jetstream.StreamSource{
		Name:     r.link.Stream,
		External: &jetstream.ExternalStream{APIPrefix: apiOf(region)},
		Consumer: &jetstream.StreamConsumerSource{Name: sourceName(r.opts.Domain), DeliverSubject: r.sourceSubject(region, r.opts.Domain)},
		SubjectTransforms: []jetstream.SubjectTransformConfig{
			{Source: r.instOf(region), Destination: b.Inst + "{{wildcard(1)}}." + region + ".>"},
			{Source: r.link.Prefix + evacuateFamily + ">", Destination: b.Prefix + evacuateFamily + region + ".>"},
			r.epochTransform(epoch),
		},
	}
}
