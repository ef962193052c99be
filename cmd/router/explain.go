package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/subset"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// measureWait is how long this command measures before it explains.
const measureWait = 2 * time.Second

type explainCommand struct {
	Service string `arg:"" help:"Service to explain."`
	From    string `placeholder:"REGION/ZONE" help:"Location of the caller. Default: the router's."`
	Where   string `placeholder:"EXPRESSION" help:"The instances that the caller wants, such as version=2. Default: what the policy says."`

	operatorFlags
}

// Help is shown by -h.
func (c *explainCommand) Help() string {
	return `A running router answers, with the distances and breakers by which it picks. If no router answers, this command measures the distances from this machine.

The first table lists the circles in the order in which they are tried: the share of picks that start there (SHARE), the distance to the nearest instance (BEST) and its source, the calls in flight per instance (LOAD), and whether the circle is moved behind the next one for its distance (demoted) or filled up with unusable instances (panic). The second table lists the instances, in that order too.

Where the service has a policy, its revision stands before, with the rule that decided, and a table of all rules. A call of which chance decides is explained as one that is in no split.`
}

// Run prints the explanation.
func (c *explainCommand) Run(ctx context.Context, p *daemon.Process) error {
	if err := validService(c.Service); err != nil {
		return err
	}
	var from *topology.Location
	if c.From != "" {
		l, err := topology.ParseLocation(c.From)
		if err != nil {
			return daemon.Usagef("--from %s: want region/zone: %w", c.From, err)
		}
		from = &l
	}
	if _, err := subset.Parse(c.Where); err != nil {
		return daemon.Usagef("--where: %w", err)
	}
	s, err := c.open(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	e, err := c.askRouter(ctx, s)
	alone := errors.Is(err, nats.ErrNoResponders)
	if alone {
		e, err = c.measure(ctx, p, s, from)
	}
	if err != nil {
		return err
	}
	if alone {
		fmt.Fprintln(p.Stderr, "router: no router answers: distances are measured from this machine")
	}
	if e.From == (topology.Location{}).String() {
		of := "the router"
		if alone {
			of = "this machine"
		}
		fmt.Fprintf(p.Stderr, "router: the location of %s is unknown, so every instance is elsewhere: --from REGION/ZONE shows what a caller there picks\n", of)
	}
	if from != nil {
		if places, found := placesOf(*from, e.Instances); !found {
			fmt.Fprintf(p.Stderr, "router: no instance of %s is in %s, check the name if there should be one: its instances are in %s\n", c.Service, regionZone(*from), strings.Join(places, ", "))
		}
	}
	if c.JSON {
		return printJSON(p.Stdout, e)
	}
	return printExplanation(p.Stdout, e)
}

// maxPlaces is how many places a line names.
const maxPlaces = 10

// placesOf reports whether an instance is in a place, in its zone if that is known, else in
// its region; and returns the places of all, some of them if there are many.
func placesOf(from topology.Location, all []selector.Candidate) (places []string, found bool) {
	circles := 2 // that are in it: zone and region
	if from.Zone != "" {
		circles = 1
	}
	found = len(all) == 0 || from.Zone == "" && from.Region == ""
	known := make(map[string]bool)
	for i := range all {
		at := all[i].Location
		known[regionZone(at)] = true
		there := topology.DefaultLevels().Circle(topology.Place{Location: from}, topology.Place{Location: at})
		found = found || there < circles
	}
	places = slices.Sorted(maps.Keys(known))
	if more := len(places) - maxPlaces; more > 0 {
		places = append(places[:maxPlaces], fmt.Sprintf("and %d more", more))
	}
	return places, found
}

// regionZone prints the region of a location, and the zone if it is known.
func regionZone(l topology.Location) string {
	if l.Zone == "" && l.Region != "" {
		return l.Region
	}
	return place(topology.Location{Region: l.Region, Zone: l.Zone})
}

// askRouter asks one of the routers of the bucket.
func (c *explainCommand) askRouter(ctx context.Context, s *session) (selector.Explanation, error) {
	msg := nats.NewMsg(c.Registry.Name() + ".explain." + c.Service)
	if c.From != "" {
		msg.Header.Set("Proxima-From", c.From)
	}
	if c.Where != "" {
		msg.Header.Set("Proxima-Where", c.Where)
	}
	answer, err := s.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return selector.Explanation{}, fmt.Errorf("asking a router: %w", err)
	}
	switch code := answer.Header.Get(micro.ErrorCodeHeader); code {
	case "":
	case "404":
		return selector.Explanation{}, unknownService(c.Service)
	default:
		return selector.Explanation{}, fmt.Errorf("the router answers %s: %s", code, answer.Header.Get(micro.ErrorHeader))
	}
	var e selector.Explanation
	if err := json.Unmarshal(answer.Data, &e); err != nil {
		return selector.Explanation{}, fmt.Errorf("the router's answer: %w", err)
	}
	return e, nil
}

// measure explains with a selector of its own.
func (c *explainCommand) measure(ctx context.Context, p *daemon.Process, s *session, from *topology.Location) (selector.Explanation, error) {
	here, err := (&daemon.LocationFlags{}).Detect(ctx, p.Getenv, s.log)
	if err != nil {
		return selector.Explanation{}, err
	}
	sel, err := selector.New(ctx, s.nc, selector.Options{
		Source: s.registry, Registry: kv.Options{Bucket: c.Registry.Name()}, Location: here.Location, Logger: s.log,
		Latency: latency.Options{Budget: -1}, // explain once, without waiting for slots
	})
	if err != nil {
		return selector.Explanation{}, err
	}
	defer sel.Close()
	var e selector.Explanation
	for began := time.Now(); ; {
		if e, err = sel.Explain(ctx, selector.Request{Service: c.Service, From: from, Where: c.Where}); err != nil || measured(e) || time.Since(began) >= measureWait {
			break
		}
		select {
		case <-time.After(measureWait / 40):
		case <-ctx.Done():
			return e, ctx.Err()
		}
	}
	if errors.Is(err, selector.ErrUnknownService) {
		return e, unknownService(c.Service)
	}
	return e, err
}

func measured(e selector.Explanation) bool {
	return !slices.ContainsFunc(e.Instances, func(c selector.Candidate) bool {
		return c.DistanceSource == string(latency.SourceAssumed)
	})
}

// printPolicy prints which policy holds, and which of its rules decided.
func printPolicy(w io.Writer, e *selector.Explanation) error {
	if p := e.Policy; p != nil {
		var of []string
		if p.Revision > 0 {
			of = append(of, fmt.Sprintf("of the service, revision %d", p.Revision))
		}
		if p.DefaultRevision > 0 {
			of = append(of, fmt.Sprintf("for all services, revision %d", p.DefaultRevision))
		}
		if len(of) > 0 {
			fmt.Fprintf(w, "policy: %s\n", strings.Join(of, "; "))
		}
		if p.Error != "" {
			fmt.Fprintf(w, "the newest policy is not used: %s\n", p.Error)
		}
	}
	switch {
	case e.FellBack:
		fmt.Fprintf(w, "decided by %s: none of %s is usable, so calls go to any instance\n", e.Rule, e.Where)
	case e.Rule != "":
		fmt.Fprintf(w, "decided by %s: calls go to %s\n", e.Rule, e.Where)
	}
	if e.Policy == nil || len(e.Policy.Rules) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "RULE", "WHERE", "INSTANCES", "USABLE")
	for _, r := range e.Policy.Rules {
		t.row(r.Rule, r.Where, r.Instances, r.Usable)
	}
	return t.end()
}

func printExplanation(w io.Writer, e selector.Explanation) error {
	special := ""
	if e.Stale {
		special += ", stale: the registry cannot be reached"
	}
	if e.Panic {
		special += ", in panic: fewer than half are usable"
	}
	fmt.Fprintf(w, "%s from %s by %s%s\n", e.Service, e.From, e.Strategy, special)
	if err := printPolicy(w, &e); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := newTable(w, "CIRCLE", "INSTANCES", "USABLE", "SHARE", "BEST", "SOURCE", "LOAD", "NOTE")
	for _, c := range e.Circles {
		best := ""
		if c.DistanceSource != "" {
			best = milliseconds(c.BestMS)
		}
		t.row(c.Name, c.Instances, c.Usable, fmt.Sprintf("%.3g %%", 100*c.Share), best, c.DistanceSource, c.Load, c.Note)
	}
	if err := t.end(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "INSTANCE", "CIRCLE", "DISTANCE", "SOURCE", "STATUS", "BREAKER", "IN FLIGHT", "WHY")
	for i := range e.Instances {
		c := &e.Instances[i]
		t.row(c.ID, c.Circle, milliseconds(c.DistanceMS), c.DistanceSource, status(string(c.Status), c.Suspect, c.Evacuated),
			c.Breaker, c.InFlight, c.Reason)
	}
	return t.end()
}
