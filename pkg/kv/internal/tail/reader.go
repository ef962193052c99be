package kv

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	pageSize  = 2048             // records asked for at a time, at first
	pageMost  = 8 * pageSize     // and at most, for whoever watches everything
	pageQuick = time.Second / 2  // an answer within this time lets the next be larger
	catchUp   = 2 * time.Second  // what a copy of the stream gets to hear what it missed
	judgement = 45 * time.Second // how long the leader is asked what to believe
	lastMost  = 1024             // subjects whose last messages a server tells at once
	pageIdle  = 3 * time.Second  // twice the first silence after which a question is asked again, see patience
	firstIdle = time.Second      // and that of the first one, if there are snapshots on disk
)

// reader asks the stream, one question at a time: for the newest message (a
// check), or for a page of a read. A read is of everything, or of what has
// changed since the last one. Because every key has one message, and a change
// moves it to the end, a read that goes on after an interruption is as good as
// one without.
type reader struct {
	filter  string // subjects in the stream
	inbox   string
	replies chan *nats.Msg

	round    int   // numbers the questions, so that late answers are known
	asked    int   // the question under way, 0 for none
	first    int   // it is the same as those since this one, and an answer to any will do
	about    topic // of it
	question wire.Get
	want     finding // why there shall be a read; fine: no reason

	cursor  uint64 // where the next page begins; 0: no read is under way
	scan    bool   // it looks through the stream, and not at the last message of each subject
	size    int    // records of a page, if it scans
	askedAt time.Time
	chain   uint64 // sequence of the last message of this page
	unread  bool   // that message could not be read
	floor   uint64 // the newest message must not lie before it
	heard   uint64 // what the next check has to confirm: it was the newest some time before
	fullAt  time.Time
	readAt  time.Time     // when the last read ended
	pause   time.Duration // how long until the next, at least
	retries int           // questions in a row without an answer
	hoped   time.Time     // when one was last asked before its time
	frozen  bool          // what is answered is out of date, see pulse
	doubted time.Time     // since when reads contradict what was heard and the leader says nothing; zero: they do not

	due      *time.Timer // the next question
	soon     bool        // it is a read that somebody waits for
	confirms bool        // it is a check of what was heard
	timeout  *time.Timer // for the answer to this one
	until    time.Time   // when that ends
}

// topic is what a question is about.
type topic int

const (
	newest topic = iota // the newest message
	page                // a page of a read
	lease               // the newest lease of all, see pulse
	truth               // the newest message, of the stream's leader
)

func newReader(r *Registry, from *wire.Bucket, which string) reader {
	most := pageSize
	if which == ">" {
		most = pageMost
	}
	rd := reader{
		filter:  from.Inst + which,
		inbox:   r.link.Conn.NewInbox() + ".",
		replies: make(chan *nats.Msg, most+pageSize/8),
		due:     time.NewTimer(0), timeout: time.NewTimer(time.Hour),
	}
	rd.timeout.Stop()
	return rd
}

// readSoon asks for a read, after a moment in which more may be found.
func (w *watcher) readSoon(why finding) {
	w.want = max(w.want, why)
	if w.asked == 0 && !w.soon {
		w.schedule()
	}
}

// confirmSoon asks for a check of a change that was heard. Anybody who may
// publish on core NATS can publish where changes are republished; what the stream
// has counts. Until then what was heard is believed: it nearly always is true.
func (w *watcher) confirmSoon() {
	if w.asked == 0 && !w.soon && !w.confirms {
		w.schedule()
	}
}

// reconnected begins again. Everybody comes back at once: not all ask at once.
func (w *watcher) reconnected() {
	w.timeout.Stop()
	w.asked, w.retries, w.frozen = 0, 0, false // perhaps it is another copy
	if w.cursor == 0 || !w.full {
		w.cursor, w.want = 0, lost
	}
	w.soon = true
	w.due.Reset(rand.N(2 * settle))
}

// next asks what is due: a page of the read under way, a new read, or a check.
func (w *watcher) next() {
	w.soon, w.confirms = false, false
	if w.cursor == 0 {
		switch {
		case w.undecided():
			w.ask(truth, wire.Get{LastFor: w.filter})
			return
		case w.want == lost, !w.ready, !time.Now().Before(w.fullAt):
			w.startRead(true)
		case w.want == missed:
			w.startRead(false)
		default:
			w.floor, w.heard = max(w.verified, w.heard), w.newest
			w.ask(newest, wire.Get{LastFor: w.filter})
			return
		}
	}
	w.askPage()
}

// undecided says whether the next read needs to know how far the stream is. Who
// may not ask the leader, or if there is none for long, believes two reads.
func (w *watcher) undecided() bool {
	if w.doubted.IsZero() || w.judged {
		return false
	}
	if time.Since(w.doubted) < judgement {
		return true
	}
	w.judged, w.truth = true, 0
	return false
}

// judge takes in what the leader says, and reads.
func (w *watcher) judge(msg *nats.Msg) {
	if msg.Header.Get(wire.HdrStatus) != "" {
		w.refused(msg)
		return
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq uint64 `json:"seq"`
		} `json:"message"`
	}
	err := json.Unmarshal(msg.Data, &answer)
	switch {
	case err != nil:
	case answer.Error == nil, answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
	case answer.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		w.failed(w.noBucket())
		return
	default:
		err = answer.Error
	}
	if err != nil {
		w.failed(fmt.Errorf("%w: %w", ErrUnavailable, err))
		return
	}
	w.doubted, w.judged, w.truth, w.retries = time.Now(), true, answer.Message.Seq, 0
	w.startRead(true)
	w.askPage()
}

func (w *watcher) startRead(full bool) {
	if full || w.want == missed {
		w.want = fine
	}
	w.begin(full)
	w.cursor = 1
	if !full {
		w.cursor = w.verified + 1
	}
	w.scan, w.size = w.service == "" || len(w.records) > lastMost, pageSize
}

// askPage asks for the last message of each subject, which costs the server as
// much as there are. It does that for lastMost subjects only; for more it
// goes through the stream, record by record, and over all leases between them.
func (w *watcher) askPage() {
	w.chain, w.unread, w.askedAt = 0, false, time.Now()
	q := wire.Get{Seq: w.cursor, MultiLast: []string{w.filter}}
	if w.scan {
		q = wire.Get{Seq: w.cursor, NextFor: w.filter, Batch: w.size}
	}
	w.ask(page, q)
}

func (w *watcher) ask(about topic, q wire.Get) {
	w.about, w.question, w.first = about, q, w.round+1
	w.send()
}

// send sends the question, be it for the first time or again.
func (w *watcher) send() {
	w.round++
	w.asked = w.round
	req, err := json.Marshal(w.question)
	if err == nil && !w.r.link.Conn.IsConnected() {
		err = fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	if err == nil {
		of := w.from.Direct
		if w.about == truth {
			of = w.from.Leader
		}
		err = w.r.link.Conn.PublishRequest(of, w.inbox+strconv.Itoa(w.asked), req)
	}
	if err != nil {
		w.failed(err)
		return
	}
	w.wait(w.patience())
}

// wait bounds the wait for an answer, or for more of it.
func (w *watcher) wait(d time.Duration) {
	w.until = time.Now().Add(d)
	w.timeout.Reset(d)
}

// silence is when there was no answer for as long as there is patience. The
// question is asked again, and whichever is answered first counts: a server that
// has more to do than it can would never come to an end if what it has done was
// thrown away for being late.
func (w *watcher) silence() {
	err := fmt.Errorf("%w: no answer for %v", ErrUnavailable, w.patience())
	if w.about == truth || w.about == page && (w.chain != 0 || w.unread) {
		w.failed(err) // perhaps it needs not be known; of a page that has begun the rest is asked for
		return
	}
	w.noAnswer(err)
	w.send()
}

// patience is how long to wait for an answer, or for more of it. It doubles with
// each question in a row that had none: asking costs the server, too. The first
// time it is short, for the copy that was asked may be a server that has just
// stopped to answer, and the next is another.
func (w *watcher) patience() time.Duration {
	idle := pageIdle
	if w.r.stores[w.from] != nil && !w.ready {
		idle = firstIdle // there is something to go on with
	}
	return idle << min(w.retries, 4) / 2
}

// answer takes in an answer, or a part of it.
func (w *watcher) answer(msg *nats.Msg) {
	n, err := strconv.Atoi(msg.Subject[len(w.inbox):])
	if w.asked == 0 || err != nil || n < w.first || n > w.asked {
		return // too late
	}
	w.first, w.asked = n, n // the others are not needed any more
	code := msg.Header.Get(wire.HdrStatus)
	switch {
	case w.about == truth:
		w.judge(msg)
	case w.about == newest && wire.Stored(msg):
		seq, _ := wire.StampUint(msg.Header, wire.HdrSequence)
		w.checked(seq)
	case w.about == newest && msg.Header == nil: // see listed
		w.checked(max(w.floor, w.verified+1))
	case w.about == newest && code == "404": // there is nothing
		w.checked(0)
	case w.about == lease && (wire.Stored(msg) || code == "404"):
		seq, _ := wire.StampUint(msg.Header, wire.HdrSequence)
		w.feel(seq)
	case w.about != page:
		w.refused(msg)
	case wire.Stored(msg), msg.Header == nil:
		w.listed(msg)
	case code == "204":
		w.pageEnded(msg)
	case code == "413":
		w.scan = true // too many for the short way
		w.askPage()
	case code == "404" && !w.scan && msg.Header.Get(wire.HdrDescription) == "Message Not Found":
		w.refused(msg) // one of several, and the answer ends here
	case code == "404":
		w.readEnded()
	default:
		w.refused(msg)
	}
}

// checked compares the newest message with what is known.
func (w *watcher) checked(seq uint64) {
	w.answered()
	w.dropSuspects()
	switch {
	case seq < w.floor:
		// The stream was made anew or emptied, a copy lags behind, or what
		// was heard was never stored.
		w.r.link.Counts.Gaps.Add(1)
		w.want = lost
		w.schedule()
	case seq > w.verified && w.want != lost:
		// Heard, most likely; but a change that was not heard, followed by
		// one that was, can be found in no other way.
		w.startRead(false)
		w.askPage()
	case !w.from.Sourced() && w.r.pulse.due():
		w.ask(lease, wire.Get{LastFor: w.r.link.Prefix + "lease.>"})
	default:
		w.freeze()
		w.schedule()
	}
}

// listed takes in a message of a page.
func (w *watcher) listed(msg *nats.Msg) {
	w.wait(w.patience())
	if msg.Header == nil {
		// Somebody wrote headers that cannot be read.
		w.r.link.Invalid(msg, wire.ErrFrame)
		w.unread = true
		return
	}
	if !w.inOrder(msg) {
		return
	}
	w.chain = w.mark(msg)
	w.cursor = w.chain + 1
}

// inOrder says whether nothing was lost on the way before msg. If so, the page
// is asked for again from there.
func (w *watcher) inOrder(msg *nats.Msg) bool {
	last, _ := wire.StampUint(msg.Header, wire.HdrLastSequence)
	if last != w.chain && !w.unread {
		w.failed(errors.New("kv: a part of an answer was lost"))
		return false
	}
	w.unread = false
	return true
}

func (w *watcher) pageEnded(msg *nats.Msg) {
	if !w.inOrder(msg) {
		return
	}
	last, _ := wire.StampUint(msg.Header, wire.HdrLastSequence)
	w.highest = max(w.highest, last)
	w.cursor = max(w.cursor, last+1)
	if pending, _ := wire.StampUint(msg.Header, wire.HdrPending); pending > 0 {
		// The server counts what is left for each page: few large ones cost it
		// less, if the way to us takes them.
		if time.Since(w.askedAt) < pageQuick {
			w.size = min(2*w.size, cap(w.replies)-pageSize/8)
		}
		w.askPage()
		return
	}
	w.readEnded()
}

func (w *watcher) readEnded() {
	w.cursor = 0
	w.end()
	w.answered()
	// Reads that follow each other become rarer, as when everybody announces
	// again after the registry was emptied.
	if time.Since(w.readAt) < maxRetry+settle {
		w.pause = min(2*w.pause+settle, maxRetry)
	} else {
		w.pause = 0
	}
	w.readAt = time.Now()
	if w.full {
		w.r.link.Counts.Snapshots.Add(1)
		w.heard = w.newest
		w.fullAt = time.Now().Add(jitter(w.r.relaxed(snapshotEvery)))
	}
	switch {
	case !w.doubt:
		w.doubted = time.Time{}
	case w.doubted.IsZero():
		w.doubted = time.Now()
	}
	if w.doubt {
		// A copy that has just come back may be behind for a moment, and the
		// next answer come from it too.
		w.want, w.pause = lost, max(w.pause, catchUp)
	}
	w.schedule()
}

// answered notes that the question under way has its answer.
func (w *watcher) answered() {
	w.asked = 0
	w.timeout.Stop()
	if w.retries = 0; !w.frozen {
		w.well()
	}
}

// schedule says when to ask again.
func (w *watcher) schedule() {
	w.soon = w.want != fine
	w.confirms = !w.soon && w.newest > w.verified
	if w.confirms {
		w.heard = w.newest
		// A look at a very long list costs the server more.
		every := min(confirmEvery*time.Duration(1+len(w.records)/10_000), checkEvery)
		w.due.Reset(jitter(w.r.relaxed(every)))
		return
	}
	switch {
	case w.frozen && !w.soon:
		w.due.Reset(jitter(w.r.relaxed(pulseEvery)))
		return
	case !w.soon:
		w.due.Reset(jitter(w.r.relaxed(checkEvery)))
		return
	}
	w.due.Reset(max(0, w.pause-time.Since(w.readAt)) + rand.N(settle))
}

// refused handles an answer that is an error: most often that nobody keeps
// the bucket, or that it is not there.
func (w *watcher) refused(msg *nats.Msg) {
	err := fmt.Errorf("%w: %s", ErrUnavailable, wire.Status(msg))
	if msg.Header.Get(wire.HdrStatus) == "503" {
		err = w.noBucket()
	}
	w.failed(err)
}

// noBucket makes the bucket that is not there, or says so.
func (w *watcher) noBucket() error {
	if !w.r.opts.NoCreate {
		if _, err := w.r.heal(w.ctx); err != nil && !wire.Transient(err) {
			return err
		}
	}
	return fmt.Errorf("%w: no server has bucket %q", ErrUnavailable, w.from.Name)
}

// noAnswer notes that a question has failed. One is no reason to call the view
// stale: a leader may be changing.
func (w *watcher) noAnswer(err error) {
	w.retries++
	w.outage = time.Now()
	if w.retries > 1 || !w.r.link.Conn.IsConnected() || !w.ready {
		w.setStale(err)
	}
}

// failed gives up the question and asks again later.
func (w *watcher) failed(err error) {
	w.timeout.Stop()
	w.asked, w.size = 0, pageSize
	w.noAnswer(err)
	delay := min(maxRetry, settle<<min(w.retries, 6))
	w.soon = true
	w.due.Reset(delay/2 + rand.N(delay))
}

// hope asks before it is time, when the registry has not answered and now a
// change was heard: it is back, and the view is stale for no reason. Everybody
// hears it, and not all ask at once.
func (w *watcher) hope() {
	if w.asked == 0 && w.retries > 1 && time.Since(w.hoped) >= time.Second {
		w.hoped = time.Now()
		w.due.Reset(rand.N(2 * settle))
	}
}
