// Router serves programs that do not link Proxima: lookup, registration and
// calls by HTTP and NATS. Its other subcommands show operators what the registry
// lists, and why an instance is picked or not.
package main

import (
	"github.com/proxima-discovery/proxima/internal/daemon"
)

const description = `Nearest-first service discovery on NATS: the router, and commands for operators.

Every flag may be given by its environment variable instead.`

func main() { daemon.Main("router", description, new(cli)) }

// cli is the command line.
type cli struct {
	Serve     serveCommand     `cmd:"" set:"nats_url=embedded" help:"Run a router. Without --nats-url it runs a NATS server too."`
	Services  servicesCommand  `cmd:"" help:"List the services."`
	Instances instancesCommand `cmd:"" help:"List the instances of a service."`
	Explain   explainCommand   `cmd:"" help:"Show which instance of a service is picked, and why the others are not."`
	Watch     watchCommand     `cmd:"" help:"Show every change as it happens."`
	Evacuate  evacuateCommand  `cmd:"" help:"Use a region or zone only when no other instance can be picked, or list the evacuated ones."`
	Policy    policyCommand    `cmd:"" help:"Say how calls to a service are made."`
	Doctor    doctorCommand    `cmd:"" help:"Find out what is wrong with NATS, the registry and what is listed, and what to do."`
	Demo      demoCommand      `cmd:"" help:"Show the whole system on one screen."`

	DemoInstance demoInstanceCommand `cmd:"" hidden:""`

	daemon.VersionFlag
}
