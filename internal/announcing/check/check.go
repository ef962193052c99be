// Package check asks an instance whether it works: by HTTP, by opening a TCP
// connection, or by gRPC's health service.
//
// [Parse] reads what a user gives, such as http://127.0.0.1:8080/healthz, and
// returns a function that asks once. The function is what
// kv.AnnounceOptions.Check wants.
package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Timeout bounds one check whose context does not end sooner.
const Timeout = 2 * time.Second

// Func asks once. Nil means that the instance works; an error says what was
// asked, and what came back. It is safe for concurrent use.
type Func func(ctx context.Context) error

const rule = "want http://host:port/path, https://…, tcp://host:port or grpc://host:port[/service]"

// Parse reads a check. The error says what is wrong with it.
func Parse(s string) (Func, error) {
	u, err := url.Parse(s)
	if err != nil {
		if strings.Contains(s, "@") { // perhaps after a password
			s = "…"
		}
		return nil, fmt.Errorf("check %.200q: %s", s, rule)
	}
	name := u.Redacted()
	refuse := func(rule string) (Func, error) { return nil, fmt.Errorf("check %.200q: %s", name, rule) }
	if u.Opaque != "" || u.Hostname() == "" {
		return refuse(rule)
	}
	isHTTP := u.Scheme == "http" || u.Scheme == "https"
	if !isHTTP && u.Scheme != "tcp" && u.Scheme != "grpc" {
		return refuse(rule)
	}
	if !validPort(u.Port()) && (u.Port() != "" || !isHTTP) {
		return refuse("want a port of 1 to 65535")
	}
	var ask Func
	switch {
	case isHTTP:
		ask = askHTTP(u)
	case u.User != nil || u.RawQuery != "":
		return refuse(rule)
	case u.Scheme == "tcp" && u.Path == "":
		ask = askTCP(u.Host)
	case u.Scheme == "grpc":
		ask = askGRPC(u.Host, u.Path)
	default:
		return refuse(rule)
	}
	return bounded(name, ask), nil
}

// None is the check that always passes.
const None = "none"

// ParseOptional is Parse that returns nil for "" and [None].
func ParseOptional(s string) (Func, error) {
	if s == "" || s == None {
		return nil, nil
	}
	return Parse(s)
}

// TCP is the check that opens a connection to address.
func TCP(address string) Func { return bounded("tcp://"+address, askTCP(address)) }

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// bounded gives ask a deadline and its errors a name.
func bounded(name string, ask Func) Func {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, Timeout)
		defer cancel()
		err := ask(ctx)
		switch {
		case err == nil:
			return nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%s: no answer in time: %w", name, context.DeadlineExceeded)
		default:
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

func askTCP(address string) Func {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return cause(err)
		}
		return conn.Close()
	}
}

// cause leaves out what the name of the check says already: "connect:
// connection refused" instead of "dial tcp 127.0.0.1:80: connect: …".
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return op.Err
	}
	return err
}
