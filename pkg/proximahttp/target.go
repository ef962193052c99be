package proximahttp

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Domain may follow the name of a service: http://user.proxima/.
const Domain = "proxima"

// target is the service and protocol that a URL names.
func target(u *url.URL) (service, protocol string, err error) {
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
	service = strings.TrimSuffix(strings.ToLower(u.Host), "."+Domain)
	if events.ValidateService(service) != nil {
		return "", "", fmt.Errorf("proximahttp: %q is not a service, want %s://service/ or %s://service.%s/ without a port",
			u.Host, u.Scheme, u.Scheme, Domain)
	}
	return service, protocol, nil
}

// idempotent says whether a request may be sent twice.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	// As net/http: an empty list of values stands for a key that is not sent.
	_, key := req.Header["Idempotency-Key"]
	_, xkey := req.Header["X-Idempotency-Key"]
	return key || xkey
}

// malformed says whether net/http refuses to send req to anybody.
func malformed(req *http.Request) bool {
	if req.Header == nil || req.Method != "" && !isToken(req.Method) {
		return true
	}
	for _, h := range []http.Header{req.Header, req.Trailer} {
		for name, values := range h {
			if !isToken(name) || slices.ContainsFunc(values, isNoValue) {
				return true
			}
		}
	}
	return false
}

// isToken is what RFC 9110 calls so: methods and the names of headers.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
				return false
			}
		}
	}
	return s != ""
}

func isNoValue(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
