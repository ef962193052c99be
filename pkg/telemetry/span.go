package telemetry

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Span is a span around a call that is passed on, made by [Start].
type Span struct{ span trace.Span }

// Start makes a span for a call to a service, for programs that receive or pass on calls
// by other means than [Handler] and [Transport]. Its kind is server if the call came from
// another process: ctx has no span, or the remote one that [Extract] put there. So in a
// NATS responder
//
//	ctx, span := telemetry.Start(telemetry.Extract(ctx, msg.Header), "price", "price")
//
// is a server's span with the caller's span as its parent. If ctx has a span of this
// process, the kind is internal. The span must be ended with [Span.End].
func Start(ctx context.Context, name, service string) (context.Context, Span) {
	kind := trace.SpanKindServer
	if parent := trace.SpanContextFromContext(ctx); parent.IsValid() && !parent.IsRemote() {
		kind = trace.SpanKindInternal
	}
	ctx, span := tracer().Start(ctx, name, trace.WithSpanKind(kind))
	if span.IsRecording() {
		span.SetAttributes(serviceKey.String(service))
	}
	return ctx, Span{span}
}

// Picked sets the instance that the call went to, by its ID, and its circle. The last
// call counts.
func (s Span) Picked(instance, circle string) {
	if s.span.IsRecording() {
		s.span.SetAttributes(instanceKey.String(instance), circleKey.String(circle))
	}
}

// End ends the span, as a failure when err is not nil.
func (s Span) End(err error) { endWith(s.span, err) }

func endWith(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(errorAttribute(err))
	}
	span.End()
}

// endWithBody ends the span when the response's body ends.
func endWithBody(span trace.Span, resp *http.Response) {
	if resp.Body == nil || resp.Body == http.NoBody {
		span.End()
		return
	}
	b := &body{ReadCloser: resp.Body, span: span}
	resp.Body = b
	if w, ok := b.ReadCloser.(io.Writer); ok {
		resp.Body = &upgradedBody{b, w}
	}
}

type body struct {
	io.ReadCloser
	span  trace.Span
	ended atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.end(nil)
	} else if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *body) Close() error {
	b.end(nil) // first, because Close makes a Read of another goroutine fail
	return b.ReadCloser.Close()
}

func (b *body) end(err error) {
	if b.ended.CompareAndSwap(false, true) {
		endWith(b.span, err)
	}
}

// upgradedBody is the body of an answer 101, the connection itself.
type upgradedBody struct {
	*body
	io.Writer
}

func (b *upgradedBody) CloseWrite() error {
	if c, ok := b.Writer.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}
