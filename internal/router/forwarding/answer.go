package forwarding

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Site is where a caller sees an instance.
type Site struct {
	// Hosts are the names, with or without a port, by which the instance may call
	// itself: the Host that it got, and that of the caller.
	Hosts []string
	// Outside is the host that the caller used. A URL with it stays absolute.
	Outside string
	// Prefix was cut off from the path of the request; empty: none.
	Prefix string
}

// Rewrite changes the places in the head of an answer that name paths of the instance so
// that the caller finds them: Location, Content-Location, URI, Link, Refresh, and the Path
// of cookies. Names of other hosts, and relative paths, stay as they are; so do paths that have the
// prefix already, as those of an instance that heeds X-Forwarded-Prefix.
func (s *Site) Rewrite(h http.Header) {
	for _, name := range []string{"Location", "Content-Location", "Uri"} {
		for i, v := range h[name] {
			h[name][i] = s.reference(v)
		}
	}
	for i, v := range h["Link"] {
		h["Link"][i] = s.links(v)
	}
	for i, v := range h["Refresh"] {
		h["Refresh"][i] = s.refresh(v)
	}
	for i, v := range h["Set-Cookie"] {
		h["Set-Cookie"][i] = s.cookie(v)
	}
}

// reference rewrites a URL reference. It cuts the text, so that nothing else of it
// changes.
func (s *Site) reference(ref string) string {
	scheme, authority, path, ok := split(ref)
	switch {
	case !ok:
		return ref
	case authority == "":
		return s.path(path)
	case !s.own(authority):
		return ref
	case path == "" || path[0] != '/':
		path = "/" + path // only a query or a fragment
	}
	if strings.EqualFold(authority, s.Outside) {
		return scheme + "//" + authority + s.path(path)
	}
	return s.path(path) // the caller does not know the name
}

// split cuts a reference into its scheme with the colon, its authority, and the path
// with all that follows. It is not ok for a relative path, a scheme without an authority,
// and what browsers and servers read differently.
func split(ref string) (scheme, authority, path string, ok bool) {
	rest := ref
	if i := strings.IndexAny(rest, ":/?#"); i > 0 && rest[i] == ':' {
		scheme = rest[:i+1]
		if s := strings.ToLower(scheme); s != "http:" && s != "https:" && s != "ws:" && s != "wss:" {
			return "", "", "", false
		}
		rest = rest[i+1:]
		if !strings.HasPrefix(rest, "//") {
			return "", "", "", false
		}
	}
	if authority, is := strings.CutPrefix(rest, "//"); is {
		i := strings.IndexAny(authority, `/?#\`)
		if i < 0 {
			i = len(authority)
		}
		return scheme, authority[:i], authority[i:], authority[:i] != "" && !strings.HasPrefix(authority[i:], `\`)
	}
	if !strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, `/\`) { // browsers read the second as //
		return "", "", "", false
	}
	return "", "", rest, true
}

// path puts the prefix before an absolute path, unless it is there.
func (s *Site) path(path string) string {
	if s.Prefix == "" {
		return path
	}
	path = inside(path)
	if rest, has := strings.CutPrefix(path, s.Prefix); has && (rest == "" || strings.ContainsRune("/?#", rune(rest[0]))) {
		return path
	}
	return s.Prefix + path
}

// inside is an absolute path without the segments "..", by which it would leave what is put
// before it. The instance means its own root, which nothing is above.
func inside(path string) string {
	end := strings.IndexAny(path, "?#")
	if end < 0 {
		end = len(path)
	}
	segments := strings.Split(path[1:end], "/")
	if !slices.ContainsFunc(segments, isUp) {
		return path
	}
	kept := segments[:0]
	for i, segment := range segments {
		switch {
		case !isUp(segment):
			kept = append(kept, segment)
		case i == len(segments)-1:
			kept = append(kept[:max(len(kept)-1, 0)], "")
		case len(kept) > 0:
			kept = kept[:len(kept)-1]
		}
	}
	return "/" + strings.Join(kept, "/") + path[end:]
}

// isUp reports whether a segment is "..", which browsers also read where a dot is escaped.
func isUp(segment string) bool {
	return len(segment) <= len("%2e%2e") && strings.ReplaceAll(strings.ToLower(segment), "%2e", ".") == ".."
}

// own reports whether an authority is a name of the instance.
func (s *Site) own(authority string) bool {
	for _, h := range s.Hosts {
		if equalHosts(authority, h) {
			return true
		}
	}
	return equalHosts(authority, s.Outside)
}

// equalHosts compares two authorities. The port counts only if both have one, and a dot at the
// end of a name does not.
func equalHosts(a, b string) bool {
	if a == "" || b == "" || strings.Contains(a, "@") {
		return false
	}
	x, y := &url.URL{Host: a}, &url.URL{Host: b}
	return strings.EqualFold(strings.TrimSuffix(x.Hostname(), "."), strings.TrimSuffix(y.Hostname(), ".")) && (x.Port() == y.Port() || x.Port() == "" || y.Port() == "")
}

// links rewrites the references of a list such as </items?page=2>; rel="next".
func (s *Site) links(v string) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(v):
			b.WriteByte(c)
			i++
		case c == '<' && !quoted:
			if end := strings.IndexByte(v[i:], '>'); end > 0 {
				b.WriteByte('<')
				b.WriteString(s.reference(v[i+1 : i+end]))
				i += end
			}
		}
		b.WriteByte(v[i])
	}
	return b.String()
}

// refresh rewrites the URL in a value such as "5; url=/login", as browsers read it: a time,
// then a semicolon, a comma or a space, then the URL, which may have url= before it and be quoted.
func (s *Site) refresh(v string) string {
	rest := trimSpace(strings.TrimLeft(trimSpace(v), "0123456789."))
	if rest != "" && (rest[0] == ';' || rest[0] == ',') {
		rest = trimSpace(rest[1:])
	} else if rest == v {
		return v // no time
	}
	if len(rest) >= 3 && strings.EqualFold(rest[:3], "url") {
		after, is := strings.CutPrefix(trimSpace(rest[3:]), "=")
		if !is {
			return v
		}
		rest = trimSpace(after)
	}
	if rest == "" {
		return v
	}
	begin, end := v[:len(v)-len(rest)], ""
	if q := rest[0]; q == '\'' || q == '"' {
		begin, rest = begin+rest[:1], rest[1:]
		if i := strings.IndexByte(rest, q); i >= 0 {
			rest, end = rest[:i], rest[i:]
		}
	}
	return begin + s.reference(rest) + end
}

// trimSpace cuts off the spaces before a text.
func trimSpace(s string) string { return strings.TrimLeft(s, " \t") }

// cookie rewrites the Path of a cookie, and removes a Domain that is a name of the
// instance only. A cookie named __Host- must have the path "/".
func (s *Site) cookie(v string) string {
	parts := strings.Split(v, ";")
	name, _, _ := strings.Cut(parts[0], "=")
	fixed := strings.HasPrefix(strings.ToLower(strings.TrimSpace(name)), "__host-")
	kept := parts[:1]
	for _, part := range parts[1:] {
		key, value, has := strings.Cut(part, "=")
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "path":
			if has && strings.HasPrefix(value, "/") && !fixed {
				part = key + "=" + s.cookiePath(value)
			}
		case "domain":
			if domain := strings.TrimPrefix(value, "."); s.own(domain) && !equalHosts(domain, s.Outside) {
				continue // the caller knows another name, and would refuse the cookie
			}
		}
		kept = append(kept, part)
	}
	return strings.Join(kept, ";")
}

// cookiePath is the prefix for the path "/", without a slash at its end: else the cookie
// would not be sent to the prefix itself.
func (s *Site) cookiePath(path string) string {
	if path == "/" && s.Prefix != "" {
		return s.Prefix
	}
	return s.path(path)
}
