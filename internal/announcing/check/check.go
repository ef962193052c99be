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
	"slices"
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
	u, err := ParseURL("check", s, rule, "http", "https", "tcp", "grpc")
	if err != nil {
		return nil, err
	}
	var ask Func
	switch {
	case isHTTP(u):
		ask = askHTTP(u)
	case u.User != nil || u.RawQuery != "":
	case u.Scheme == "tcp" && u.Path == "":
		ask = askTCP(u.Host)
	case u.Scheme == "grpc":
		ask = askGRPC(u.Host, u.Path)
	}
	if ask == nil {
		return nil, fmt.Errorf("check %.200q: %s", u.Redacted(), rule)
	}
	return bounded(u.Redacted(), ask), nil
}

// ParseURL reads the URL of something that is asked: what names it, and rule is
// the end of the error. Only http and https may do without a port.
func ParseURL(what, s, rule string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil && strings.Contains(s, "@"): // perhaps after a password
		return nil, fmt.Errorf("%s \"…\": %s", what, rule)
	case err != nil:
		return nil, fmt.Errorf("%s %.200q: %s", what, s, rule)
	case !slices.Contains(schemes, u.Scheme) || u.Hostname() == "":
		return nil, fmt.Errorf("%s %.200q: %s", what, u.Redacted(), rule)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if (err != nil || port == 0) && !(u.Port() == "" && isHTTP(u)) {
		return nil, fmt.Errorf("%s %.200q: want a port of 1 to 65535", what, u.Redacted())
	}
	return u, nil
}

func isHTTP(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "https" }

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
