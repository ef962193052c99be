package forwarding

import (
	"net/http"
	"net/netip"
	"strings"
)

// Names reports whether a header, in canonical spelling, tells for which caller a request
// is: only a proxy may set it.
func Names(canonical string) bool {
	return canonical == "Forwarded" || canonical == "X-Real-Ip" || strings.HasPrefix(canonical, "X-Forwarded-")
}

// Tell sets the headers by which the instance learns for whom a request is: Forwarded
// (RFC 7239), X-Forwarded-For, -Host, -Proto and, if a prefix was cut off from the path,
// -Prefix. What the caller said of that is removed from out. A trusted peer is a proxy:
// then what it said is kept, and this hop is added to the lists.
func Tell(out http.Header, in *http.Request, prefix string, trusted bool) {
	for name := range out {
		if Names(http.CanonicalHeaderKey(name)) {
			delete(out, name)
		}
	}
	if trusted {
		for name, values := range in.Header {
			if Names(http.CanonicalHeaderKey(name)) {
				out[http.CanonicalHeaderKey(name)] = values
			}
		}
	}
	proto := "http"
	if in.TLS != nil {
		proto = "https"
	}
	peer := hostOf(in.RemoteAddr)
	add(out, "X-Forwarded-For", peer)
	add(out, "Forwarded", "for="+node(peer)+";host="+quoted(in.Host)+";proto="+proto)
	if out.Get("X-Forwarded-Host") == "" {
		out.Set("X-Forwarded-Host", in.Host)
	}
	if out.Get("X-Forwarded-Proto") == "" {
		out.Set("X-Forwarded-Proto", proto)
	}
	if prefix != "" {
		out.Set("X-Forwarded-Prefix", strings.TrimSuffix(out.Get("X-Forwarded-Prefix"), "/")+prefix)
	}
}

// add adds an element to a list in one line.
func add(h http.Header, name, element string) {
	if before := strings.Join(h[name], ", "); before != "" {
		element = before + ", " + element
	}
	h[name] = []string{element}
}

// node is an address as RFC 7239, section 6, writes it.
func node(host string) string {
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return "unknown"
	case a.Is4():
		return a.String()
	}
	return `"[` + a.WithZone("").String() + `]"`
}

// quoted is a value that may have a colon.
func quoted(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	}) || s == "" {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return s
}
