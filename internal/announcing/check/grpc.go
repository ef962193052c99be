package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// askGRPC asks grpc.health.v1.Health for a service, "" being the whole server.
// Every check dials: over an old connection a server that accepts no new ones
// would still pass.
func askGRPC(address, path string) Func {
	service := strings.TrimPrefix(path, "/")
	return func(ctx context.Context) error {
		conn, err := grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(), // the address is the instance's, as for calls
			grpc.WithUserAgent("proxima-check"))
		if err != nil {
			return err
		}
		defer conn.Close()
		resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		switch status.Code(err) {
		case codes.OK:
		case codes.Unimplemented:
			return errors.New("the server has no grpc.health.v1.Health")
		case codes.NotFound:
			return fmt.Errorf("the server does not know service %q", service)
		default:
			return errors.New(status.Convert(err).Message())
		}
		if s := resp.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
			return fmt.Errorf("got %s, want SERVING", s)
		}
		return nil
	}
}
