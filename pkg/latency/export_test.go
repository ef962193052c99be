package latency

// Of the gRPC health protocol.
var (
	HealthRequest = healthRequest
	HealthStatus  = healthStatus
)
