package tail

import (
	"context"
	"encoding/json"
	"fmt"
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

// question asks the stream, one thing at a time, again and again until there is an
// answer.
type question struct {
	ctx     context.Context // of the watch
	group   *Group
	from    Source
	ready   func() bool // the view has something to go on with
	filter  string      // subjects in the stream
	inbox   string
	replies chan *nats.Msg

	round   int   // numbers the questions, so that late answers are known
	asked   int   // the one under way, 0 for none
	first   int   // it is the same as those since this one, and an answer to any will do
	about   topic // of it
	get     wire.Get
	retries int         // questions in a row without an answer
	timeout *time.Timer // for the answer to this one
	until   time.Time   // when that ends
}

func newQuestion(g *Group, from Source, filter string, most int, ready func() bool) question {
	q := question{
		group: g, from: from, ready: ready, filter: filter,
		inbox:   g.Link.Conn.NewInbox() + ".",
		replies: make(chan *nats.Msg, most),
		timeout: time.NewTimer(time.Hour),
	}
	q.timeout.Stop()
	return q
}

// ask asks a new question. The error says that it was not sent.
func (q *question) ask(about topic, get wire.Get) error {
	q.about, q.get, q.first = about, get, q.round+1
	return q.send()
}

// send sends the question, be it for the first time or again.
func (q *question) send() error {
	q.round++
	q.asked = q.round
	conn, of := q.group.Link.Conn, q.from.Bucket.Direct
	if q.about == leaderNewest {
		of = q.from.Bucket.Leader
	}
	req, err := json.Marshal(q.get)
	if err == nil && !conn.IsConnected() {
		err = fmt.Errorf("%w: not connected", wire.ErrUnavailable)
	}
	if err == nil {
		err = conn.PublishRequest(of, q.inbox+strconv.Itoa(q.asked), req)
	}
	if err == nil {
		q.wait(q.patience())
	}
	return err
}

// accept reports whether msg answers the question under way. The other questions
// that asked for the same are not needed any more.
func (q *question) accept(msg *nats.Msg) bool {
	n, err := strconv.Atoi(msg.Subject[len(q.inbox):])
	if q.asked == 0 || err != nil || n < q.first || n > q.asked {
		return false // too late
	}
	q.first, q.asked = n, n
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

// extend puts off the end of that wait: for so long nothing was taken in. More than
// that would keep a question for ever while changes are heard.
func (q *question) extend(by time.Duration) {
	if q.asked != 0 {
		q.wait(time.Until(q.until) + by)
	}
}

// patience is how long to wait for an answer, or for more of it. It doubles with
// each question in a row that had none: asking costs the server, too. The first
// time it is short, for the copy that was asked may be a server that has just
// stopped to answer, and the next is another.
func (q *question) patience() time.Duration {
	first := retryWait
	if q.from.Store != nil && !q.ready() {
		first = firstWait // there is something to go on with
	}
	return first << min(q.retries, maxDoubling)
}
