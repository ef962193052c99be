package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
)

// Attributes of OpenTelemetry's semantic conventions.
const (
	clientAddress  = attribute.Key("client.address")
	errorType      = attribute.Key("error.type")
	httpMethod     = attribute.Key("http.request.method")
	originalMethod = attribute.Key("http.request.method_original")
	resendCount    = attribute.Key("http.request.resend_count")
	httpStatus     = attribute.Key("http.response.status_code")
	httpRoute      = attribute.Key("http.route")
	serverAddress  = attribute.Key("server.address")
	serverPort     = attribute.Key("server.port")
	urlFull        = attribute.Key("url.full")
	urlPath        = attribute.Key("url.path")
	urlScheme      = attribute.Key("url.scheme")
)

// Attributes that those have no name for.
const (
	serviceKey  = attribute.Key("proxima.service")
	instanceKey = attribute.Key("proxima.instance")
	circleKey   = attribute.Key("proxima.circle")
)

// other is the method of requests that HTTP's own standards do not name.
const other = "_OTHER"

func knownMethod(method string) string {
	switch method {
	case "":
		return http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY":
		return method
	default:
		return other
	}
}

// spanName keeps the number of names small, whatever methods are sent.
func spanName(method string) string {
	if method == other {
		return "HTTP"
	}
	return method
}

func methodAttributes(method, original string) []attribute.KeyValue {
	attrs := make([]attribute.KeyValue, 0, 8)
	attrs = append(attrs, httpMethod.String(method))
	if method == other {
		attrs = append(attrs, originalMethod.String(original))
	}
	return attrs
}

func clientAttributes(req *http.Request, method string) []attribute.KeyValue {
	attrs := methodAttributes(method, req.Method)
	u := req.URL
	if u == nil {
		return attrs
	}
	attrs = append(attrs, serverAddress.String(u.Hostname()))
	if port, err := strconv.Atoi(u.Port()); err == nil {
		attrs = append(attrs, serverPort.Int(port))
	}
	// Neither credentials nor the query, which may hold some.
	public := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return append(attrs, urlFull.String(public.String()))
}

func serverAttributes(r *http.Request, method string) []attribute.KeyValue {
	attrs := methodAttributes(method, r.Method)
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	attrs = append(attrs, urlScheme.String(scheme), urlPath.String(r.URL.Path))
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if host != "" {
		attrs = append(attrs, serverAddress.String(host))
	}
	if n, err := strconv.Atoi(port); err == nil {
		attrs = append(attrs, serverPort.Int(n))
	}
	if client, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		attrs = append(attrs, clientAddress.String(client))
	}
	return attrs
}

func errorAttribute(err error) attribute.KeyValue {
	switch {
	case errors.Is(err, context.Canceled):
		return errorType.String("canceled")
	case errors.Is(err, context.DeadlineExceeded):
		return errorType.String("timeout")
	default:
		return errorType.String(fmt.Sprintf("%T", err))
	}
}
