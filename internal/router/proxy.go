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

// proxy passes a request on to the nearest instance, and its answer back.
func (r *Router) proxy(w http.ResponseWriter, req *http.Request, to destination) {
	began := time.Now()
	p := &passage{to: to}
	defer func() { r.count("proxy", to.service, strconv.Itoa(p.code), began) }() // also when the answer is cut off
	from, err := parseFrom(headerFrom, req.Header.Get(headerFrom))
	if err == nil {
		err = r.prepare(req, p)
	}
	if err != nil {
		p.refuse(w, err)
		return
	}
	p.patience = withPatience(req.Context(), r.opts.Timeout)
	defer p.patience.end()
	req = req.WithContext(withFrom(context.WithValue(p.patience, passageKey{}, p), from))
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &upload{req.Body, p.patience}
	}
	w.Header()["Content-Type"] = nil // it is not for us to guess
	r.reverse.ServeHTTP(&upgradable{w, p.patience}, req)
}

// refuse answers for an instance. That there is none is 503: what is not found
// is for instances to say.
func (p *passage) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, selector.ErrUnknownService) {
		err = fmt.Errorf("%w: service %q is not listed", selector.ErrNoInstance, p.to.service)
	}
	p.code = writeError(w, err)
}

// prepare decides where the request goes, if it may.
func (r *Router) prepare(req *http.Request, p *passage) error {
	if req.Method == http.MethodConnect {
		return errMethod
	}
	if strings.Contains(strings.Join(req.Header["Via"], ","), r.id) {
		return errLoop
	}
	have, err := r.protocols(p.to.service, events.HTTP, events.HTTPS)
	if err != nil {
		return err
	}
	path, err := url.PathUnescape(p.to.path)
	if err != nil {
		return &badRequest{"path", p.to.path, "want valid escapes"}
	}
	p.url = url.URL{Scheme: events.HTTP, Host: p.to.service, Path: path, RawPath: p.to.path}
	if len(have) > 0 {
		p.url.Scheme = have[0]
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

func (r *Router) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:      r.transport,
		Rewrite:        r.rewrite,
		ModifyResponse: r.answered,
		ErrorHandler:   r.failed,
		ErrorLog:       slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
		BufferPool:     &buffers{},
	}
}

// rewrite makes the request that the instance gets. Hop-by-hop headers and
// what the caller said in Forwarded headers are gone already.
func (r *Router) rewrite(pr *httputil.ProxyRequest) {
	p := passageOf(pr.In.Context())
	out := pr.Out
	query := out.URL.RawQuery // without what parsers understand differently
	out.URL = &p.url
	out.URL.RawQuery = query
	out.Host = "" // the service
	strip(out.Header)
	pr.SetXForwarded()
	if p.to.prefix != "" {
		out.Header.Set("X-Forwarded-Prefix", p.to.prefix)
	}
	out.Header.Add("Via", fmt.Sprintf("%d.%d %s", pr.In.ProtoMajor, pr.In.ProtoMinor, r.id))
	if !strings.EqualFold(out.Header.Get("Upgrade"), "websocket") {
		// Other protocols, h2c for one, would carry further requests past us.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
}

// answered is called with the head of the answer.
func (r *Router) answered(resp *http.Response) error {
	p := passageOf(resp.Request.Context())
	p.patience.begun()
	p.code = resp.StatusCode
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
func (r *Router) failed(w http.ResponseWriter, req *http.Request, err error) {
	p := passageOf(req.Context())
	p.refuse(w, called(p.patience, err))
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
