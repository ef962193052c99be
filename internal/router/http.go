package router

import (
	"context"
	_ "embed" // for the description of the API
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

// ServeHTTP answers at the HTTP doors.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.handler.ServeHTTP(w, req) }

// newHandler sends requests of the proxy past the mux, which would redirect
// paths such as //a or /a/../b: these are for the instance to interpret.
func (r *Router) newHandler() http.Handler {
	mux := r.newMux()
	return daemon.LastAnswers(r.stopping, telemetry.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.requests.enter(); err != nil {
			writeError(w, err)
			return
		}
		defer r.requests.leave()
		if req.ProtoMajor == 1 && len(req.TransferEncoding) > 0 {
			// The request may have had a Content-Length too, which net/http
			// removes. A proxy in front of the router may have used that
			// one: what follows must not be read as another request.
			w.Header().Set("Connection", "close")
		}
		t, found := target(req)
		if found || strings.HasPrefix(req.URL.Path, "/v1/") {
			r.awaitFirstView(req.Context())
		}
		switch {
		case found:
			req.Pattern = t.pattern
			r.proxy.serve(w, req, t)
		default:
			mux.ServeHTTP(w, req)
		}
	})))
}

// route is a path of the router itself, and the method that it has.
type route struct {
	method, path string
	http.Handler
}

func (r *Router) routes() []route {
	registration := registration{r.registrar, r.loopbackFrom}
	all := []route{
		{"GET", "/v1/services", r.door("services", r.lookup.services)},
		{"GET", "/v1/services/{service}", r.door("service", r.lookup.instances)},
		{"GET", "/v1/explain/{service}", r.door("explain", r.lookup.explain)},
		{"GET", "/v1/events", &changeStreams{
			directory: r.directory, ready: r.complete, closing: r.closing, open: make(chan struct{}, maxStreams),
		}},
		{"POST", "/v1/register", r.door("register", registration.register)},
		{"PUT", "/v1/heartbeat", r.door("heartbeat", registration.heartbeat)},
		{"DELETE", "/v1/deregister", r.door("deregister", registration.deregister)},
		{"DELETE", "/v1/services/{service}/{id}", r.door("deregister", registration.deregister)},
		{"GET", "/v1/openapi.json", http.HandlerFunc(serveOpenAPI)},
		{"GET", "/healthz", http.HandlerFunc(healthz)},
		{"GET", "/readyz", http.HandlerFunc(r.readyz)},
	}
	if r.opts.MetricsHandler != nil {
		all = append(all, route{"GET", "/metrics", r.opts.MetricsHandler})
	}
	return all
}

func (r *Router) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	for _, route := range r.routes() {
		mux.Handle(route.method+" "+route.path, route)
		mux.HandleFunc(route.path, func(w http.ResponseWriter, _ *http.Request) {
			allow := route.method
			if allow == http.MethodGet {
				allow += ", " + http.MethodHead
			}
			w.Header().Set("Allow", allow)
			writeError(w, errMethod)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { writeError(w, errNoPath) })
	return mux
}

//go:embed openapi.json
var openAPI []byte

// serveOpenAPI describes the paths under /v1.
func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // fails only if the caller went away
}

// reply is the answer of a JSON door.
type reply struct {
	service string
	status  int // default 200
	body    any
}

// door makes a handler of a function that answers JSON. A browser that acts for
// a page of another site may only read.
func (r *Router) door(name string, answer func(*http.Request) (reply, error)) http.Handler {
	var origin http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(req.Context(), r.opts.Timeout)
		defer cancel()
		// A body that does not arrive must not block the handler.
		_ = http.NewResponseController(w).SetReadDeadline(began.Add(r.opts.Timeout + time.Second)) // fails only with a recorder of a test
		req = req.WithContext(ctx)
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		if err := origin.Check(req); err != nil {
			err = &foreignError{err}
			r.counts.add(name, "", strconv.Itoa(writeError(w, err)), began)
			return
		}
		a, err := answer(req)
		status := a.status
		switch {
		case err != nil:
			status = writeError(w, err)
		default:
			if status == 0 {
				status = http.StatusOK
			}
			writeJSON(w, status, a.body)
		}
		r.counts.add(name, a.service, strconv.Itoa(status), began)
	})
}

func readAll(req *http.Request) ([]byte, error) {
	data, err := io.ReadAll(req.Body)
	switch {
	case err == nil:
		return data, nil
	case is[*http.MaxBytesError](err):
		return nil, err
	}
	return nil, &badRequest{"body", "", "it did not arrive: " + err.Error()}
}

// writeError answers err and returns its status for the metrics.
func writeError(w http.ResponseWriter, err error) int {
	status := codeOf(err)
	sent := status
	if status == statusCanceled { // seen only if another context than the caller's ended
		sent = http.StatusServiceUnavailable
	}
	if seconds := retryAfter(sent, err); seconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	writeJSON(w, sent, problem{"about:blank", http.StatusText(sent), sent, err.Error(), err.Error()})
	return status
}

// problem is an error as RFC 9457 writes it, and as this API wrote it before that.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Error  string `json:"error"`
}

// retryAfter is after how many seconds a client may try again, 0 if that does not help.
func retryAfter(status int, err error) int {
	if c, ok := errors.AsType[*registrar.ConflictError](err); ok {
		return int(math.Ceil(c.Within.Seconds()))
	}
	if status == http.StatusServiceUnavailable {
		return 1
	}
	return 0
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // no answer can cause it
		status, data = http.StatusInternalServerError, []byte(`{"error":"router: the answer cannot be written as JSON"}`)
	}
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // fails only if the caller went away
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		OK bool `json:"ok"`
	}{true})
}

// Ready returns why the router is not ready, nil if it is.
func (r *Router) Ready() error {
	select {
	case <-r.stopping:
		return errStopping
	default:
	}
	return r.complete()
}

// firstView is how long requests wait for the registry to be read, from the start of the
// router: a socket that systemd has kept may have some. Later ones are refused at once.
const firstView = 2 * time.Second

// awaitFirstView waits until the registry has been read, it should have been, or ctx ends.
func (r *Router) awaitFirstView(ctx context.Context) {
	left := time.Until(r.began.Add(firstView))
	if left <= 0 || r.directory.IsComplete() {
		return
	}
	over := time.NewTimer(left)
	defer over.Stop()
	select {
	case <-r.directory.Complete():
	case <-over.C:
	case <-ctx.Done():
	}
}

// complete returns an error while the registry has not been read.
func (r *Router) complete() error {
	if !r.directory.IsComplete() {
		if h := r.health.now(); h.Err != nil {
			return fmt.Errorf("%w: %w", directory.ErrIncomplete, h.Err)
		}
		return directory.ErrIncomplete
	}
	return nil
}

// target returns where a request of the proxy goes. It is one by its path,
// /proxy/{service}/, or by its host, {service}.proxima.
func target(req *http.Request) (destination, bool) {
	path := req.URL.EscapedPath()
	host := req.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if service, ok := strings.CutSuffix(host, "."+proximahttp.Domain); ok {
		return destination{service: service, path: path, pattern: "{service}." + proximahttp.Domain + "/{path...}"}, true
	}
	if rest, ok := strings.CutPrefix(path, proxyPrefix); ok {
		service, path, _ := strings.Cut(rest, "/")
		return destination{service, "/" + path, proxyPrefix + service, proxyPrefix + "{service}/{path...}"}, true
	}
	return destination{}, false
}

const proxyPrefix = "/proxy/"

// destination is where a proxied request goes.
type destination struct {
	service string
	path    string // escaped, as the instance gets it
	prefix  string // that was cut off before the path
	pattern string // for traces
}
