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
	to       destination
	url      url.URL // as the transport reads it: the host is the service
	patience *patience
	code     int // of the answer
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

type fromKey struct{}

// withFrom says where the caller of a request is.
func withFrom(ctx context.Context, from *topology.Location) context.Context {
	if from == nil {
		return ctx
	}
	return context.WithValue(ctx, fromKey{}, from)
}

// ask tells the selector where the caller is.
func ask(req *http.Request, r *selector.Request) {
	r.From, _ = req.Context().Value(fromKey{}).(*topology.Location)
}

// proxy passes requests on to instances, and their answers back.
type proxy struct {
	id       string        // of the router, for Via
	timeout  time.Duration // for the head of an answer
	lookup   *lookup
	requests requestCounts
	reverse  *httputil.ReverseProxy
}

func newProxy(id string, timeout time.Duration, l *lookup, counts requestCounts, t http.RoundTripper, log *slog.Logger) *proxy {
	p := &proxy{id: id, timeout: timeout, lookup: l, requests: counts}
	p.reverse = &httputil.ReverseProxy{
		Transport:      t,
		Rewrite:        p.rewrite,
		ModifyResponse: p.answered,
		ErrorHandler:   p.failed,
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
	c.patience = withPatience(req.Context(), p.timeout)
	defer c.patience.end()
	req = req.WithContext(withFrom(context.WithValue(c.patience, passageKey{}, c), from))
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &upload{req.Body, c.patience}
	}
	w.Header()["Content-Type"] = nil // it is not for us to guess
	p.reverse.ServeHTTP(&upgradable{w, c.patience}, req)
}

// refuse answers for an instance. That there is none is 503: what is not found
// is for instances to say.
func (c *passage) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, selector.ErrUnknownService) {
		err = fmt.Errorf("%w: service %q is not listed", selector.ErrNoInstance, c.to.service)
	}
	c.code = writeError(w, err)
}

// prepare decides where the request goes, if it may.
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

// upload keeps the patience of a call awake: as long as the caller sends its
// request, the instance cannot answer.
type upload struct {
	io.ReadCloser
	patience *patience
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.ReadCloser.Read(b)
	u.patience.extend()
	return n, err
}

// upgradable closes a connection that is handed over, as for a WebSocket, when
// its request's context ends: the proxy itself then only closes the instance's
// side, and would wait for the caller to close the other.
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
		context.AfterFunc(u.ctx, func() { _ = conn.Close() }) // perhaps it is closed already
	}
	return conn, rw, err
}

// rewrite makes the request that the instance gets. Hop-by-hop headers and
// what the caller said in Forwarded headers are gone already.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	c := passageOf(pr.In.Context())
	out := pr.Out
	query := out.URL.RawQuery // without what parsers understand differently
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
		// Other protocols, h2c for one, would carry further requests past us.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
}

// answered is called with the head of the answer.
func (p *proxy) answered(resp *http.Response) error {
	c := passageOf(resp.Request.Context())
	c.patience.begun()
	c.code = resp.StatusCode
	for name := range resp.Header {
		if ours(name) {
			delete(resp.Header, name)
		}
	}
	if in := proximahttp.Instance(resp); in != nil {
		resp.Header.Set(headerInstance, in.ID)
	}
	return nil
}

// failed is called when there is no answer.
func (p *proxy) failed(w http.ResponseWriter, req *http.Request, err error) {
	c := passageOf(req.Context())
	c.refuse(w, called(c.patience, err))
}

// buffers are what bodies are copied with.
type buffers struct{ pool sync.Pool }

// Get is [httputil.BufferPool]'s.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

// Put is [httputil.BufferPool]'s.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
