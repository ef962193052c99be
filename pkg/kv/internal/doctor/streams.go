package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// setting is one that a bucket must have.
type setting struct {
	name  string
	level Level // if it is not as it should be
	ok    func(have, want *jetstream.StreamConfig) bool
	fix   func(have, want *jetstream.StreamConfig) // nil: it cannot be changed
	is    func(have *jetstream.StreamConfig) any
}

// settings of a bucket, worst first.
var settings = []setting{
	{
		"allow_msg_ttl", Error,
		func(have, _ *jetstream.StreamConfig) bool { return have.AllowMsgTTL },
		func(have, _ *jetstream.StreamConfig) { have.AllowMsgTTL = true },
		func(have *jetstream.StreamConfig) any { return have.AllowMsgTTL },
	}, {
		"allow_msg_schedules", Error,
		func(have, _ *jetstream.StreamConfig) bool { return have.AllowMsgSchedules },
		func(have, _ *jetstream.StreamConfig) { have.AllowMsgSchedules, have.AllowRollup = true, true },
		func(have *jetstream.StreamConfig) any { return have.AllowMsgSchedules },
	}, {
		"allow_direct", Error,
		func(have, _ *jetstream.StreamConfig) bool { return have.AllowDirect },
		func(have, _ *jetstream.StreamConfig) { have.AllowDirect = true },
		func(have *jetstream.StreamConfig) any { return have.AllowDirect },
	}, {
		"subjects", Error,
		func(have, want *jetstream.StreamConfig) bool {
			return len(have.Subjects) == 1 && have.Subjects[0] == want.Subjects[0]
		},
		func(have, want *jetstream.StreamConfig) { have.Subjects = want.Subjects },
		func(have *jetstream.StreamConfig) any { return strings.Join(have.Subjects, ",") },
	}, {
		"republish", Error,
		func(have, want *jetstream.StreamConfig) bool {
			return have.RePublish != nil && *have.RePublish == *want.RePublish
		},
		func(have, want *jetstream.StreamConfig) { have.RePublish = want.RePublish },
		func(have *jetstream.StreamConfig) any {
			if have.RePublish == nil {
				return "none"
			}
			return have.RePublish.Source + " to " + have.RePublish.Destination
		},
	}, {
		"max_msgs_per_subject", Error,
		func(have, _ *jetstream.StreamConfig) bool { return have.MaxMsgsPerSubject == 1 },
		func(have, _ *jetstream.StreamConfig) { have.MaxMsgsPerSubject = 1 },
		func(have *jetstream.StreamConfig) any { return have.MaxMsgsPerSubject },
	}, {
		"discard", Error, // the server refuses schedules with another one
		func(have, want *jetstream.StreamConfig) bool { return have.Discard == want.Discard },
		func(have, want *jetstream.StreamConfig) {
			have.Discard, have.DiscardNewPerSubject = want.Discard, false
		},
		func(have *jetstream.StreamConfig) any { return have.Discard },
	}, {
		"max_age", Error, // records would be removed although their instances live
		func(have, _ *jetstream.StreamConfig) bool { return have.MaxAge == 0 },
		func(have, _ *jetstream.StreamConfig) { have.MaxAge = 0 },
		func(have *jetstream.StreamConfig) any { return have.MaxAge },
	}, {
		"max_bytes", Warning,
		func(have, _ *jetstream.StreamConfig) bool { return have.MaxBytes <= 0 },
		func(have, _ *jetstream.StreamConfig) { have.MaxBytes = -1 },
		func(have *jetstream.StreamConfig) any { return have.MaxBytes },
	}, {
		"max_msgs", Warning,
		func(have, _ *jetstream.StreamConfig) bool { return have.MaxMsgs <= 0 },
		func(have, _ *jetstream.StreamConfig) { have.MaxMsgs = -1 },
		func(have *jetstream.StreamConfig) any { return have.MaxMsgs },
	}, {
		"max_msg_size", Warning,
		func(have, want *jetstream.StreamConfig) bool {
			return have.MaxMsgSize <= 0 || have.MaxMsgSize >= want.MaxMsgSize
		},
		func(have, want *jetstream.StreamConfig) { have.MaxMsgSize = want.MaxMsgSize },
		func(have *jetstream.StreamConfig) any { return have.MaxMsgSize },
	}, {
		"subject_delete_marker_ttl", Warning,
		func(have, want *jetstream.StreamConfig) bool {
			return have.SubjectDeleteMarkerTTL == want.SubjectDeleteMarkerTTL
		},
		func(have, want *jetstream.StreamConfig) { have.SubjectDeleteMarkerTTL = want.SubjectDeleteMarkerTTL },
		func(have *jetstream.StreamConfig) any { return have.SubjectDeleteMarkerTTL },
	}, {
		"storage", Warning,
		func(have, _ *jetstream.StreamConfig) bool {
			return have.Storage == jetstream.FileStorage || have.Replicas > 1
		},
		nil,
		func(have *jetstream.StreamConfig) any { return have.Storage },
	},
}

// bucket looks at the stream of the bucket. It returns nil if that cannot be used.
func (e *examination) bucket(ctx context.Context) *jetstream.StreamInfo {
	ctx, cancel := e.patience(ctx)
	defer cancel()
	s, err := e.Link.JS.Stream(ctx, e.Link.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		e.add("bucket", Error, "start an announcer, or a router, whose user may create streams", "there is no bucket %s (stream %s)", e.Link.Name, e.Link.Stream)
		return nil
	case err != nil:
		e.add("bucket", Error, "allow this user to publish to "+e.Link.API+"STREAM.INFO."+e.Link.Stream+", and see whether a majority of the servers runs",
			"%v", e.Link.Explain(e.Link.API+"STREAM.INFO."+e.Link.Stream, err))
		return nil
	}
	info := s.CachedInfo()
	good := true
	for _, set := range settings {
		if set.ok(&info.Config, &e.Want) {
			continue
		}
		good = false
		advice := "router doctor --fix"
		if set.fix == nil {
			advice = "make the bucket on disk: it is lost when the server restarts. Stop all programs, remove the stream, and start them"
		}
		e.add("settings", set.level, advice, "%s of %s is %v", set.name, e.Link.Stream, set.is(&info.Config)).Fixable = set.fix != nil
	}
	if good {
		e.add("settings", OK, "", "stream %s, %s", e.Link.Stream, info.Config.Storage)
	}
	e.replicas(info)
	return info
}

// missing is how many copies a stream should have more.
func (e *examination) missing(info *jetstream.StreamInfo) int {
	if info.Cluster == nil || info.Cluster.Name == "" {
		return 0
	}
	n := server.Keeping(e.servers, info.Cluster.Name, e.Link.Domain)
	return max(min(e.Replicas, n)-max(info.Config.Replicas, 1), 0)
}

func (e *examination) replicas(info *jetstream.StreamInfo) {
	have, c := max(info.Config.Replicas, 1), info.Cluster
	if n := e.missing(info); n > 0 {
		e.add("replicas", Warning, "router doctor --fix", "%s in a cluster of %s: without its server the registry is lost", count(have, "replica"),
			count(server.Keeping(e.servers, c.Name, e.Link.Domain), "server")).Fixable = true
		return
	}
	if have > 1 && c != nil {
		if c.Leader == "" {
			e.add("replicas", Error, "see whether a majority of the servers runs", "%d replicas, and none leads: nothing can be written", have)
			return
		}
		for _, r := range c.Replicas {
			if r.Offline || !r.Current {
				e.add("replicas", Warning, "see whether the server runs; if it was removed for good: nats stream cluster peer-remove", "the copy on %s is not current: %d messages behind, last heard %v ago", r.Name, r.Lag, r.Active.Round(time.Second))
				return
			}
		}
	}
	e.add("replicas", OK, "", "%s", count(have, "replica"))
}

// regions looks at what the regions read each other with.
func (e *examination) regions(ctx context.Context) {
	for _, region := range e.Regions {
		js, err := jetstream.NewWithDomain(e.Link.Conn, region)
		if err == nil {
			once, cancel := e.patience(ctx)
			_, err = js.AccountInfo(once)
			cancel()
		}
		if err != nil {
			e.add("regions", Warning, "see whether the servers of "+region+" run, and the leaf nodes are connected (nats-server's log): each region goes on alone", "region %s cannot be reached: %v", region, err)
		} else {
			e.add("regions", OK, "", "region %s can be reached", region)
		}
	}
	if e.Sourced == "" {
		return
	}
	ctx, cancel := e.patience(ctx)
	defer cancel()
	s, err := e.Link.JS.Stream(ctx, e.Sourced)
	if err != nil {
		e.add("regions", Error, "start a router or announcer with --nats-regions, whose user may create streams", "stream %s of the other regions: %v", e.Sourced, err)
		return
	}
	read := map[string]bool{}
	for _, from := range s.CachedInfo().Sources {
		for _, region := range e.Regions {
			if from.External == nil || from.External.APIPrefix != "$JS."+region+".API" {
				continue
			}
			read[region] = true
			if !slices.ContainsFunc(from.SubjectTransforms, func(t jetstream.SubjectTransformConfig) bool {
				return t.Source == e.Link.Prefix+wire.PolicyFamily+">"
			}) {
				e.add("regions", Warning, "start a router or announcer of region "+region+" of a version that knows policies: it makes the region send them", "region %s is read without its policies", region)
			}
			if from.Active < 0 || from.Active > quietRegion {
				e.add("regions", Warning, "see whether the region can be reached; a router or announcer of this region maintains the sources", "region %s was last heard %v ago", region, from.Active.Round(time.Second))
			}
		}
	}
	for _, region := range e.Regions {
		if !read[region] {
			e.add("regions", Warning, "start a router or announcer of this region: it adds the source when the region can be reached", "region %s is not read", region)
		}
	}
}

// quietRegion is how long another region may say nothing: it sends heartbeats every second.
const quietRegion = 15 * time.Second

// Repair gives the bucket the replicas and settings that it should have, and returns what
// it has changed.
func Repair(ctx context.Context, p Patient) ([]string, error) {
	e := &examination{Patient: p}
	e.servers, _ = server.All(ctx, p.Link.Conn) // unknown: replicas stay
	var done []string
	for _, name := range []string{p.Link.Stream, p.Sourced} {
		if name == "" {
			continue
		}
		changed, err := e.repair(ctx, name)
		if err != nil {
			return done, err
		}
		done = append(done, changed...)
	}
	return done, nil
}

func (e *examination) repair(ctx context.Context, name string) (done []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*e.Link.OpTimeout) // a copy that is added is filled first
	defer cancel()
	s, err := e.Link.JS.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kv: repair stream %s: %w", name, err)
	}
	info := s.CachedInfo()
	config := info.Config
	if name == e.Link.Stream {
		for _, set := range settings {
			if set.fix != nil && !set.ok(&config, &e.Want) {
				set.fix(&config, &e.Want)
				done = append(done, fmt.Sprintf("%s of %s is now %v", set.name, name, set.is(&config)))
			}
		}
	}
	if n := e.missing(info); n > 0 {
		config.Replicas = max(config.Replicas, 1) + n
		done = append(done, fmt.Sprintf("%s has now %s", name, count(config.Replicas, "replica")))
	}
	if len(done) == 0 {
		return nil, nil
	}
	if _, err := e.Link.JS.UpdateStream(ctx, config); err != nil {
		return nil, fmt.Errorf("kv: repair stream %s: %w", name, err)
	}
	return done, nil
}
