package proximahttp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// socketDomain ends the host that stands for a unix socket in a URL: a URL has no room for
// a path there. No host has that name (RFC 6761). It is random, so that no URL from outside
// leads to a socket.
var socketDomain = "." + strings.ToLower(rand.Text()) + ".unix.invalid"

// hostOf is the host of a URL for an address of an endpoint.
func hostOf(address string) string {
	network, path := events.Network(address)
	if network == "unix" {
		return hex.EncodeToString([]byte(path)) + socketDomain
	}
	return address
}

// sockets returns a Dial that reaches what hostOf has written.
func sockets(dial Dial) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, err := net.SplitHostPort(address); err == nil {
			if name, is := strings.CutSuffix(host, socketDomain); is {
				if path, err := hex.DecodeString(name); err == nil {
					return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", string(path))
				}
			}
		}
		return dial(ctx, network, address)
	}
}
