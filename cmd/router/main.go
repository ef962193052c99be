// The router is the door to Proxima for programs that do not link it: lookup,
// registration and calls by HTTP and NATS. Its other subcommands show
// operators what the registry lists, and why an instance is picked or not.
package main

import (
	"github.com/proxima-discovery/proxima/internal/daemon"
)

const description = `Nearest-first service discovery on NATS: the router, and commands for operators.

Every flag may be given by its environment variable instead.`

func main() { daemon.Main("router", description, new(cli)) }

// cli is the command line.
type cli struct {
	Serve     serveCommand     `cmd:"" set:"nats_url=embedded" help:"Run a router; without --nats-url with a NATS server of its own."`
	Services  servicesCommand  `cmd:"" help:"List the services."`
	Instances instancesCommand `cmd:"" help:"List the instances of a service."`
	Explain   explainCommand   `cmd:"" help:"Tell which instance of a service is picked, and why the others are not."`
	Watch     watchCommand     `cmd:"" help:"Show every change as it happens."`
	Evacuate  evacuateCommand  `cmd:"" help:"Have a region or zone used only when there is nothing else, or list those that are."`
	Demo      demoCommand      `cmd:"" help:"Show the whole system on one screen."`

	DemoInstance demoInstanceCommand `cmd:"" hidden:""`

	daemon.VersionFlag
}
