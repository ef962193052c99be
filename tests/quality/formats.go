package main

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// readTable reads a CSV matrix with a header row "from,<name>,…".
func readTable(r io.Reader, scale float64) (dataset, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return dataset{}, err
	}
	names := slices.Clone(header[1:])
	if err := checkNodes(len(names)); err != nil {
		return dataset{}, err
	}
	var mean []float64
	for line := 0; ; line++ {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			if line != len(names) {
				return dataset{}, fmt.Errorf("%d rows, want %d as there are columns", line, len(names))
			}
			break
		}
		if err != nil {
			return dataset{}, err
		}
		if line >= len(names) || row[0] != names[line] {
			return dataset{}, fmt.Errorf("row %d is from %.40q, want the names in the order of the columns", line+1, row[0])
		}
		if mean, err = appendRow(mean, row[1:], scale); err != nil {
			return dataset{}, fmt.Errorf("row %d: %w", line+1, err)
		}
	}
	return dataset{names, []*matrix{{n: len(names), mean: mean}}}, nil
}

func appendRow(mean []float64, row []string, scale float64) ([]float64, error) {
	for _, text := range row {
		ms, err := parse(text, scale)
		if err != nil {
			return nil, err
		}
		mean = append(mean, ms)
	}
	return mean, nil
}

// readPlain reads square matrices of numbers, one after another.
func readPlain(r io.Reader, scale float64) (dataset, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	var d dataset
	var mean []float64
	n, cells := 0, 0
	for line := 1; lines.Scan(); line++ {
		row := strings.Fields(lines.Text())
		if len(row) == 0 {
			continue
		}
		if n == 0 {
			n = len(row)
			if err := checkNodes(n); err != nil {
				return dataset{}, err
			}
		}
		if len(row) != n {
			return dataset{}, fmt.Errorf("line %d has %d columns, want %d", line, len(row), n)
		}
		if cells += n; cells > maxCells {
			return dataset{}, fmt.Errorf("more than %d round trips", maxCells)
		}
		var err error
		if mean, err = appendRow(mean, row, scale); err != nil {
			return dataset{}, fmt.Errorf("line %d: %w", line, err)
		}
		if len(mean) == n*n {
			d.slices = append(d.slices, &matrix{n: n, mean: mean})
			mean = nil
		}
	}
	if err := lines.Err(); err != nil {
		return dataset{}, err
	}
	if len(mean) > 0 {
		return dataset{}, fmt.Errorf("%d lines in the last matrix, want %d as there are columns", len(mean)/n, n)
	}
	for i := range n {
		d.names = append(d.names, strconv.Itoa(i))
	}
	return d, nil
}

// each calls f with the named columns of every row of a CSV file.
func each(r io.Reader, columns []string, f func(row []string) error) error {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return err
	}
	at := make([]int, len(columns))
	for i, c := range columns {
		if at[i] = slices.Index(header, c); at[i] < 0 {
			return fmt.Errorf("the header has no column %s", c)
		}
	}
	values := make([]string, len(columns))
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i, c := range at {
			values[i] = row[c]
		}
		if err := f(values); err != nil {
			line, _ := rows.FieldPos(0)
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// readPings reads what ping says of each pair.
func readPings(r io.Reader, scale float64) (dataset, error) {
	type pair struct{ from, to string }
	type values struct {
		mean float64
		spread
	}
	pairs := make(map[pair]values)
	nodes := make(map[string]int)
	err := each(r, []string{"source", "destination", "min", "avg", "max", "mdev"}, func(row []string) error {
		var v [4]float64
		for i, text := range row[2:] {
			var err error
			if v[i], err = parse(text, scale); err != nil {
				return err
			}
		}
		p := pair{strings.Clone(row[0]), strings.Clone(row[1])}
		if _, ok := pairs[p]; ok {
			return fmt.Errorf("a second row from %.40q to %.40q", p.from, p.to)
		}
		nodes[p.from], nodes[p.to] = 0, 0
		pairs[p] = values{v[1], spread{float32(v[0]), float32(v[2]), float32(v[3])}}
		return checkNodes(len(nodes))
	})
	if err != nil {
		return dataset{}, err
	}
	d := dataset{names: slices.SortedFunc(maps.Keys(nodes), byNumber)}
	for i, name := range d.names {
		nodes[name] = i
	}
	m := newMatrix(len(nodes))
	m.spread = make([]spread, len(m.mean))
	for p, v := range pairs {
		i := nodes[p.from]*m.n + nodes[p.to]
		m.mean[i], m.spread[i] = v.mean, v.spread
	}
	d.slices = []*matrix{m}
	return d, nil
}

// byNumber orders 2 before 10.
func byNumber(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// week is one snapshot of the weekly form.
type week struct {
	regions map[[2]string]float64
	zones   map[[2]string]float64
}

// readWeeks reads the weekly form: between zones of a region, and inside a
// zone, the zones' values hold, else the regions'. The nodes are the zones that
// every week lists, and the regions without any.
func readWeeks(r io.Reader, scale float64) (dataset, error) {
	weeks := make(map[string]*week)
	regionOf := make(map[string]string) // of nodes
	hasZones := make(map[string]bool)
	regions := make(map[string]bool)
	err := each(r, []string{"week_ending", "scope", "region", "src", "dst", "rtt_ms"}, func(row []string) error {
		ms, err := parse(row[5], scale)
		if err != nil {
			return err
		}
		w := weeks[row[0]]
		if w == nil {
			w = &week{make(map[[2]string]float64), make(map[[2]string]float64)}
			weeks[strings.Clone(row[0])] = w
		}
		region, pair := strings.Clone(row[2]), [2]string{strings.Clone(row[3]), strings.Clone(row[4])}
		switch row[1] {
		case "region":
			w.regions[pair] = ms
			regions[pair[0]], regions[pair[1]] = true, true
		case "zone":
			w.zones[pair] = ms
			for _, zone := range pair {
				if was, ok := regionOf[zone]; ok && was != region {
					return fmt.Errorf("zone %.40q is in %.40q and %.40q", zone, was, region)
				}
				regionOf[zone] = region
			}
			hasZones[region] = true
		default:
			return fmt.Errorf("scope %.40q, want region or zone", row[1])
		}
		if err := checkNodes(len(regionOf) + len(regions)); err != nil {
			return err
		}
		if n := len(regionOf); len(weeks)*n*n > maxCells {
			return fmt.Errorf("%d weeks of %d zones are too many", len(weeks), n)
		}
		return nil
	})
	if err != nil {
		return dataset{}, err
	}
	for region := range regions {
		if !hasZones[region] {
			regionOf[region] = region
		}
	}
	for _, w := range weeks {
		listed := make(map[string]bool)
		for pair := range w.zones {
			listed[pair[0]], listed[pair[1]] = true, true
		}
		for node, region := range regionOf {
			if hasZones[region] && !listed[node] {
				delete(regionOf, node)
			}
		}
	}
	d := dataset{names: slices.SortedFunc(maps.Keys(regionOf), func(a, b string) int {
		return cmp.Or(cmp.Compare(regionOf[a], regionOf[b]), cmp.Compare(a, b))
	})}
	n := len(d.names)
	if len(weeks)*n*n > maxCells {
		return dataset{}, fmt.Errorf("%d weeks of %d nodes are too many", len(weeks), n)
	}
	for _, date := range slices.Sorted(maps.Keys(weeks)) {
		w, m := weeks[date], newMatrix(n)
		for i, from := range d.names {
			for j, to := range d.names {
				known, pair := w.regions, [2]string{regionOf[from], regionOf[to]}
				if regionOf[from] == regionOf[to] {
					known, pair = w.zones, [2]string{from, to}
				}
				ms, ok := known[pair]
				if !ok {
					ms = math.NaN()
				}
				m.mean[i*n+j] = ms
			}
		}
		d.slices = append(d.slices, m)
	}
	return d, nil
}
