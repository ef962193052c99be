package tail

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// topic is what a question is about.
type topic int

const (
	newest       topic = iota // the newest message of the filter
	page                      // a page of a read
	lease                     // the newest lease of all, see leaseAge
	leaderNewest              // the newest message of the filter, as the stream's leader has it
)

// question is what a reader asks the stream, again and again until there is an
// answer. There is one at a time.
type question struct {
	round   int   // numbers the questions, so that late answers are known
	asked   int   // the one under way, 0 for none
	first   int   // it is the same as those since this one, and an answer to any will do
	about   topic // of it
	get     wire.Get
	retries int         // questions in a row without an answer
	timeout *time.Timer // for the answer to this one
	until   time.Time   // when that ends
}

// ask asks a new question.
func (r *reader) ask(about topic, get wire.Get) {
	r.about, r.get, r.first = about, get, r.round+1
	r.send()
}

// send sends the question, be it for the first time or again.
func (r *reader) send() {
	r.round++
	r.asked = r.round
	conn, of := r.group.Link.Conn, r.from.Bucket.Direct
	if r.about == leaderNewest {
		of = r.from.Bucket.Leader
	}
	req, err := json.Marshal(r.get)
	if err == nil {
		err = r.group.Link.Connected()
	}
	if err == nil {
		err = conn.PublishRequest(of, r.inbox+strconv.Itoa(r.asked), req)
	}
	if err != nil {
		r.failed(err)
		return
	}
	r.wait(r.patience())
}

// accept reports whether msg answers the question under way. The other questions
// that asked for the same are not needed any more.
func (r *reader) accept(msg *nats.Msg) bool {
	n, err := strconv.Atoi(msg.Subject[len(r.inbox):])
	if r.asked == 0 || err != nil || n < r.first || n > r.asked {
		return false // too late
	}
	r.first, r.asked = n, n
	return true
}

// drop ends the question under way.
func (q *question) drop() {
	q.asked = 0
	q.timeout.Stop()
}

// wait bounds the wait for an answer, or for more of it.
func (q *question) wait(d time.Duration) {
	q.until = time.Now().Add(d)
	q.timeout.Reset(d)
}

// extend adds the time that apply took to the answer's deadline. Resetting the deadline
// on every change would keep a question open for ever.
func (q *question) extend(by time.Duration) {
	if q.asked != 0 {
		q.wait(time.Until(q.until) + by)
	}
}

// patience is how long the reader waits for an answer, or for more of it. It doubles
// with each question in a row that had no answer, because asking costs the server,
// too. The first wait is short: the copy that was asked may be on a server that
// stopped answering, and the next question goes to another.
func (r *reader) patience() time.Duration {
	first := retryWait
	if r.from.Store != nil && !r.view.Ready() {
		first = firstWait // the snapshot on disk will do
	}
	return first << min(r.retries, maxDoubling)
}
