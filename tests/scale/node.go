package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// nodeConfig is that of a NATS server.
type nodeConfig struct {
	Name    string
	Dir     string // of its files
	Port    int    // -1: any that is free
	Cluster int    // port of its routes; -1: any that is free; 0: it is alone
	Route   string // to another server of the cluster
}

// address is where a server listens.
type address struct{ Client, Cluster string }

// serve is a NATS server until in ends.
func serve(data []byte, in *json.Decoder, out *json.Encoder) error {
	var c nodeConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, JetStream: true, StoreDir: c.Dir, NoLog: true, NoSigs: true,
		JetStreamMaxMemory: 8 << 30, JetStreamMaxStore: 8 << 30,
	}
	if c.Cluster != 0 {
		o.Cluster = server.ClusterOpts{Name: "scale", Host: "127.0.0.1", Port: c.Cluster}
		o.Routes = server.RoutesFromStr(c.Route)
	}
	ns, err := server.NewServer(o)
	if err != nil {
		return say(out, nil, err)
	}
	ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		return say(out, nil, errors.New("the NATS server is not ready after 10s"))
	}
	at := address{Client: ns.ClientURL()}
	if c.Cluster != 0 {
		at.Cluster = "nats://" + ns.ClusterAddr().String()
	}
	if err := say(out, at, nil); err != nil {
		return err
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return err
	}
	ns.Shutdown()
	ns.WaitForShutdown()
	return nil
}

// node is a NATS server in a process of its own.
type node struct {
	*child
	config nodeConfig
	url    string
	routes string
}

func startNode(c nodeConfig) (*node, error) {
	n := &node{config: c}
	return n, n.boot()
}

// boot starts the server, again on the port that it had.
func (n *node) boot() error {
	var err error
	if n.child, err = spawn("server", n.config); err != nil {
		return err
	}
	var at address
	if err := n.hear(&at); err != nil {
		n.kill()
		return err
	}
	n.url, n.routes = at.Client, at.Cluster
	if n.config.Port, err = port(at.Client); err == nil && at.Cluster != "" {
		n.config.Cluster, err = port(at.Cluster)
	}
	return err
}

func port(address string) (int, error) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Port())
}
