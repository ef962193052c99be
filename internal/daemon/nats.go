package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// NATSFlags are the address of NATS and the credentials for it. The default of the
// URL is the kong variable nats_url; help shows nats_default instead of it.
type NATSFlags struct {
	URL            string        `name:"nats-url" default:"${nats_url}" placeholder:"URL" help:"NATS server, or several joined by commas (${nats_default})."`
	Creds          string        `name:"nats-creds" placeholder:"FILE" help:"Credentials file (JWT and seed) for NATS."`
	NKey           string        `name:"nats-nkey" placeholder:"FILE" help:"Seed file of an nkey for NATS."`
	User           string        `name:"nats-user" placeholder:"NAME" help:"User name for NATS."`
	Password       string        `name:"nats-password" placeholder:"SECRET" help:"Password for NATS; better set in the environment."`
	CA             string        `name:"nats-ca" placeholder:"FILE" help:"PEM file of the CA certificates that the server's certificate is verified with."`
	Cert           string        `name:"nats-cert" placeholder:"FILE" help:"PEM file of the certificate of this client."`
	Key            string        `name:"nats-key" placeholder:"FILE" help:"PEM file of the key of this client."`
	ConnectTimeout time.Duration `default:"10s" placeholder:"DURATION" help:"How long to wait for NATS at the start (${default})."`
}

// Connect connects and waits for the answer of the server, at most ConnectTimeout.
// A refusal (credentials, certificates) is returned at once. Later the connection
// reconnects until it is closed. Options are added to those of the flags.
func (f *NATSFlags) Connect(ctx context.Context, name string, logger *slog.Logger, options ...nats.Option) (*nats.Conn, error) {
	return f.connect(ctx, name, logger, options, false)
}

// TryConnect is [NATSFlags.Connect] for a program that can start without NATS: it
// waits a second at most. When the server has not answered by then, the connection
// goes on trying, and that is no error.
func (f *NATSFlags) TryConnect(ctx context.Context, name string, logger *slog.Logger, options ...nats.Option) (*nats.Conn, error) {
	return f.connect(ctx, name, logger, options, true)
}

func (f *NATSFlags) connect(ctx context.Context, name string, logger *slog.Logger, options []nats.Option, goOn bool) (*nats.Conn, error) {
	l := newLink(logger)
	nc, err := f.dial(name, l, options)
	if err != nil {
		return nil, err
	}
	limit := f.ConnectTimeout
	if goOn {
		limit = min(limit, tryWait)
	}
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case <-l.connected:
		l.warn()
		return nc, nil
	case <-l.refused:
		nc.Close()
		return nil, fmt.Errorf("NATS at %s refuses this client: %w", f.where(), l.last())
	case <-wait.Done():
		if goOn && ctx.Err() == nil {
			l.warn()
			logger.Warn("cannot reach NATS, continuing without it", "url", f.where(), "error", l.last())
			return nc, nil
		}
		nc.Close()
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("connecting to NATS at %s: %w", f.where(), err)
		}
		why := cmp.Or(l.last(), nats.ErrTimeout)
		if errors.Is(why, nats.ErrNoServers) { // the first error of nats.go
			why = syscall.ECONNREFUSED
		}
		return nil, fmt.Errorf("cannot reach NATS at %s: %w (start one, or set --nats-url)", f.where(), why)
	}
}

// ConnectInBackground returns at once with a connection that retries for ever. Until
// it is connected, its calls fail. An error is about the flags.
func (f *NATSFlags) ConnectInBackground(name string, logger *slog.Logger, options ...nats.Option) (*nats.Conn, error) {
	l := newLink(logger)
	l.warn()
	return f.dial(name, l, options)
}

func (f *NATSFlags) dial(name string, l *link, more []nats.Option) (*nats.Conn, error) {
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	options = append(options,
		nats.Name(name),
		nats.RetryOnFailedConnect(true),
		nats.Timeout(min(dialTimeout, f.ConnectTimeout)),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(l.nextAttempt),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.NoCallbacksAfterClientClose(),
		nats.ConnectHandler(l.onConnect),
		nats.ReconnectHandler(l.onConnect),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.failed(err) }),
		nats.DisconnectErrHandler(l.onDisconnect),
		nats.ErrorHandler(l.onError),
		nats.ClosedHandler(l.onClosed),
	)
	nc, err := nats.Connect(f.URL, append(options, more...)...)
	if err != nil {
		return nil, Usagef("--nats-url %s: %w", f.where(), err)
	}
	l.conn.Store(nc)
	return nc, nil
}

// Validate checks the flags and the files that they name. It does not use the
// network.
func (f *NATSFlags) Validate() error {
	_, err := f.options()
	return err
}

func (f *NATSFlags) options() ([]nats.Option, error) {
	if err := f.validateURL(); err != nil {
		return nil, err
	}
	if f.ConnectTimeout <= 0 {
		return nil, Usagef("--connect-timeout %s: want more than 0", f.ConnectTimeout)
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, Usagef("--nats-cert and --nats-key belong together")
	}
	var options []nats.Option
	// Some options read files when they are applied: apply them here once.
	add := func(flag string, option nats.Option, err error) error {
		if err == nil {
			err = option(new(nats.Options))
		}
		if err != nil {
			return Usagef("%s: %w", flag, err)
		}
		options = append(options, option)
		return nil
	}
	var errs []error
	if f.Creds != "" {
		errs = append(errs, add("--nats-creds "+f.Creds, nats.UserCredentials(f.Creds), validateCreds(f.Creds)))
	}
	if f.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(f.NKey)
		errs = append(errs, add("--nats-nkey "+f.NKey, option, err))
	}
	if f.User != "" {
		options = append(options, nats.UserInfo(f.User, f.Password))
	}
	if f.CA != "" {
		errs = append(errs, add("--nats-ca "+f.CA, nats.RootCAs(f.CA), nil))
	}
	if f.Cert != "" {
		errs = append(errs, add("--nats-cert "+f.Cert+", --nats-key "+f.Key, nats.ClientCert(f.Cert, f.Key), nil))
	}
	return options, errors.Join(errs...)
}

func (f *NATSFlags) validateURL() error {
	for one := range strings.SplitSeq(f.URL, ",") {
		one = strings.TrimSpace(one)
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		u, err := url.Parse(one)
		const want = "want nats://host:port (or tls://, ws://, wss://)"
		if err != nil { // without the URL, which may have a password
			return Usagef("--nats-url is not a URL: %s", want)
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return Usagef("--nats-url %s: %s", u.Redacted(), want)
		}
		if u.Hostname() == "" {
			return Usagef("--nats-url %s: %s", u.Redacted(), want)
		}
	}
	return nil
}

// Elsewhere reports whether none of the servers is on this machine, as far as the URLs tell:
// names are not resolved.
func (f *NATSFlags) Elsewhere() bool {
	for one := range strings.SplitSeq(f.URL, ",") {
		one = strings.TrimSpace(one)
		if !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		if u, err := url.Parse(one); err != nil || events.Loopback(u.Hostname()) {
			return false
		}
	}
	return true
}

// where is the URL without passwords.
func (f *NATSFlags) where() string {
	var shown []string
	for one := range strings.SplitSeq(f.URL, ",") {
		one = strings.TrimSpace(one)
		if u, err := url.Parse(one); err == nil {
			one = u.Redacted()
		}
		shown = append(shown, one)
	}
	return strings.Join(shown, ",")
}

// validateCreds parses the file. nats.go reads it at every connect, so that it can be
// replaced.
func validateCreds(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, err := nkeys.ParseDecoratedJWT(data); err != nil {
		return err
	}
	_, err = nkeys.ParseDecoratedUserNKey(data)
	return err
}
