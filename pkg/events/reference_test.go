package events_test

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// reference is a record as encoding/json reads it.
type reference struct {
	ID          string            `json:"id"`
	Service     string            `json:"service"`
	Incarnation string            `json:"incarnation"`
	Endpoints   map[string]string `json:"endpoints"`
	Location    topology.Location `json:"location"`
	Status      events.Status     `json:"status"`
	Version     string            `json:"version"`
	Weight      *int              `json:"weight"`
	Metadata    map[string]string `json:"metadata"`
	Coordinate  json.RawMessage   `json:"coordinate"`
	Started     string            `json:"started"`
	TTL         string            `json:"ttl"`
}

// decodeReference is Decode, written for being right only.
func decodeReference(data []byte) (in *events.Instance, ok bool) {
	var r *reference
	if len(data) > events.MaxSize || !utf8.Valid(data) || json.Unmarshal(data, &r) != nil || r == nil {
		return nil, false
	}
	in = &events.Instance{
		ID: r.ID, Service: r.Service, Incarnation: r.Incarnation, Endpoints: r.Endpoints,
		Location: r.Location, Status: r.Status, Version: r.Version, Weight: events.DefaultWeight,
		Metadata: r.Metadata, TTL: events.DefaultTTL,
	}
	for _, s := range []*string{&in.Location.Region, &in.Location.Zone, &in.Location.Rack, &in.Location.Host} {
		if *s == "_" {
			*s = ""
		}
	}
	if in.Status == "" {
		in.Status = events.Up
	}
	if r.Weight != nil {
		in.Weight = *r.Weight
		switch {
		case in.Weight == 0:
			in.Weight = events.LastResort
		case in.Weight < 0:
			in.Weight = -2 // which is not valid
		}
	}
	if r.TTL != "" {
		var err error
		if in.TTL, err = time.ParseDuration(r.TTL); err != nil {
			return nil, false
		}
	}
	if r.Started != "" {
		if err := in.Started.UnmarshalText([]byte(r.Started)); err != nil {
			return nil, false
		}
	}
	if r.Coordinate != nil && !bytes.Equal(r.Coordinate, []byte("null")) {
		var c struct {
			Vec                       []float64
			Error, Adjustment, Height float64
		}
		if json.Unmarshal(r.Coordinate, &c) != nil || len(c.Vec) != 8 {
			return nil, false
		}
		in.Coordinate = &events.Coordinate{Vec: [8]float64(c.Vec), Error: c.Error, Adjustment: c.Adjustment, Height: c.Height}
	}
	return in, in.Validate() == nil
}
