package identity_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/identity"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// authority is a CA of one's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "own"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.file = a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := c, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// files writes a certificate for names or addresses, and its key.
func (a *authority) files(names ...string) (cert, key string) {
	a.t.Helper()
	c := &x509.Certificate{}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	signed, private := a.sign(c)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write("cert.pem", "CERTIFICATE", signed.Raw), a.write("key.pem", "PRIVATE KEY", der)
}

// serve starts an HTTPS server that tells the protocol and the names that it was called by.
func (a *authority) serve(mutual bool, names ...string) (address string) {
	a.t.Helper()
	cert, key := a.files(names...)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if mutual {
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		c.ClientCAs.AddCert(a.cert)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: c, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.TLS.ServerName, r.Host)
	})}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	a.t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// call calls the instances, all of one service, through a Base.
func call(t *testing.T, f identity.Files, instances ...events.Instance) (string, error) {
	t.Helper()
	c, err := f.Config()
	if err != nil {
		t.Fatal(err)
	}
	sel, err := selector.New(t.Context(), nil, selector.Options{
		Location: topology.Location{Zone: "a"}, Source: selector.Static(instances...), Probe: selector.Probe{Kind: selector.ProbeNone},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sel.Close()
	b := identity.NewBase(proximahttp.NewBase(), c)
	defer b.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://"+instances[0].Service+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := proximahttp.New(sel, proximahttp.Options{Base: b}).RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestACertificateHasTheRightName(t *testing.T) {
	own, other := newAuthority(t), newAuthority(t)
	for _, tt := range []struct {
		name     string
		names    []string // of the certificate
		told     string   // in the metadata
		host     string   // of the endpoint; default its address
		wants    string   // what the instance says; empty: it is not called
		byOthers bool     // the router has another CA
		service  string   // default user
	}{
		{name: "the service", names: []string{"user"}, wants: "HTTP/2.0 user user"},
		{name: "a name that begins with the service", names: []string{"x", "User.internal"}, wants: "HTTP/2.0 user user"},
		{name: "the address", names: []string{"127.0.0.1"}, wants: "HTTP/2.0 user user"},
		{name: "the host of the endpoint", names: []string{"localhost"}, host: "localhost", wants: "HTTP/2.0 localhost user"},
		{name: "the metadata", names: []string{"shop.example"}, told: "shop.example", wants: "HTTP/2.0 shop.example user"},
		{name: "another name", names: []string{"admin.internal"}},
		{name: "a name that only begins alike", names: []string{"users.internal"}},
		{name: "the service, though the metadata says another name", names: []string{"user"}, told: "shop.example"},
		{name: "a dotted service", service: "payments.User", names: []string{"payments.user"}, wants: "HTTP/2.0 payments.User payments.User"},
		{name: "a name that begins with a dotted service", service: "payments.user", names: []string{"payments.user.internal"}, wants: "HTTP/2.0 payments.user payments.user"},
		{name: "the namespace only", service: "payments.user", names: []string{"payments", "payments.internal", "payments.users"}},
		{name: "another authority", names: []string{"user"}, byOthers: true},
	} {
		address := own.serve(false, tt.names...)
		if tt.host != "" {
			_, port, _ := net.SplitHostPort(address)
			address = net.JoinHostPort(tt.host, port)
		}
		in := events.Instance{Service: cmp.Or(tt.service, "user"), ID: "u", Endpoints: map[string]string{events.HTTPS: address}}
		if tt.told != "" {
			in.Metadata = map[string]string{identity.ServerNameKey: tt.told}
		}
		f := identity.Files{CA: own.file}
		if tt.byOthers {
			f.CA = other.file
		}
		got, err := call(t, f, in)
		if got != tt.wants || (tt.wants == "") != (err != nil) || err != nil && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

func TestWithoutOwnAuthoritiesTheSystemsCount(t *testing.T) {
	address := newAuthority(t).serve(false, "user", "127.0.0.1")
	got, err := call(t, identity.Files{}, events.Instance{Service: "user", ID: "u", Endpoints: map[string]string{events.HTTPS: address}})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTheRouterShowsItsCertificate(t *testing.T) {
	own := newAuthority(t)
	in := events.Instance{Service: "user", ID: "u", Endpoints: map[string]string{events.HTTPS: own.serve(true, "user")}}
	if got, err := call(t, identity.Files{CA: own.file}, in); err == nil {
		t.Errorf("without a certificate: %q", got)
	}
	cert, key := own.files("router")
	if got, err := call(t, identity.Files{CA: own.file, Cert: cert, Key: key}, in); err != nil || got != "HTTP/2.0 user user" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFilesThatCannotBeUsedAreNamed(t *testing.T) {
	own := newAuthority(t)
	cert, key := own.files("router")
	for _, tt := range []struct {
		identity.Files
		want string
	}{
		{identity.Files{CA: "missing.pem"}, "missing.pem"},
		{identity.Files{CA: key}, "no certificate"},
		{identity.Files{Cert: cert}, "belong together"},
		{identity.Files{Key: key}, "belong together"},
		{identity.Files{Cert: cert, Key: "missing.pem"}, "missing.pem"},
		{identity.Files{Cert: cert, Key: cert}, "key"},
	} {
		if _, err := tt.Config(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.Files, err, tt.want)
		}
	}
}
