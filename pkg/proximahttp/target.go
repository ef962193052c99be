package proximahttp

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Domain may follow the name of a service: http://user.proxima/.
const Domain = "proxima"

// CutDomain cuts the [Domain] from a host, whatever its case, and returns the service that
// is left: lower-case if it has no dot, as then it has one spelling. Found is false, and the
// service is the host, if the host has no such domain.
func CutDomain(host string) (service string, found bool) {
	service = host
	if at := len(host) - len(Domain) - 1; at > 0 && host[at] == '.' && strings.EqualFold(host[at+1:], Domain) {
		service, found = host[:at], true
	}
	if !strings.Contains(service, ".") {
		service = strings.ToLower(service)
	}
	return service, found
}

// target returns the service and protocol that a URL names. Unless dotted is set, a name
// with dots needs the domain, as it may be any host.
func target(u *url.URL, dotted bool) (service, protocol string, err error) {
	if u == nil {
		return "", "", errors.New("proximahttp: the request has no URL")
	}
	switch u.Scheme {
	case "http":
		protocol = events.HTTP
	case "https":
		protocol = events.HTTPS
	default:
		return "", "", fmt.Errorf("proximahttp: scheme %q, want http or https", u.Scheme)
	}
	service, found := CutDomain(u.Host)
	if !found && !dotted && strings.Contains(service, ".") || events.ValidateService(service) != nil {
		return "", "", fmt.Errorf("proximahttp: %q is not a service, want %s://service/ or %s://service.%s/ without a port",
			u.Host, u.Scheme, u.Scheme, Domain)
	}
	return service, protocol, nil
}

// Idempotent reports whether HTTP allows a request of that method to be sent twice
// (RFC 9110, 9.2.2). An empty method is GET.
func Idempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// idempotent reports whether a request may be sent twice.
func idempotent(req *http.Request) bool {
	// As net/http: an empty list of values stands for a key that is not sent.
	_, key := req.Header["Idempotency-Key"]
	_, xkey := req.Header["X-Idempotency-Key"]
	return key || xkey || Idempotent(req.Method)
}

// malformed reports whether net/http refuses to send req at all.
func malformed(req *http.Request) bool {
	if req.Header == nil || req.Method != "" && !httpguts.ValidHeaderFieldName(req.Method) { // a method is a token too
		return true
	}
	for _, h := range []http.Header{req.Header, req.Trailer} {
		for name, values := range h {
			if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
				return true
			}
		}
	}
	return false
}
