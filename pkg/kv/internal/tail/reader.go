package tail

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/view"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	pageSize = 2048         // records asked for at a time, at first
	pageMost = 8 * pageSize // and at most, by a tail of all services
	lastMost = 1024         // subjects whose last messages a server tells at once
)

// reader keeps a view complete: it asks the stream for the newest message (a
// check), or for a page of a read. A read is of everything, or of what has changed
// since the last one. Because every key has one message, and a change moves it to
// the end, a read that goes on after an interruption is as good as one without.
type reader struct {
	question
	ctx       context.Context // of the watch
	group     *Group
	from      Source
	view      *view.View
	staleness *staleness
	filter    string // subjects in the stream
	inbox     string
	replies   chan *nats.Msg

	want    view.Finding // why there shall be a read; Fine: no reason
	cursor  uint64       // where the next page begins; 0: no read is under way
	scan    bool         // it looks through the stream, and not at the last message of each subject
	size    int          // records of a page, if it scans
	askedAt time.Time    // when this page was asked for
	chain   uint64       // sequence of the last message of this page
	unread  bool         // that message could not be read
	floor   uint64       // the newest message must not lie before it
	heard   uint64       // what the next check has to confirm: it was the newest some time before
	fullAt  time.Time    // when to read everything again
	readAt  time.Time    // when the last read ended
	pause   time.Duration
	doubted time.Time // since when reads contradict what was heard and the leader has not answered; zero: they do not

	due      *time.Timer // the next question
	soon     bool        // it is a read that is waited for
	confirms bool        // it is a check of what was heard
	retried  time.Time   // when one was last asked before its time, see retryNow
}

func newReader(g *Group, from Source, v *view.View, s *staleness, which string) *reader {
	most := pageSize
	if which == ">" {
		most = pageMost
	}
	r := &reader{
		group: g, from: from, view: v, staleness: s,
		filter: from.Bucket.Inst + which, inbox: g.Link.Conn.NewInbox() + ".", replies: make(chan *nats.Msg, most+pageSize/8),
		due: time.NewTimer(0), soon: true, // the first read
	}
	r.timeout = time.NewTimer(time.Hour)
	r.timeout.Stop()
	return r
}

func (r *reader) close() {
	r.due.Stop()
	r.timeout.Stop()
}

// readSoon asks for a read, after a moment in which more may be found.
func (r *reader) readSoon(why view.Finding) {
	r.want = max(r.want, why)
	if r.asked == 0 && !r.soon {
		r.schedule()
	}
}

// confirmSoon asks for a check of a change that was heard. Every client that may
// publish on core NATS can publish where changes are republished. Only the stream
// proves a change; until the check the change is believed, as it nearly always is
// true.
func (r *reader) confirmSoon() {
	if r.asked == 0 && !r.soon && !r.confirms {
		r.schedule()
	}
}

// retryNow asks before the pause is over. A change was heard, so the registry is back,
// although it did not answer the last questions. Every caller hears the change: a
// random delay spreads their questions.
func (r *reader) retryNow() {
	if r.asked == 0 && r.retries > 1 && time.Since(r.retried) >= retryNowEvery {
		r.retried = time.Now()
		r.due.Reset(rand.N(2 * settle))
	}
}

// reconnected begins again, after a random delay: all callers of a server are
// connected again at the same moment.
func (r *reader) reconnected() {
	r.drop()
	r.retries, r.staleness.cutOff = 0, false // perhaps it is another copy
	if r.cursor == 0 || !r.view.Full() {
		r.cursor, r.want = 0, view.Lost
	}
	r.soon = true
	r.due.Reset(rand.N(2 * settle))
}

// next asks what is due: a page of the read under way, a new read, or a check.
func (r *reader) next() {
	r.soon, r.confirms = false, false
	if r.cursor == 0 {
		switch {
		case r.needsLeader():
			r.ask(leaderNewest, wire.Get{LastFor: r.filter})
			return
		case r.want == view.Lost, !r.view.Ready(), !time.Now().Before(r.fullAt):
			r.startRead(true)
		case r.want == view.Missed:
			r.startRead(false)
		default:
			r.floor, r.heard = max(r.view.Verified(), r.heard), r.view.Newest()
			r.ask(newest, wire.Get{LastFor: r.filter})
			return
		}
	}
	r.askPage()
}

func (r *reader) startRead(full bool) {
	if full || r.want == view.Missed {
		r.want = view.Fine
	}
	r.view.Begin(full)
	r.cursor = 1
	if !full {
		r.cursor = r.view.Verified() + 1
	}
	r.scan, r.size = r.from.Service == "" || r.view.Records() > lastMost, pageSize
}

// askPage asks for the last message of each subject, which costs the server as
// much as there are. It does that for lastMost subjects only; for more it goes
// through the stream, record by record, and over all leases between them.
func (r *reader) askPage() {
	r.chain, r.unread, r.askedAt = 0, false, time.Now()
	q := wire.Get{Seq: r.cursor, MultiLast: []string{r.filter}}
	if r.scan {
		q = wire.Get{Seq: r.cursor, NextFor: r.filter, Batch: r.size}
	}
	r.ask(page, q)
}

// silence is called when no answer came within the patience. The reader asks again,
// and accepts the answer to either question: an overloaded server would never finish
// if late answers were dropped.
func (r *reader) silence() {
	err := r.group.Link.Explain(r.from.Bucket.Direct, fmt.Errorf("%w: no answer for %v", wire.ErrUnavailable, r.patience()))
	if r.about == leaderNewest || r.about == page && (r.chain != 0 || r.unread) {
		r.failed(err) // perhaps it needs not be known; of a page that has begun the rest is asked for
		return
	}
	r.noAnswer(err)
	r.send()
}

// answer takes in an answer, or a part of it.
func (r *reader) answer(msg *nats.Msg) {
	if !r.accept(msg) {
		return
	}
	if r.about == leaderNewest {
		r.leaderAnswered(msg)
		return
	}
	err := r.get.Answer(msg)
	seq, _ := wire.StampUint(msg.Header, wire.HdrSequence) // 0 if there is no such message
	known := err == nil || errors.Is(err, wire.ErrNotFound)
	switch {
	case r.about == page:
		r.paged(err, msg)
	case r.about == newest && known:
		r.checked(seq)
	case r.about == newest && errors.Is(err, wire.ErrUnreadable): // see listed
		r.checked(max(r.floor, r.view.Verified()+1))
	case r.about == lease && known:
		r.renewed(seq)
	default:
		r.refused(err)
	}
}

// paged takes in a part of a page.
func (r *reader) paged(err error, msg *nats.Msg) {
	switch {
	case err == nil, errors.Is(err, wire.ErrUnreadable):
		r.listed(msg)
	case errors.Is(err, wire.ErrPageEnd):
		r.pageEnded(msg)
	case errors.Is(err, wire.ErrTooMany):
		r.scan = true // too many for the short way
		r.askPage()
	case errors.Is(err, wire.ErrNotFound):
		r.readEnded()
	default:
		r.refused(err)
	}
}

// checked compares the newest message with what is known.
func (r *reader) checked(seq uint64) {
	r.answered()
	r.view.DropSuspects(time.Now())
	switch {
	case seq < r.floor:
		// The stream was made anew or emptied, a copy lags behind, or what
		// was heard was never stored.
		r.group.Link.Counts.Gaps.Add(1)
		r.want = view.Lost
		r.schedule()
	case seq > r.view.Verified() && r.want != view.Lost:
		// Heard, most likely; but a change that was not heard, followed by
		// one that was, can be found in no other way.
		r.startRead(false)
		r.askPage()
	case !r.from.Bucket.Sourced() && r.group.leases.due():
		r.ask(lease, wire.Get{LastFor: r.from.Bucket.Prefix + "lease.>"})
	default:
		r.upToDate()
	}
}

// renewed takes in the newest lease.
func (r *reader) renewed(seq uint64) {
	r.group.leases.observe(seq)
	r.drop()
	r.upToDate()
}

// upToDate ends a check that found nothing new. The view is stale all the same if
// the registry does not take writes any more.
func (r *reader) upToDate() {
	if r.staleness.checkCutOff() {
		r.retries = 0
	}
	r.schedule()
}

// rejoined notes that the registry takes writes again.
func (r *reader) rejoined() {
	r.retries = 0
	r.staleness.rejoined()
}

// listed takes in a message of a page.
func (r *reader) listed(msg *nats.Msg) {
	r.wait(r.patience())
	if msg.Header == nil {
		// Its writer chose headers that cannot be read.
		r.group.Link.Invalid(msg.Subject, wire.ErrFrame)
		r.unread = true
		return
	}
	if !r.inOrder(msg) {
		return
	}
	r.chain = r.list(msg)
	r.cursor = r.chain + 1
}

// list merges a message of the read and returns its sequence. Most of a read is
// known, and not worth decoding.
func (r *reader) list(msg *nats.Msg) uint64 {
	b := r.from.Bucket
	seq, _ := wire.StampUint(msg.Header, wire.HdrSequence)
	r.view.Reach(seq)
	name := strings.TrimPrefix(wire.Stamp(msg.Header, wire.HdrSubject), b.Inst)
	if r.view.Confirm(name, seq, wire.Stamp(msg.Header, wire.HdrTimestamp)) {
		return seq
	}
	c, err := b.Parse(msg)
	if err != nil {
		r.group.Link.Invalid(msg.Subject, err)
		return seq
	}
	r.view.List(&c, time.Now())
	return seq
}

// inOrder reports whether nothing was lost on the way before msg. If so, the page
// is asked for again from there.
func (r *reader) inOrder(msg *nats.Msg) bool {
	last, _ := wire.StampUint(msg.Header, wire.HdrLastSequence)
	if last != r.chain && !r.unread {
		r.failed(errors.New("kv: a part of an answer was lost"))
		return false
	}
	r.unread = false
	return true
}

func (r *reader) pageEnded(msg *nats.Msg) {
	if !r.inOrder(msg) {
		return
	}
	last, _ := wire.StampUint(msg.Header, wire.HdrLastSequence)
	r.view.Reach(last)
	r.cursor = max(r.cursor, last+1)
	if wire.Pending(msg) > 0 {
		// The server counts what is left for each page: few large ones cost it
		// less, if the way to us takes them.
		if time.Since(r.askedAt) < pageQuick {
			r.size = min(2*r.size, cap(r.replies)-pageSize/8)
		}
		r.askPage()
		return
	}
	r.readEnded()
}

func (r *reader) readEnded() {
	r.cursor = 0
	now := time.Now()
	if missed := r.view.End(now); missed {
		r.group.Link.Counts.Gaps.Add(1)
	}
	r.answered()
	// Reads that follow each other become rarer, as when all instances announce
	// again after the registry was emptied.
	if now.Sub(r.readAt) < maxRetry+settle {
		r.pause = min(2*r.pause+settle, maxRetry)
	} else {
		r.pause = 0
	}
	r.readAt = now
	if r.view.Full() {
		r.group.Link.Counts.Snapshots.Add(1)
		r.heard = r.view.Newest()
		r.fullAt = now.Add(wire.Jitter(r.group.relaxed(snapshotEvery)))
	}
	if !r.view.Doubt() {
		r.doubted = time.Time{}
	} else {
		if r.doubted.IsZero() {
			r.doubted = now
		}
		// A copy that has just come back may be behind for a moment, and the
		// next answer come from it too.
		r.want, r.pause = view.Lost, max(r.pause, catchUp)
	}
	r.schedule()
}

// answered notes that the question under way has its answer.
func (r *reader) answered() {
	r.drop()
	if r.retries = 0; !r.staleness.cutOff {
		r.staleness.markFresh()
	}
}

// schedule says when to ask again.
func (r *reader) schedule() {
	r.soon = r.want != view.Fine
	r.confirms = !r.soon && r.view.Newest() > r.view.Verified()
	switch {
	case r.soon:
		r.due.Reset(max(0, r.pause-time.Since(r.readAt)) + rand.N(settle))
	case r.confirms:
		r.heard = r.view.Newest()
		// A look at a very long list costs the server more.
		every := min(confirmEvery*time.Duration(1+r.view.Records()/10_000), checkEvery)
		r.due.Reset(wire.Jitter(r.group.relaxed(every)))
	case r.staleness.cutOff:
		r.due.Reset(wire.Jitter(r.group.relaxed(leaseEvery)))
	default:
		r.due.Reset(wire.Jitter(r.group.relaxed(checkEvery)))
	}
}

// refused handles an answer that is an error: most often that no server keeps the
// bucket, or that it is not there.
func (r *reader) refused(err error) {
	if wire.NoServer(err) {
		err = r.noBucket()
	}
	r.failed(err)
}

// noBucket makes the bucket that is not there, or says so.
func (r *reader) noBucket() error {
	none := fmt.Errorf("%w: no server has bucket %q", wire.ErrUnavailable, r.from.Bucket.Name)
	if heal := r.group.Heal; heal != nil {
		switch _, err := heal(r.ctx); {
		case err == nil, errors.Is(err, wire.ErrBusy):
		case !wire.Transient(err):
			return err
		default:
			return fmt.Errorf("%w: %w", none, err)
		}
	}
	return none
}

// noAnswer notes that a question has failed. One failure does not make the view stale:
// the stream may be electing a leader.
func (r *reader) noAnswer(err error) {
	r.retries++
	r.view.Outage(time.Now())
	if r.retries > 1 || !r.group.Link.Conn.IsConnected() || !r.view.Ready() {
		r.staleness.markStale(err)
	}
}

// failed gives up the question and asks again later.
func (r *reader) failed(err error) {
	r.drop()
	r.size = pageSize
	r.noAnswer(err)
	delay := min(maxRetry, settle<<min(r.retries, 6))
	r.soon = true
	r.due.Reset(delay/2 + rand.N(delay))
}
