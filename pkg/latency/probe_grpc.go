package latency

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Of the protocol grpc.health.v1, and of gRPC over HTTP/2.
const (
	healthCheck   = "/grpc.health.v1.Health/Check"
	healthServing = 1

	grpcPrefix        = 5 // one byte whether it is compressed, four of length
	grpcOK            = "0"
	grpcUnimplemented = "12"
)

// GRPCHealth measures a call of grpc.health.v1.Health/Check for a service ("" is
// the server as a whole) on an open connection: the network's round trip, and
// what the health service needs to answer. SERVING is a sample; so is the
// answer of a server that has no health service. NOT_SERVING and every error
// are failures.
//
// With a nil secure it is cleartext HTTP/2; else TLS. A nil dial is that of
// [net.Dialer].
func GRPCHealth(dial Dial, address, service string, secure *tls.Config) *Ping {
	versions := new(http.Protocols)
	versions.SetUnencryptedHTTP2(secure == nil)
	versions.SetHTTP2(secure != nil)
	connect := connector(dial, address, secure, versions)
	return newPing(address, func(ctx context.Context) (circuit, error) {
		conn, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		return &health{conn, scheme(secure) + "://" + address + healthCheck, healthRequest(service)}, nil
	})
}

// health is a connection for health checks.
type health struct {
	*http.ClientConn
	url     string
	request []byte
}

func (h *health) trip(ctx context.Context) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(h.request))
	if err != nil {
		return 0, err
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {agent}}
	start := time.Now()
	resp, err := h.RoundTrip(req)
	rtt := time.Since(start)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return 0, err
	}
	if err := healthy(resp, body); err != nil {
		return 0, err
	}
	return rtt, nil
}

// healthy says whether the answer is a sample.
func healthy(resp *http.Response, body []byte) error {
	code, about := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if code == "" { // an answer without a message has its trailers in front
		code, about = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch {
	case code == "":
		return answer(fmt.Sprintf("status %d, and no gRPC status", resp.StatusCode))
	case code == grpcUnimplemented:
		return nil
	case code != grpcOK:
		return answer(fmt.Sprintf("gRPC status %.10s: %.100q", code, about))
	}
	status, err := healthStatus(body)
	switch {
	case err != nil:
		return err
	case status != healthServing:
		return answer(fmt.Sprintf("health status %d, want %d (serving)", status, healthServing))
	}
	return nil
}

// healthRequest is a HealthCheckRequest{service = 1} as gRPC sends it.
func healthRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service)))
		message = append(message, service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

var errHealth = errors.New("no HealthCheckResponse")

// healthStatus reads a HealthCheckResponse{status = 1} as gRPC sends it.
func healthStatus(data []byte) (status int32, err error) {
	if len(data) < grpcPrefix || data[0] != 0 || uint64(binary.BigEndian.Uint32(data[1:])) != uint64(len(data)-grpcPrefix) {
		return 0, errHealth
	}
	for data = data[grpcPrefix:]; len(data) > 0; {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return 0, errHealth
		}
		data = data[n:]
		value, size := uint64(0), uint64(0)
		switch tag & 7 {
		case 0:
			value, n = binary.Uvarint(data)
			size = uint64(n)
		case 1:
			size = 8
		case 2:
			size, n = binary.Uvarint(data)
			data = data[max(n, 0):]
		case 5:
			size = 4
		default:
			return 0, errHealth
		}
		if n <= 0 || size > uint64(len(data)) {
			return 0, errHealth
		}
		data = data[size:]
		if tag == 1<<3 {
			status = int32(value)
		}
	}
	return status, nil
}
