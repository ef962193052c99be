package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// maxBody is how much of an answer is read. A connection whose answer was read to
// its end is used for the next check.
const maxBody = 64 << 10

// NewClient returns an HTTP client for one instance. It follows no redirect: the
// target of a redirect is not the instance. It does not verify certificates, as
// the probes of Kubernetes do not: the address, mostly one of this machine, is in
// no certificate, and the request has no secret. It uses no proxy of the environment.
func NewClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second, // a client needs no Close
			MaxResponseHeaderBytes: maxBody,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// askHTTP passes on 2xx and 3xx.
func askHTTP(u *url.URL) Func {
	client, target := NewClient(), u.String()
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return err
		}
		req.Header.Set("User-Agent", "proxima-check")
		resp, err := client.Do(req)
		if err != nil {
			if e, ok := errors.AsType[*url.Error](err); ok {
				err = e.Err
			}
			return cause(err)
		}
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the answer: %w", err)
		}
		if resp.StatusCode < 200 || resp.StatusCode > 399 {
			return fmt.Errorf("got %s, want 2xx or 3xx", resp.Status)
		}
		return nil
	}
}
