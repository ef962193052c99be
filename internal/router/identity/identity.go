// Package identity verifies the certificates of instances that are called by HTTPS.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
)

// ServerNameKey is the metadata key by which an instance says which name its certificate
// has.
const ServerNameKey = "proxima.server_name"

// maxNames is how many server names have connections of their own at a time.
const maxNames = 256

// Files are the PEM files of TLS to instances. The zero value trusts the certificates that
// the system does.
type Files struct {
	CA        string // certificates of own authorities
	Cert, Key string // of the router; both are read again for each connection
}

// Config returns the TLS of connections to instances, before it is known to which. An error
// names the file.
func (f *Files) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", f.CA)
		}
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("a certificate and its key belong together")
	}
	if f.Cert != "" {
		if _, err := tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			return &pair, err
		}
	}
	return c, nil
}

// Base sends requests to instances, and verifies those by HTTPS: the certificate must have
// the name of the instance's metadata ([ServerNameKey]), or else the host of its endpoint.
// With authorities of one's own the name of the service will do as well, alone or as the
// first part of a name (user, user.internal, payments.user.internal): such authorities
// certify nothing else.
//
// It is safe for concurrent use.
type Base struct {
	plain *http.Transport
	own   bool // the authorities are one's own

	mu     sync.Mutex
	byName map[name]*http.Transport
}

// name is what a certificate must have: one of these that is not empty.
type name struct {
	host    string // of the endpoint, or of the instance's metadata
	service string // alone, or as the first part of a name
}

// NewBase returns the Base for a transport, which it owns from then on.
func NewBase(base *http.Transport, c *tls.Config) *Base {
	base.TLSClientConfig = c
	return &Base{plain: base, own: c.RootCAs != nil, byName: make(map[name]*http.Transport)}
}

// RoundTrip implements [http.RoundTripper] for requests of a [proximahttp.Transport].
func (b *Base) RoundTrip(req *http.Request) (*http.Response, error) {
	attempt, ok := proximahttp.AttemptFrom(req.Context())
	if req.URL.Scheme != events.HTTPS || !ok {
		return b.plain.RoundTrip(req)
	}
	n := name{host: req.URL.Hostname()}
	switch told := attempt.Metadata[ServerNameKey]; {
	case told != "":
		n.host = told
	case b.own:
		n.service = attempt.Service
	default:
		return b.plain.RoundTrip(req)
	}
	return b.transport(n).RoundTrip(req)
}

// transport returns the one for a name. Connections are reused among requests that want
// the same name only.
func (b *Base) transport(n name) *http.Transport {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.byName[n]; t != nil {
		return t
	}
	if len(b.byName) >= maxNames { // names come from records
		for old, t := range b.byName {
			delete(b.byName, old)
			t.CloseIdleConnections()
			break
		}
	}
	t := b.plain.Clone()
	t.TLSClientConfig.ServerName = n.host
	if n.service != "" {
		verifyAny(t.TLSClientConfig, n)
	}
	b.byName[n] = t
	return t
}

// verifyAny accepts each of the names that will do.
func verifyAny(c *tls.Config, n name) {
	roots := c.RootCAs
	if _, err := netip.ParseAddr(n.host); err == nil {
		c.ServerName = n.service // an address is not sent
	}
	c.InsecureSkipVerify = true // VerifyConnection verifies
	c.VerifyConnection = func(s tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range s.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		leaf := s.PeerCertificates[0]
		if _, err := leaf.Verify(opts); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		err := leaf.VerifyHostname(n.host)
		if err == nil {
			return nil
		}
		for _, dns := range leaf.DNSNames {
			if rest := len(dns) - len(n.service); rest >= 0 && strings.EqualFold(dns[:len(n.service)], n.service) && (rest == 0 || dns[len(n.service)] == '.') {
				return nil
			}
		}
		return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
	}
}

// CloseIdleConnections closes those of all names.
func (b *Base) CloseIdleConnections() {
	b.plain.CloseIdleConnections()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.byName {
		t.CloseIdleConnections()
	}
}
