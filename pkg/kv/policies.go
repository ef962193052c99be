package kv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/disk"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/documents"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

var (
	// ErrChanged is returned when a policy is to be written in the place of a revision that
	// is not the newest ([IfRevision]).
	ErrChanged = documents.ErrChanged
	// ErrNoPolicy is returned when a policy is to be removed that is not there.
	ErrNoPolicy = documents.ErrNone
)

// newPolicies prepares to follow the policies, and to keep them on disk if snapshots are.
func (r *Registry) newPolicies() *documents.Follower[*policy.Policy] {
	all := documents.NewCollection(documents.Policies, r.link, r.buckets(), !r.opts.NoCreate)
	if r.opts.SnapshotDir == "" {
		return documents.NewFollower(all, nil)
	}
	return documents.NewFollower(all, disk.NewDocuments(r.opts.SnapshotDir, r.link.Name, r.link.Log))
}

// Policies returns the policies that are kept now, also those that cannot be read, in the
// order of their names; [policy.Default] is the one for all services.
func (r *Registry) Policies(ctx context.Context) ([]policy.Document, error) {
	all, err := r.policies.All(ctx)
	if err != nil {
		return nil, fmt.Errorf("kv: read the policies: %w", err)
	}
	found := make([]policy.Document, len(all))
	for i, d := range all {
		found[i] = r.withLastGood(d)
	}
	slices.SortFunc(found, func(a, b policy.Document) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// Policy returns the policy of a service, or the one for all services if the name is
// [policy.Default], as it is kept now. The document has no Policy if there is none.
func (r *Registry) Policy(ctx context.Context, name string) (policy.Document, error) {
	key := policyKey(name)
	if err := documents.Policies.Check(key); err != nil {
		return policy.Document{Name: name}, err
	}
	all, err := r.policies.All(ctx, key)
	if err != nil {
		return policy.Document{Name: name}, fmt.Errorf("kv: read the policy of %s: %w", name, err)
	}
	if len(all) == 0 {
		return policy.Document{Name: name}, nil
	}
	return r.withLastGood(all[0]), nil
}

// withLastGood is what was read, with the last good policy that is known here where the
// newest cannot be read.
func (r *Registry) withLastGood(d documents.Document[*policy.Policy]) policy.Document {
	if last, ok := r.policies.Last(d.Key); ok && last.Good && !d.Good && d.Unreadable != nil {
		last.Unreadable = d.Unreadable
		d = last
	}
	return documentOf(d.Key, d)
}

// PolicyOption is a condition of [Registry.PutPolicy] and [Registry.DeletePolicy].
type PolicyOption func(*documents.Write)

// IfRevision writes only in the place of that revision, 0: only if there is no policy. If
// the newest is another one, the error is [ErrChanged].
func IfRevision(revision uint64) PolicyOption {
	return func(w *documents.Write) { w.If = &revision }
}

// PutPolicy writes the policy of a service, or the one for all services if the name is
// [policy.Default], and returns it as it is kept. Data is kept as it is, once it was
// checked. Every selector that can be reached follows it within a second, those of other
// regions too, and the others when they can be: of two policies of one service the later
// one holds.
func (r *Registry) PutPolicy(ctx context.Context, name string, data []byte, o ...PolicyOption) (policy.Document, error) {
	return r.writePolicy(ctx, name, func(time.Time) ([]byte, error) { return data, nil }, o)
}

// DeletePolicy removes a policy, as [Registry.PutPolicy] writes one.
func (r *Registry) DeletePolicy(ctx context.Context, name string, o ...PolicyOption) error {
	_, err := r.writePolicy(ctx, name, nil, o)
	return err
}

func (r *Registry) writePolicy(ctx context.Context, name string, body func(time.Time) ([]byte, error), o []PolicyOption) (policy.Document, error) {
	w := documents.Write{Body: body}
	for _, option := range o {
		option(&w)
	}
	d, err := r.policies.Write(ctx, policyKey(name), w)
	if err != nil {
		if errors.Is(err, wire.ErrUnavailable) || errors.Is(err, ErrChanged) || errors.Is(err, ErrNoPolicy) {
			err = fmt.Errorf("kv: policy of %s: %w", name, err)
		}
		return policy.Document{Name: name}, err
	}
	return documentOf(d.Key, d), nil
}

// WatchPolicy calls apply with the policy of a service and the one for all services, first
// when it is known which there are, and after each change, one call at a time, until ctx
// ends. While the registry cannot be reached, or a new document cannot be read, the last
// good one stays. If the registry cannot be reached at the start, what is on disk holds,
// see [Options].SnapshotDir. The error is ctx's, or about service.
func (r *Registry) WatchPolicy(ctx context.Context, service string, apply func(policy.Current)) error {
	if err := events.ValidateService(service); err != nil {
		return err
	}
	names := [2]string{policy.Default, service}
	w := r.policies.Join(policyKey(names[0]), policyKey(names[1]))
	defer w.Leave()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C:
		}
		if all, known := w.Now(); known {
			var both [2]policy.Document
			for i, name := range names {
				both[i] = documentOf(policyKey(name), all[policyKey(name)])
			}
			apply(policy.Current{Default: both[0], Service: both[1]})
		}
	}
}

func policyKey(name string) string { return wire.PolicyFamily + name }

// documentOf is a document as other packages know it.
func documentOf(key string, d documents.Document[*policy.Policy]) policy.Document {
	p := policy.Document{Name: strings.TrimPrefix(key, wire.PolicyFamily)}
	if d.Good {
		p.Policy, p.Revision, p.At, p.Data = d.Value, d.Revision, d.At, d.Data
	}
	if d.Unreadable != nil {
		p.Err = d.Unreadable
	}
	return p
}
