// A call with Selector.Do: of any protocol, here of the NATS service of
// examples/natsservice, without a router between.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: do NAME")
		os.Exit(2)
	}
	if err := run(cmp.Or(os.Getenv("PROXIMA_NATS_URL"), nats.DefaultURL), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(url, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // of the call with all its attempts
	defer cancel()
	nc, err := kv.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	sel, err := selector.New(ctx, nc, selector.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = sel.Close() }()

	return sel.DoFor(ctx, selector.Request{
		Service:       "greet",
		Protocol:      events.NATS, // only instances that have a subject
		NonIdempotent: true,        // tried again only if it was not sent
	}, func(ctx context.Context, p *selector.Pick) error {
		answer, err := request(ctx, nc, p.Endpoints[events.NATS], []byte(name))
		if err == nil {
			fmt.Printf("%s: %s\n", p.ID, answer.Data)
		}
		return err
	})
}

// request is one attempt. Its errors say whether another instance may be tried.
func request(ctx context.Context, nc *nats.Conn, subject string, data []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // of an attempt
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, subject, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, selector.NotSent(err) // the instance does not listen: the next one
	case err != nil:
		return nil, err
	case answer.Header.Get(micro.ErrorCodeHeader) != "":
		return nil, selector.Permanent(errors.New(answer.Header.Get(micro.ErrorHeader))) // an answer: no other would differ
	}
	return answer, nil
}
