// Package load finds out how busy an instance is.
//
// [Ask] asks the instance by HTTP. [Measure] measures the process that is the
// instance, on Linux. Both return a function for kv.AnnounceOptions.Load. [InFlight]
// counts the calls to that process.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// Func returns the load of an instance, or false when it is not known now. It must
// be called by one goroutine at a time.
type Func func() (events.Beat, bool)

const (
	// None is the text for no load.
	None = "none"
	// timeout bounds one request.
	timeout = 2 * time.Second
	// ShortestInterval is the least time between two calls of a [Func]: the kernel
	// counts processor time in hundredths of a second.
	ShortestInterval = 100 * time.Millisecond
	// LongestInterval is the most between two beats: callers use a beat for 15 s.
	LongestInterval = 15 * time.Second
)

// Parse parses the URL for [Ask]. It returns nil for "" and [None]. The error tells
// what is wrong with the URL.
func Parse(s string) (*url.URL, error) {
	if s == "" || s == None {
		return nil, nil
	}
	return check.ParseURL("load", s, "want http://host:port/path, https://… or none", "http", "https")
}

// asker gets the load of an instance from a URL.
type asker struct {
	client *http.Client
	target string
	name   string // the target without its password
	log    *slog.Logger

	trouble string // the error of the last request, "" for none
}

// Ask returns the function that gets a beat, as JSON, from a URL. It logs when
// that begins to fail, with another error, and when it works again.
func Ask(u *url.URL, log *slog.Logger) Func {
	a := &asker{client: check.NewClient(), target: u.String(), name: u.Redacted(), log: log}
	return a.load
}

func (a *asker) load() (events.Beat, bool) {
	beat, err := a.ask()
	before := a.trouble
	a.trouble = ""
	if err != nil {
		a.trouble = err.Error()
	}
	switch {
	case a.trouble != "" && a.trouble != before:
		a.log.Warn("the load is unknown, no beats are sent", "url", a.name, "error", err)
	case a.trouble == "" && before != "":
		a.log.Info("the load is known again", "url", a.name)
	}
	return beat, err == nil
}

func (a *asker) ask() (events.Beat, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	data, err := a.get(ctx)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return events.Beat{}, fmt.Errorf("no answer within %v", timeout)
	case err != nil:
		return events.Beat{}, err
	}
	return events.DecodeBeat(data)
}

func (a *asker) get(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "proxima-load")
	resp, err := a.client.Do(req)
	if err != nil {
		// The URL is logged beside the error. The number of the local port would
		// make each error another one.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		if e, ok := errors.AsType[*net.OpError](err); ok {
			err = e.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, events.MaxBeatSize+1))
	switch {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, fmt.Errorf("got %s, want 2xx", resp.Status)
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return data, nil
}

// Ports are the TCP ports of endpoints.
func Ports(endpoints map[string]string) []uint16 {
	var all []uint16
	for endpoint, address := range endpoints {
		if protocol, _ := events.CutEndpoint(endpoint); protocol == events.NATS || protocol == events.UDP {
			continue
		}
		if _, port, err := net.SplitHostPort(address); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				all = append(all, uint16(n))
			}
		}
	}
	return all
}
