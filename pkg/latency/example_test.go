package latency_test

import (
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Without samples the distance is that of the circle. One slow packet changes
// nothing.
func Example() {
	p := latency.New(latency.Caller{}, latency.Options{})
	defer func() { _ = p.Close() }()

	path := p.Path(latency.Target{Address: "10.0.0.5:8080"})
	assumed := latency.Assumed(1, 3) // same region, of zone, region, elsewhere
	fmt.Println(path.Estimate(assumed))

	for _, rtt := range []time.Duration{900, 250, 910} {
		path.Observe(rtt * time.Microsecond)
	}
	path.Observe(3 * time.Second)
	fmt.Println(path.Estimate(assumed))
	// Output:
	// {2ms assumed}
	// {900µs measured}
}
