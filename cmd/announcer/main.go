// The announcer keeps instances of services listed in the registry: a process that
// runs beside it, the command that it starts, or the instances of a file.
package main

import (
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

const description = `Keeps instances of services listed in Proxima's registry in NATS while they run.
Every flag can be set by its environment variable instead. "announcer run -h" describes all flags in full.`

func main() { daemon.Main("announcer", description, new(cli)) }

// cli is the command line: the subcommands, and the flags that they share.
type cli struct {
	Run  runCommand  `cmd:"" help:"Announce one instance, and run the command that is this instance."`
	File fileCommand `cmd:"" help:"Announce the instances in a file, also after changes of the file."`

	CheckInterval time.Duration `group:"Checks:" default:"2s" placeholder:"DURATION" help:"Time between two checks of an instance (${default})."`

	Location daemon.LocationFlags `embed:"" group:"Location:"`

	NATS     daemon.NATSFlags     `embed:"" group:"NATS:"`
	Registry daemon.RegistryFlags `embed:"" group:"NATS:"`

	AllowLoopback bool `group:"NATS:" help:"Announce loopback endpoints, such as 127.0.0.1:8080, even if --nats-url names another machine. Only callers on this machine can reach them."`

	Admin string          `group:"Logging, health and metrics:" placeholder:"HOST:PORT" help:"Serve /healthz, /readyz and /metrics on this address; port 0 takes a free port."`
	Log   daemon.LogFlags `embed:"" group:"Logging, health and metrics:"`

	daemon.VersionFlag
}
