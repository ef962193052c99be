package demo

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// roundTrips are the median round trips between the regions of AWS over one year, in
// ms, from row to column, measured and published by CloudPing.co. The diagonal is
// within a region.
//
//go:embed aws-regions-p50-1y.csv
var roundTrips string

const service = "user"

// member is one instance of the demo's service.
type member struct {
	ID       string            `json:"id"`
	Location topology.Location `json:"location"`
}

func at(region, zone string) topology.Location {
	return topology.Location{Region: region, Zone: region + zone}
}

var (
	// caller is the location of the caller.
	caller = at("eu-central-1", "a")
	// members are in three zones of two near regions, and in a far region.
	members = []member{
		{"user-1", at("eu-central-1", "a")},
		{"user-2", at("eu-central-1", "a")},
		{"user-3", at("eu-central-1", "b")},
		{"user-4", at("eu-west-3", "a")},
		{"user-5", at("eu-west-3", "a")},
		{"user-6", at("ap-southeast-2", "a")},
	}
)

// matrix is the round trip from one region to another.
type matrix map[[2]string]time.Duration

func readMatrix(text string) (matrix, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("demo: read the matrix of round trips: %w", err)
	}
	m := matrix{}
	for _, row := range rows[1:] {
		for i, cell := range row[1:] {
			ms, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				return nil, fmt.Errorf("demo: round trip from %s to %s: %w", row[0], rows[0][i+1], err)
			}
			m[[2]string{row[0], rows[0][i+1]}] = time.Duration(ms * float64(time.Millisecond))
		}
	}
	return m, nil
}

// between is the delay to be added to that of this machine: none inside a zone.
func (m matrix) between(a, b topology.Location) time.Duration {
	if a.Zone == b.Zone {
		return 0
	}
	return m[[2]string{a.Region, b.Region}]
}
