package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	// maxHead and maxBody bound what is read of a response, in bytes. After a
	// longer one the connection is not used again.
	maxHead = 64 << 10
	maxBody = 4 << 10

	agent = "proxima-probe"
)

// HTTP measures an HTTP request on an open connection, until the head of the
// response: the network's round trip and the server's time. With an empty path the
// request is OPTIONS *, which Go's server answers without a handler. With a path,
// which may have a query, it is HEAD; the path's handler should be trivial. Every
// status below 500 is a success, also 404. Redirects are not followed, and proxies
// not used.
//
// With a nil secure it is cleartext HTTP/1.1, else TLS, with HTTP/2 if the server
// supports it. A nil dial is that of [net.Dialer].
func HTTP(dial Dial, address, path string, secure *tls.Config) *Session {
	versions := new(http.Protocols)
	versions.SetHTTP1(true)
	versions.SetHTTP2(secure != nil)
	t := &http.Transport{
		DialContext: dial, TLSClientConfig: secure.Clone(), Protocols: versions,
		DisableCompression: true, MaxResponseHeaderBytes: maxHead,
	}
	scheme := "http"
	if secure != nil {
		scheme = "https"
	}
	return newSession(address, func(ctx context.Context) (circuit, error) {
		u, err := url.Parse(scheme + "://" + address + path)
		method := http.MethodHead
		if path == "" {
			method, u = http.MethodOptions, &url.URL{Scheme: scheme, Host: address, Path: "*"}
		} else if err != nil || path[0] != '/' {
			return nil, fmt.Errorf("%w: path %.100q, want one that begins with / and can be in a URL", ErrNotProbed, path)
		}
		conn, err := t.NewClientConn(ctx, scheme, address)
		if err != nil {
			return nil, err
		}
		return &exchange{conn, &http.Request{Method: method, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {agent}}}}, nil
	})
}

// exchange is a connection that repeats one request.
type exchange struct {
	*http.ClientConn
	request *http.Request
}

func (e *exchange) trip(ctx context.Context) (time.Duration, error) {
	req := e.request.WithContext(ctx)
	start := time.Now()
	resp, err := e.RoundTrip(req)
	rtt := time.Since(start)
	if err != nil {
		return 0, err
	}
	if resp.ContentLength >= 0 && resp.ContentLength <= maxBody {
		_, _ = io.Copy(io.Discard, resp.Body) // otherwise the connection cannot be used again
	}
	_ = resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return 0, badAnswer(fmt.Sprint("status ", resp.StatusCode))
	}
	return rtt, nil
}
