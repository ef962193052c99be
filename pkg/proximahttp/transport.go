package proximahttp

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Options configure a [Transport]. The zero value is ready to use.
type Options struct {
	// Base sends the requests, with URLs that name the instance's address.
	// Default [NewBase]. Certificates of https endpoints must name the host of
	// the endpoint's address; where they name something else, take a NewBase
	// with a TLSClientConfig of your own.
	Base http.RoundTripper
	// MaxBody is how many bytes of a request's body are kept for another
	// attempt, for bodies without GetBody. Default 64 KiB.
	MaxBody int64
	// AttemptTimeout is how long an instance may take until the head of its response,
	// if another instance may get the request too and that long is left for it. Default:
	// until it seems to hang, see [selector.Pick.AfterSlow]. Negative: no limit but that
	// of the request.
	AttemptTimeout time.Duration
	// Hedge sends a request to a second instance too when the first one has not answered in
	// the time in which 95 % of the requests to the service are, if it may be sent twice and
	// has no body or a GetBody. The first response that is no failure counts, and the other
	// request is canceled. The retry budget bounds it. Default: off.
	Hedge bool
	// Fallthrough sends requests whose URL does not name a service to Base,
	// unchanged. A service with dots in its name then needs the domain:
	// http://payments.user.proxima/. Default: they are refused with an error.
	Fallthrough bool
	// Classify says what a response means for the instance, and whether the request is
	// sent to another one if that is safe: after a [selector.Fault] and
	// [selector.Backpressure]. It must not read the body. Default [ClassifyResponse].
	Classify func(*http.Response) selector.Outcome
	// Ask may change what is requested of the selector, for example the key of a
	// consistent hash, the place to be near to, whether the request may be sent
	// twice, or as Protocol an endpoint with a name: "http.admin" or "https.admin" for
	// URLs of that scheme. It must not change req.
	Ask func(req *http.Request, r *selector.Request)
}

// Picker calls instances for a request. *[selector.Selector] is one.
type Picker interface {
	DoFor(ctx context.Context, r selector.Request, call func(context.Context, *selector.Pick) error) error
}

// Transport is an [http.RoundTripper] for URLs that name services. It is safe
// for concurrent use.
type Transport struct {
	selector Picker
	base     http.RoundTripper
	options  Options
}

// New returns a Transport that picks with sel, usually a *[selector.Selector].
func New(sel Picker, o Options) *Transport {
	if o.Base == nil {
		o.Base = NewBase()
	}
	if o.Classify == nil {
		o.Classify = ClassifyResponse
	}
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 10
	}
	return &Transport{selector: sel, base: o.Base, options: o}
}

// NewBase returns the default of [Options.Base], which may be changed before it is used:
// an [http.Transport] that ignores proxies of the environment and gives up dialling after
// 1.5 s, so that a dead machine costs no more than that. It tries all addresses of a name,
// IPv6 and IPv4 in turns (RFC 8305), and dials unix sockets of instances. It keeps all connections that were used in the last
// 55 s, see [Keep].
func NewBase() *http.Transport {
	base := &http.Transport{ForceAttemptHTTP2: true, ExpectContinueTimeout: time.Second}
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		base = t.Clone()
	}
	base.Proxy = nil
	base.DialContext = Keep(sockets(newDial()))
	base.TLSHandshakeTimeout = 3 * time.Second
	base.MaxIdleConns = 0 // unlimited: there may be many instances
	base.MaxIdleConnsPerHost = math.MaxInt32
	base.IdleConnTimeout = idleTimeout
	return base
}

// RoundTrip sends req to an instance of the service that its URL names, and to another
// one if that fails and it is safe. The Request of the response is a copy of req whose
// context names the instance that answered, see [Instance].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	service, protocol, err := target(req.URL, !t.options.Fallthrough)
	if err != nil {
		if t.options.Fallthrough && req.URL != nil {
			return t.base.RoundTrip(req)
		}
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	return newCall(t, req, service, protocol).run()
}

// CloseIdleConnections is called by the method of that name of [http.Client].
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Attempt is one attempt of a request.
type Attempt struct {
	*events.Instance
	// Circle is the instance's, seen from the caller.
	Circle string
	// Number is 1 for the first attempt of a request.
	Number int
}

type attemptKey struct{}

// AttemptFrom returns the attempt that a context belongs to: that of a request
// that reaches [Options.Base], or of a response's Request.
func AttemptFrom(ctx context.Context) (Attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(*Attempt)
	if !ok {
		return Attempt{}, false
	}
	return *a, true
}

// Instance returns the instance that answered, nil for a response that did not come
// through a [Transport].
func Instance(resp *http.Response) *events.Instance {
	if resp == nil || resp.Request == nil {
		return nil
	}
	a, _ := AttemptFrom(resp.Request.Context())
	return a.Instance
}
