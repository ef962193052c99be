package topology_test

import (
	"context"
	"fmt"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

func ExampleDetect() {
	env := map[string]string{"PROXIMA_ZONE": "us-east-1a", "SERVICE_REGION": "us-east-1", "SERVICE_ZONE": "ignored"}
	getenv := func(name string) string { return env[name] }

	flags := topology.Fixed("flags", topology.Location{Rack: "r12"})
	d := topology.Detect(context.Background(), append([]topology.Detector{flags}, topology.Environment(getenv)...)...)

	fmt.Println(d.Location)
	for _, l := range []topology.Level{topology.Region, topology.Zone, topology.Rack} {
		fmt.Println(l, "from", d.Won[l])
	}

	levels := topology.DefaultLevels()
	here := topology.Place{Location: d.Location}
	for _, s := range []string{"us-east-1/us-east-1a", "us-east-1/us-east-1b", "eu-west-1/eu-west-1a"} {
		there, err := topology.ParseLocation(s)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(s, "is", levels.Name(levels.Circle(here, topology.Place{Location: there})))
	}
	// Output:
	// us-east-1/us-east-1a/r12
	// region from env SERVICE
	// zone from env PROXIMA
	// rack from flags
	// us-east-1/us-east-1a is zone
	// us-east-1/us-east-1b is region
	// eu-west-1/eu-west-1a is elsewhere
}
