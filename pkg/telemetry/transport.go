package telemetry

import (
	"context"
	"net/http"
	"strconv"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/proxima-discovery/proxima/pkg/proximahttp"
)

// Transport returns a RoundTripper that makes a client span for every request
// it passes to base, and sends the trace context along. As the Base of
// [proximahttp.Options] it makes a span per attempt, which names the instance
// that was tried. The span ends with the response's body. A nil base is
// [http.DefaultTransport].
func Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{base, tracer()}
}

type transport struct {
	base   http.RoundTripper
	tracer trace.Tracer
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	parent := req.Context()
	if !trace.SpanContextFromContext(parent).IsValid() {
		// A request passed on with the headers it came with.
		parent = w3c{}.extract(parent, propagation.HeaderCarrier(req.Header))
	}
	method := knownMethod(req.Method)
	ctx, span := t.tracer.Start(parent, spanName(method), trace.WithSpanKind(trace.SpanKindClient))
	header := copied{HeaderCarrier: propagation.HeaderCarrier(req.Header)}
	w3c{}.inject(ctx, &header)
	out := req
	if header.done || span.IsRecording() {
		out = req.WithContext(ctx)
		out.Header = http.Header(header.HeaderCarrier)
	}
	if !span.IsRecording() {
		span.End()
		return t.base.RoundTrip(out)
	}

	span.SetAttributes(clientAttributes(req, method)...)
	setAttempt(ctx, span)
	resp, err := t.base.RoundTrip(out)
	if err != nil {
		endWith(span, err)
		return resp, err
	}
	setStatus(span, resp.StatusCode, http.StatusBadRequest)
	if resp.Request != nil && resp.Request != out {
		setAttempt(resp.Request.Context(), span) // base is a proximahttp.Transport
	}
	endWithBody(span, resp)
	return resp, nil
}

// CloseIdleConnections is called by the method of that name of [http.Client].
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// setAttempt names the instance that proximahttp picked.
func setAttempt(ctx context.Context, span trace.Span) {
	a, ok := proximahttp.AttemptFrom(ctx)
	if !ok {
		return
	}
	span.SetAttributes(serviceKey.String(a.Service), instanceKey.String(a.ID), circleKey.String(a.Circle))
	if a.Number > 1 {
		span.SetAttributes(resendCount.Int(a.Number - 1))
	}
}

// setStatus marks the span as failed for statuses from bad on.
func setStatus(span trace.Span, status, bad int) {
	span.SetAttributes(httpStatus.Int(status))
	if status >= bad {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(errorType.String(strconv.Itoa(status)))
	}
}
