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
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// passage is one proxied request. It travels in the request's context.
type passage struct {
	to       destination
	host     string  // by which the caller knows the router
	url      url.URL // for the transport: the host is the service
	key      string  // new one for the sticky cookie; empty: the caller has one
	endpoint string  // with a name, that the caller wants; empty: one without
	head     *headContext
	attempt  limit
	code     int  // of the answer
	secure   bool // the caller came by TLS
	answered bool // its answer has begun
}

type passageKey struct{}

func passageOf(ctx context.Context) *passage {
	p, _ := ctx.Value(passageKey{}).(*passage)
	return p
}

// caller is what a request says of its caller.
type caller struct {
	from     *topology.Location // nil: the router's own
	where    string             // the instances that it wants; empty: it does not say
	key      string             // that consistent_hash hashes
	given    string             // that it hashes if there is no other
	endpoint string             // with a name, that is called; empty: one without
	attempt  time.Duration      // of one attempt
}

type callerKey struct{}

// withCaller adds what is known of the caller.
func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// ask passes what is known of the caller to the selector.
func ask(req *http.Request, r *selector.Request) {
	c, _ := req.Context().Value(callerKey{}).(caller)
	r.From, r.Key, r.DefaultKey, r.Where, r.Protocol, r.AttemptTimeout = c.from, c.key, c.given, c.where, c.endpoint, c.attempt
	r.Timeout = -1 // the router ends calls
}

// proxy passes requests on to instances, and their answers back.
type proxy struct {
	id       string        // of the router, for Via
	timeout  time.Duration // of the head of an answer
	attempt  time.Duration // of one attempt; 0: until the instance seems to hang
	trust    forwarding.Trust
	keys     *keys
	lookup   *lookup
	requests requestCounts
	reverse  *httputil.ReverseProxy

	waiting, streams atomic.Int64 // calls without an answer, and those whose answer has begun
}

// start makes the reverse proxy.
func (p *proxy) start(t http.RoundTripper, log *slog.Logger) {
	p.reverse = &httputil.ReverseProxy{
		Transport:      t,
		Rewrite:        p.rewrite,
		ModifyResponse: p.onAnswer,
		ErrorHandler:   p.onError,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BufferPool:     &buffers{},
	}
}

// serve passes a request on to the nearest instance, and its answer back.
func (p *proxy) serve(w http.ResponseWriter, req *http.Request, to destination) {
	began := time.Now()
	c := &passage{to: to, host: req.Host, secure: req.TLS != nil}
	if p.trust.Includes(req.RemoteAddr) && strings.EqualFold(req.Header.Get("X-Forwarded-Proto"), "https") {
		c.secure = true
	}
	defer func() { p.requests.add("proxy", c.to.service, strconv.Itoa(c.code), began) }() // also when the answer is cut off
	var err error
	if to.hosted {
		to.service, err = p.lookup.hosted(to.service)
		c.to = to
	}
	var from *topology.Location
	if err == nil {
		from, err = parseFrom(headerFrom, req.Header.Get(headerFrom))
	}
	may := limit{}
	if err == nil {
		err = p.prepare(req, c)
	}
	if err == nil {
		may, err = p.limits(req, c)
	}
	if err != nil {
		c.refuse(w, err)
		return
	}
	p.waiting.Add(1)
	defer func() {
		if c.answered {
			p.streams.Add(-1)
		} else {
			p.waiting.Add(-1)
		}
	}()
	c.head = withHeadTimeout(req.Context(), may)
	defer c.head.end()
	asks := caller{from: from, where: req.Header.Get(headerWhere), endpoint: c.endpoint, attempt: c.attempt.Duration}
	if asks.key, asks.given = p.keys.of(req.Header); asks.key == "" && asks.given == "" && p.keys.sticky != "" {
		c.key = newKey()
		asks.given = c.key
	}
	req = req.WithContext(withCaller(context.WithValue(context.WithValue(c.head, passageKey{}, c), remainsKey{}, c.head), asks))
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &upload{req.Body, c.head, req.Trailer}
	}
	p.reverse.ServeHTTP(&answerWriter{ResponseWriter: w, passage: c}, req)
}

// refuse answers an error of the router. An unknown service is 503: only an
// instance may answer 404.
func (c *passage) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, selector.ErrUnknownService) {
		err = fmt.Errorf("%w: service %q is not listed", selector.ErrNoInstance, c.to.service)
	}
	if errors.Is(err, errMethod) {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE") // among others
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
	suffix, err := parseEndpoint(req.Header.Get(headerEndpoint))
	if err != nil {
		return err
	}
	have, err := p.lookup.endpoints(c.to.service, events.HTTP+suffix, events.HTTPS+suffix)
	if err != nil {
		return err
	}
	if suffix != "" { // the selector remembers every name that it is asked for
		if len(have) == 0 {
			return fmt.Errorf("%w of %s with an endpoint %q", selector.ErrNoInstance, c.to.service, suffix[1:])
		}
		c.endpoint = have[0]
	}
	path, err := url.PathUnescape(c.to.path)
	if err != nil {
		return &badRequest{"path", c.to.path, "want valid escapes"}
	}
	c.url = url.URL{
		Scheme: events.HTTP, Host: c.to.service, Path: path, RawPath: c.to.path,
		ForceQuery: req.URL.ForceQuery, RawQuery: req.URL.RawQuery, // as it came: parsers read some differently
	}
	if len(have) > 0 {
		c.url.Scheme, _ = events.CutEndpoint(have[0])
	}
	return nil
}

// limits is how long the call may take.
func (p *proxy) limits(req *http.Request, c *passage) (limit, error) {
	ctx, cancel := context.WithTimeout(req.Context(), p.timeout)
	defer cancel()
	of, err := p.lookup.selector.Limits(ctx, c.to.service)
	if err != nil {
		of = selector.Limits{} // the pick has the same error
	}
	c.attempt = attempts(p.attempt, of)
	return limitOf(p.timeout, of.Timeout, req.Header.Get(headerTimeout))
}

// upload is the body of a request. While the caller sends it, the instance
// cannot answer: each read restarts the time for the head.
type upload struct {
	io.ReadCloser
	head    *headContext
	trailer http.Header // has its values at the end of the body
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.ReadCloser.Read(b)
	u.head.extend()
	if err == io.EOF {
		stripTrailers(u.trailer, reservedForward)
	}
	return n, err
}

// download is the body of an answer.
type download struct {
	io.ReadCloser
	resp *http.Response // has its trailers at the end of the body
}

func (d *download) Read(b []byte) (int, error) {
	n, err := d.ReadCloser.Read(b)
	if err == io.EOF {
		stripTrailers(d.resp.Trailer, reservedHeader)
	}
	return n, err
}

// answerWriter is the caller's side of an answer.
type answerWriter struct {
	http.ResponseWriter
	passage    *passage
	connection []string // header of the answer, while others than the last are written
}

// Unwrap is for [http.ResponseController].
func (a *answerWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader writes the head of an answer. Of one that is not the last, such as 103 (Early
// Hints), the reverse proxy writes all headers, and removes them then, also those that were
// there before.
func (a *answerWriter) WriteHeader(code int) {
	h := a.Header()
	switch {
	case code < http.StatusOK && code != http.StatusSwitchingProtocols:
		if c := h["Connection"]; c != nil {
			a.connection = c
			delete(h, "Connection")
		}
		strip(h)
		to := a.passage.to
		(&forwarding.Site{Hosts: namesOf(to.service, nil), Outside: a.passage.host, Prefix: to.prefix}).Rewrite(h)
	default:
		if a.connection != nil {
			h["Connection"] = a.connection
		}
		if _, has := h["Content-Type"]; !has {
			h["Content-Type"] = nil // keeps net/http from guessing one
		}
	}
	a.ResponseWriter.WriteHeader(code)
}

// Hijack is what [http.ResponseController] calls. A connection that is taken over, as for a
// WebSocket, is closed when the context of its request ends: the reverse proxy closes the side
// of the instance only, and would wait for the caller to close the other.
func (a *answerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		context.AfterFunc(a.passage.head, func() { _ = conn.Close() }) // it may be closed already
	}
	return conn, rw, err
}

// rewrite makes the request that the instance gets. The reverse proxy has removed
// hop-by-hop headers.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	c := passageOf(pr.In.Context())
	out := pr.Out
	out.URL = &c.url
	out.Host = ""               // the service
	out.Trailer = pr.In.Trailer // filled in when the body has been read
	stripTrailers(out.Trailer, reservedForward)
	strip(out.Header)
	out.Header.Set(headerTimeout, left(c.head.remains()))
	forwarding.Tell(out.Header, pr.In, c.to.prefix, p.trust.Includes(pr.In.RemoteAddr))
	out.Header.Add("Via", fmt.Sprintf("%d.%d %s", pr.In.ProtoMajor, pr.In.ProtoMinor, p.id))
	if !strings.EqualFold(out.Header.Get("Upgrade"), "websocket") {
		// Another protocol, such as h2c, could carry requests past the router.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
		out.Header.Del("Http2-Settings")
	}
}

// onAnswer is called with the head of the answer.
func (p *proxy) onAnswer(resp *http.Response) error {
	c := passageOf(resp.Request.Context())
	if err := meaningful(resp, c.to.service); err != nil {
		return err
	}
	c.head.begin()
	if !c.answered {
		c.answered = true
		p.waiting.Add(-1)
		p.streams.Add(1)
	}
	c.code = resp.StatusCode
	for name := range resp.Header {
		if reservedHeader(name) {
			delete(resp.Header, name)
		}
	}
	stripTrailers(resp.Trailer, reservedHeader) // as announced
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &download{resp.Body, resp}
	}
	(&forwarding.Site{Hosts: namesOf(c.to.service, proximahttp.Instance(resp)), Outside: c.host, Prefix: c.to.prefix}).Rewrite(resp.Header)
	if c.key != "" {
		p.keys.stick(resp, c)
	}
	if in := proximahttp.Instance(resp); in != nil {
		resp.Header.Set(headerInstance, in.ID)
	}
	return nil
}

// meaningful returns an error for a status that no answer can have.
func meaningful(resp *http.Response, service string) error {
	if resp.StatusCode < 100 || resp.StatusCode > 999 {
		return fmt.Errorf("router: an instance of %s answers with the status %q", service, resp.Status)
	}
	return nil
}

// namesOf are the names by which an instance that answered may call itself. Nil: it is not
// known which one did.
func namesOf(service string, in *events.Instance) []string {
	names := []string{service, service + "." + proximahttp.Domain}
	if in != nil {
		for endpoint, address := range in.Endpoints {
			if protocol, _ := events.CutEndpoint(endpoint); protocol == events.HTTP || protocol == events.HTTPS {
				names = append(names, address)
			}
		}
	}
	return names
}

// onError is called if there is no answer.
func (p *proxy) onError(w http.ResponseWriter, req *http.Request, err error) {
	c := passageOf(req.Context())
	err = callFailed(c.head, c.head.limit, c.attempt, err)
	if late, ok := errors.AsType[*timeoutError](err); ok {
		p.requests.late(c.to.service, late)
	}
	c.refuse(w, err)
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
