// Package check asks an instance whether it works: by HTTP, by opening a TCP
// connection, by gRPC's health service, or by running a command.
//
// [Parse] turns the URL of a check, such as http://127.0.0.1:8080/healthz, into a
// function for kv.AnnounceOptions.Check.
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
	"sync"
	"time"
)

// Timeout bounds one check. The deadline of its context may be sooner.
const Timeout = 2 * time.Second

// Func does one check. It returns nil when the instance works; an error has what
// was asked, and the answer. It is safe for concurrent use.
type Func func(ctx context.Context) error

const rule = "want http://host:port/path, https://…, tcp://host:port or grpc://host:port[/service]"

// Parse returns the check of a URL. The error tells what is wrong with the URL.
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
		ask = askListener("tcp", u.Host)
	case u.Scheme == "grpc":
		ask = askGRPC(u.Host, u.Path)
	}
	if ask == nil {
		return nil, fmt.Errorf("check %.200q: %s", u.Redacted(), rule)
	}
	return bounded(u.Redacted(), ask), nil
}

// ParseURL parses the URL of a check or of something similar. An error begins with
// what and the URL and ends with rule. http and https need no port. An error does
// not contain the password of the URL.
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
	if u.Port() == "" && isHTTP(u) {
		return u, nil
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return nil, fmt.Errorf("%s %.200q: want a port of 1 to 65535", what, u.Redacted())
	}
	return u, nil
}

func isHTTP(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "https" }

// None is the text of the check that always passes.
const None = "none"

// ParseOptional is [Parse], but returns nil for "" and [None].
func ParseOptional(s string) (Func, error) {
	if s == "" || s == None {
		return nil, nil
	}
	return Parse(s)
}

// All returns the check that passes when all of these do. They run beside each other. Nil
// ones always pass; without others the result is nil.
func All(checks ...Func) Func {
	checks = slices.DeleteFunc(checks, func(f Func) bool { return f == nil })
	if len(checks) < 2 {
		if len(checks) == 0 {
			return nil
		}
		return checks[0]
	}
	return func(ctx context.Context) error {
		errs := make([]error, len(checks))
		var running sync.WaitGroup
		for i, ask := range checks {
			running.Go(func() { errs[i] = ask(ctx) })
		}
		running.Wait()
		return errors.Join(errs...)
	}
}

// TCP returns the check that opens a connection to a host:port.
func TCP(address string) Func { return bounded("tcp://"+address, askListener("tcp", address)) }

// bounded gives ask a deadline, and puts the name of the check before its errors.
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

func askListener(network, address string) Func {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return cause(err)
		}
		return conn.Close()
	}
}

// cause removes what the name of the check has already: "connect: connection
// refused" instead of "dial tcp 127.0.0.1:80: connect: …".
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return op.Err
	}
	return err
}
