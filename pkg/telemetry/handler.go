package telemetry

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Handler returns a handler that reads the trace context of each request and
// makes a server span around next. The span is named after the method and,
// when next is an [http.ServeMux], the pattern that matched.
func Handler(next http.Handler) http.Handler {
	return &handler{next, tracer()}
}

type handler struct {
	next   http.Handler
	tracer trace.Tracer
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := knownMethod(r.Method)
	parent := w3c{}.extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := h.tracer.Start(parent, spanName(method), trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	r = r.WithContext(ctx)
	if !span.IsRecording() {
		h.next.ServeHTTP(w, r)
		return
	}

	span.SetAttributes(serverAttributes(r, method)...)
	rec := &recorder{ResponseWriter: w}
	panicked := true
	defer func() { finish(span, r, method, rec.status, panicked) }()
	h.next.ServeHTTP(rec.wrap(), r)
	panicked = false
}

func finish(span trace.Span, r *http.Request, method string, status int, panicked bool) {
	if _, route, _ := strings.Cut(r.Pattern, "/"); r.Pattern != "" {
		// A pattern is "[METHOD ][HOST]/[PATH]".
		span.SetName(spanName(method) + " /" + route)
		span.SetAttributes(httpRoute.String("/" + route))
	}
	if panicked {
		span.SetStatus(codes.Error, "the handler panicked")
		span.SetAttributes(errorType.String("panic"))
		return
	}
	if status == 0 {
		status = http.StatusOK // what net/http sends for a handler that wrote nothing
	}
	setStatus(span, status, http.StatusInternalServerError)
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

// wrap keeps what else the ResponseWriter can do and handlers look for.
func (rec *recorder) wrap() http.ResponseWriter {
	if _, ok := rec.ResponseWriter.(http.Hijacker); ok {
		return hijackable{rec}
	}
	return rec
}

func (rec *recorder) WriteHeader(status int) {
	// 1xx are sent before the answer, except 101, which is it.
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(p []byte) (int, error) {
	rec.wrote()
	return rec.ResponseWriter.Write(p)
}

// ReadFrom keeps io.Copy of a file to a connection as cheap as it was.
func (rec *recorder) ReadFrom(src io.Reader) (int64, error) {
	rec.wrote()
	return io.Copy(rec.ResponseWriter, src)
}

func (rec *recorder) Flush() {
	rec.wrote()
	_ = http.NewResponseController(rec.ResponseWriter).Flush() // http.Flusher reports no errors
}

// Unwrap is for [http.ResponseController].
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *recorder) wrote() {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
}

type hijackable struct{ *recorder }

// Hijack records 101: a handler that takes over the connection writes the answer itself.
func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.ResponseWriter.(http.Hijacker).Hijack()
	if err == nil && h.status == 0 {
		h.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}
