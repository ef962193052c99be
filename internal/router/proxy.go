package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// passage is one proxied request. It travels in the request's context.
type passage struct {
	to   destination
	url  url.URL // for the transport: the host is the service
	head *headContext
	code int // of the answer
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

type fromKey struct{}

// withFrom adds the location of the caller; nil is the router's own.
func withFrom(ctx context.Context, from *topology.Location) context.Context {
	if from == nil {
		return ctx
	}
	return context.WithValue(ctx, fromKey{}, from)
}

// ask passes the location of the caller to the selector.
func ask(req *http.Request, r *selector.Request) {
	r.From, _ = req.Context().Value(fromKey{}).(*topology.Location)
}

// proxy passes requests on to instances, and their answers back.
type proxy struct {
	id       string        // of the router, for Via
	timeout  time.Duration // of the head of an answer
	lookup   *lookup
	requests requestCounts
	reverse  *httputil.ReverseProxy
}

func newProxy(id string, timeout time.Duration, l *lookup, counts requestCounts, t http.RoundTripper, log *slog.Logger) *proxy {
	p := &proxy{id: id, timeout: timeout, lookup: l, requests: counts}
	p.reverse = &httputil.ReverseProxy{
		Transport:      t,
		Rewrite:        p.rewrite,
		ModifyResponse: p.onAnswer,
		ErrorHandler:   p.onError,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BufferPool:     &buffers{},
	}
	return p
}

// serve passes a request on to the nearest instance, and its answer back.
func (p *proxy) serve(w http.ResponseWriter, req *http.Request, to destination) {
	began := time.Now()
	c := &passage{to: to}
	defer func() { p.requests.add("proxy", to.service, strconv.Itoa(c.code), began) }() // also when the answer is cut off
	from, err := parseFrom(headerFrom, req.Header.Get(headerFrom))
	if err == nil {
		err = p.prepare(req, c)
	}
	if err != nil {
		c.refuse(w, err)
		return
	}
	c.head = withHeadTimeout(req.Context(), p.timeout)
	defer c.head.end()
	req = req.WithContext(withFrom(context.WithValue(c.head, passageKey{}, c), from))
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &upload{req.Body, c.head}
	}
	w.Header()["Content-Type"] = nil // keeps net/http from guessing one
	p.reverse.ServeHTTP(&upgradable{w, c.head}, req)
}

// refuse answers an error of the router. An unknown service is 503: only an
// instance may answer 404.
func (c *passage) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, selector.ErrUnknownService) {
		err = fmt.Errorf("%w: service %q is not listed", selector.ErrNoInstance, c.to.service)
	}
	c.code = writeError(w, err)
}

// prepare sets the URL for the transport, or returns why the request may not be
// sent.
func (p *proxy) prepare(req *http.Request, c *passage) error {
	if req.Method == http.MethodConnect {
		return errMethod
	}
	if strings.Contains(strings.Join(req.Header["Via"], ","), p.id) {
		return errLoop
	}
	have, err := p.lookup.protocols(c.to.service, events.HTTP, events.HTTPS)
	if err != nil {
		return err
	}
	path, err := url.PathUnescape(c.to.path)
	if err != nil {
		return &badRequest{"path", c.to.path, "want valid escapes"}
	}
	c.url = url.URL{Scheme: events.HTTP, Host: c.to.service, Path: path, RawPath: c.to.path}
	if len(have) > 0 {
		c.url.Scheme = have[0]
	}
	return nil
}

// upload is the body of a request. While the caller sends it, the instance
// cannot answer: each read restarts the time for the head.
type upload struct {
	io.ReadCloser
	head *headContext
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.ReadCloser.Read(b)
	u.head.extend()
	return n, err
}

// upgradable closes a connection that was taken over, as for a WebSocket, when
// the context of its request ends: the reverse proxy closes the side of the
// instance only, and would wait for the caller to close the other.
type upgradable struct {
	http.ResponseWriter
	ctx context.Context
}

// Unwrap is for [http.ResponseController].
func (u *upgradable) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// Hijack is what [http.ResponseController] calls.
func (u *upgradable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err == nil {
		context.AfterFunc(u.ctx, func() { _ = conn.Close() }) // it may be closed already
	}
	return conn, rw, err
}

// rewrite makes the request that the instance gets. The reverse proxy has removed
// hop-by-hop headers, and the Forwarded headers of the caller.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	c := passageOf(pr.In.Context())
	out := pr.Out
	query := out.URL.RawQuery // without parameters that parsers read differently
	out.URL = &c.url
	out.URL.RawQuery = query
	out.Host = "" // the service
	strip(out.Header)
	pr.SetXForwarded()
	if c.to.prefix != "" {
		out.Header.Set("X-Forwarded-Prefix", c.to.prefix)
	}
	out.Header.Add("Via", fmt.Sprintf("%d.%d %s", pr.In.ProtoMajor, pr.In.ProtoMinor, p.id))
	if !strings.EqualFold(out.Header.Get("Upgrade"), "websocket") {
		// Another protocol, such as h2c, could carry requests past the router.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
}

// onAnswer is called with the head of the answer.
func (p *proxy) onAnswer(resp *http.Response) error {
	c := passageOf(resp.Request.Context())
	c.head.begin()
	c.code = resp.StatusCode
	for name := range resp.Header {
		if reservedHeader(name) {
			delete(resp.Header, name)
		}
	}
	if in := proximahttp.Instance(resp); in != nil {
		resp.Header.Set(headerInstance, in.ID)
	}
	return nil
}

// onError is called if there is no answer.
func (p *proxy) onError(w http.ResponseWriter, req *http.Request, err error) {
	c := passageOf(req.Context())
	c.refuse(w, callFailed(c.head, err))
}

// buffers are for copying bodies.
type buffers struct{ pool sync.Pool }

// Get implements [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

// Put implements [httputil.BufferPool].
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
