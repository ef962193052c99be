// A NATS service that announces itself, and a call of it through a router:
//
//	go run ./cmd/router serve               # brings a NATS server, if you have none
//	go run ./examples/natsservice           # one or more, in other terminals
//	go run ./examples/natsservice call Ada  # needs only nats.go; examples/do calls without a router
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	nc, err := kv.Connect(cmp.Or(os.Getenv("PROXIMA_NATS_URL"), nats.DefaultURL))
	if err == nil && len(os.Args) == 3 && os.Args[1] == "call" {
		err = call(nc, os.Args[2])
	} else if err == nil {
		err = serve(ctx, nc)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, nc *nats.Conn) error {
	id := fmt.Sprint("greet-", os.Getpid())
	subject := "greet." + id // one for each instance: the caller or router chooses, not a queue group
	endpoint := &micro.EndpointConfig{Subject: subject, Handler: micro.HandlerFunc(greet)}
	service, err := micro.AddService(nc, micro.Config{Name: "greet", Version: "1.0.0", Endpoint: endpoint})
	if err != nil {
		return err
	}
	registry, err := kv.Open(ctx, nc, kv.Options{})
	if err != nil {
		return err
	}
	in := events.Instance{Service: "greet", ID: id, Endpoints: map[string]string{events.NATS: subject}}
	announcement, err := registry.Announce(in, kv.AnnounceOptions{Drain: 2 * time.Second})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return errors.Join(announcement.Leave(context.WithoutCancel(ctx)), service.Stop())
}

func greet(r micro.Request) {
	if len(r.Data()) > 0 {
		_ = r.Respond(fmt.Appendf(nil, "hello %s", r.Data()))
	} else {
		_ = r.Error("400", "a name is missing", nil)
	}
}

func call(nc *nats.Conn, name string) error {
	answer, err := nc.Request("proxima.route.greet", []byte(name), 5*time.Second)
	if err != nil {
		return err
	}
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		return fmt.Errorf("%s %s", code, answer.Header.Get(micro.ErrorHeader))
	}
	fmt.Printf("%s: %s\n", answer.Header.Get("Proxima-Instance"), answer.Data)
	return nil
}
