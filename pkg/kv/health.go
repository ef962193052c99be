package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Connect connects to NATS with the options that a registry needs. The connection is made
// again for ever, also when no server answers at first, and while servers refuse the
// credentials. It notices within six seconds that a server is silent. While it is not
// connected nothing is stored to be sent later: a publish or request fails with
// [nats.ErrReconnectBufExceeded]. Options are added to these. The error is about the URL
// or the options. Whether there is a server is reported by the log and by
// [Registry.Health].
func Connect(url string, options ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(url, append(server.Lasting(), options...)...)
	if err != nil {
		return nil, fmt.Errorf("kv: connect: %w", err)
	}
	return nc, nil
}

// Health is what this process knows of its access to the registry.
type Health struct {
	// Err is why the registry cannot be read, in the words of the server if it gave a
	// reason. It matches [nats.ErrConnectionClosed] if the connection is closed for good.
	// Nil: it can be read, or no read was tried.
	Err error
	// WriteErr is the error of the last write, for instance of a lease. Nil: it
	// succeeded, or nothing was written. WriteFailing is the time of the first of the
	// writes that have failed in a row; zero: none has.
	WriteErr     error
	WriteFailing time.Time
	// MissingReplicas is the number of copies that the bucket lacks, found when the
	// registry was opened or by the last [Registry.Check].
	MissingReplicas int
}

// Health returns what watches, announcements and other calls have found out. It sends no
// request.
func (r *Registry) Health() Health {
	h := Health{Err: r.link.Connected(), MissingReplicas: int(r.bucket.missing.Load())}
	if h.Err == nil && r.tails.Watching() {
		_, h.Err = r.link.Reads.Now()
	}
	h.WriteFailing, h.WriteErr = r.link.Writes.Now()
	if h.WriteErr != nil && h.Err != nil && errors.Is(h.Err, nats.ErrConnectionClosed) {
		h.WriteErr = h.Err
	}
	return h
}

// Check asks the leader of the bucket whether it is there, and returns the health of the
// registry. A bucket that was lost is made again, unless [Options].NoCreate is set. If
// the last write failed, it tries a write that no other program reads and that the server
// removes by itself. Check is for the few programs that must know soon, such as routers:
// only the leader answers it.
func (r *Registry) Check(ctx context.Context) Health {
	err := r.askLeader(ctx)
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == jetstream.JSErrCodeStreamNotFound && !r.opts.NoCreate {
		if made, failed := r.bucket.heal(ctx); made {
			err = r.askLeader(ctx)
		} else if failed != nil && !errors.Is(failed, wire.ErrBusy) {
			err = failed
		}
	}
	if _, failed := r.link.Writes.Now(); failed != nil && err == nil {
		r.tryWrite(ctx)
	}
	if err == nil {
		r.bucket.recount(ctx)
	}
	h := r.Health()
	if err != nil {
		h.Err = err
	} else { // another server than at the start may be connected
		err = server.CheckConnected(r.link.Conn)
	}
	if h.WriteErr == nil && err != nil { // no write can succeed without the leader
		h.WriteErr, h.WriteFailing = err, time.Now()
	}
	return h
}

// askLeader returns why the leader of the bucket does not answer.
func (r *Registry) askLeader(ctx context.Context) error {
	if err := r.link.Connected(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.link.OpTimeout)
	defer cancel()
	msg, err := r.link.Conn.RequestWithContext(ctx, r.link.Leader, []byte(`{"last_by_subj":"`+r.link.Prefix+trial+`"}`))
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: no server has bucket %q: %w", ErrUnavailable, r.link.Name, r.why(ctx, err))
	case err != nil:
		return fmt.Errorf("%w: the leader of bucket %q: %w", ErrUnavailable, r.link.Name, r.link.Explain(r.link.Leader, r.why(ctx, err)))
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return fmt.Errorf("%w: the leader of bucket %q: %w", ErrUnavailable, r.link.Name, err)
	}
	if e := answer.Error; e != nil && e.ErrorCode != jetstream.JSErrCodeMessageNotFound {
		return fmt.Errorf("%w: %w", ErrUnavailable, e)
	}
	return nil
}

// why asks JetStream itself why a request about the bucket had no answer.
func (r *Registry) why(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.link.OpTimeout/2)
	defer cancel()
	if _, said := r.link.JS.AccountInfo(ctx); said != nil && !errors.Is(said, context.DeadlineExceeded) {
		return said
	}
	return err
}

// trial is the key of what is written to see whether writes succeed. No instance can have
// it.
const trial = "trial"

// tryWrite writes something that is of no use.
func (r *Registry) tryWrite(ctx context.Context) {
	_, _ = r.link.Publish(ctx, &nats.Msg{
		Subject: r.link.Prefix + trial, Header: nats.Header{wire.HdrOperation: {wire.Purge}},
	}, jetstream.WithMsgTTL(trialTTL)) // the link notes its error
}
