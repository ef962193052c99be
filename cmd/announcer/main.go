// The announcer lists instances in the registry for as long as they live:
// itself for a process that runs elsewhere, the command that it wraps, or
// what a file says.
package main

import (
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

const description = `Announces instances of services to Proxima's registry in NATS, renews their leases, and takes them out when they end.

Every flag may be given by its environment variable instead.`

func main() { daemon.Main("announcer", description, new(cli)) }

// cli is the command line: the subcommands, and the flags that they share.
type cli struct {
	Run  runCommand  `cmd:"" help:"Announce one instance, and run the command that it is."`
	File fileCommand `cmd:"" help:"Announce the instances that a file lists, and follow its changes."`

	CheckInterval time.Duration `default:"2s" placeholder:"DURATION" help:"Time between two checks (${default})."`
	Admin         string        `placeholder:"HOST:PORT" help:"Serve /healthz, /readyz and /metrics here; port 0 takes a free one."`

	Location daemon.LocationFlags `embed:"" group:"Where it runs:"`

	NATS     daemon.NATSFlags     `embed:"" group:"NATS:"`
	Registry daemon.RegistryFlags `embed:"" group:"NATS:"`

	Log                daemon.LogFlags `embed:"" group:"Other:"`
	daemon.VersionFlag `embed:"" group:"Other:"`
}
