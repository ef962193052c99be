package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// What a file may take: it is from outside.
const (
	maxBytes = 128 << 20 // unpacked
	maxNodes = 2000
	maxCells = 1 << 25 // of all matrices together
	maxRTT   = 3600e3  // milliseconds
)

// sameNode is the round trip inside a node, in milliseconds, where the file
// has none that can be believed.
const sameNode = 0.3

// dataset is what the files say: the round trips between the same nodes in one
// or more consecutive slices of time.
type dataset struct {
	names  []string
	slices []*matrix
}

// matrix has the round trips of one slice of time in milliseconds, row = from.
// NaN is missing.
type matrix struct {
	n    int
	mean []float64 // what is to be expected: the truth
	// spread is how the round trips of a pair scatter; nil: the file does not
	// say.
	spread []spread
}

// spread is what ping says about the round trips of one pair, in milliseconds.
type spread struct{ min, max, mdev float32 }

func newMatrix(n int) *matrix {
	m := &matrix{n: n, mean: make([]float64, n*n)}
	for i := range m.mean {
		m.mean[i] = math.NaN()
	}
	return m
}

// expected is the round trip to expect from a to b, false when the file knows
// none.
func (m *matrix) expected(a, b int) (ms float64, ok bool) {
	ms = m.mean[a*m.n+b]
	return ms, !math.IsNaN(ms)
}

// complete fills what is missing from a to b with what is known from b to a.
// The round trip inside a node is sameNode if it is not to be believed.
func (m *matrix) complete(diagonal bool) {
	for a := range m.n {
		if i := a*m.n + a; !diagonal || math.IsNaN(m.mean[i]) {
			m.mean[i] = sameNode
			if m.spread != nil {
				m.spread[i] = spread{}
			}
		}
		for b := range a {
			i, j := a*m.n+b, b*m.n+a
			if math.IsNaN(m.mean[i]) {
				i, j = j, i
			}
			if math.IsNaN(m.mean[j]) {
				m.mean[j] = m.mean[i]
				if m.spread != nil {
					m.spread[j] = m.spread[i]
				}
			}
		}
	}
}

// format is a kind of file.
type format struct {
	header   string // what the first line begins with
	diagonal bool   // round trips inside a node are measured as the others are
	read     func(r io.Reader, scale float64) (dataset, error)
}

var formats = []format{
	{"week_ending,window,scope,region,src,dst,rtt_ms", true, readWeeks},
	{"source,destination,", false, readPings},
	{"from,", false, readTable},
	{"", false, readPlain},
}

// load reads files of consecutive slices of time; scale is a unit of theirs in
// milliseconds.
func load(paths []string, scale float64) (dataset, error) {
	var all dataset
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return dataset{}, err
		}
		d, err := read(f, scale)
		_ = f.Close()
		if err != nil {
			return dataset{}, fmt.Errorf("%s: %w", path, err)
		}
		if all.names == nil {
			all.names = d.names
		}
		if !slices.Equal(all.names, d.names) {
			return dataset{}, fmt.Errorf("the nodes of %s are not those of %s", path, paths[0])
		}
		all.slices = append(all.slices, d.slices...)
		if n := len(all.names); len(all.slices)*n*n > maxCells {
			return dataset{}, fmt.Errorf("%s: too many slices, %d of %d nodes", path, len(all.slices), n)
		}
	}
	return all, nil
}

// read reads one file of any format, packed or not.
func read(r io.Reader, scale float64) (dataset, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		packed, err := gzip.NewReader(in)
		if err != nil {
			return dataset{}, fmt.Errorf("unpack: %w", err)
		}
		in = bufio.NewReaderSize(packed, 1<<16)
	}
	in = bufio.NewReaderSize(&bounded{in, maxBytes}, 1<<16)
	if mark, _ := in.Peek(3); string(mark) == "\xef\xbb\xbf" {
		_, _ = in.Discard(3)
	}
	head, err := in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return dataset{}, fmt.Errorf("read: %w", err)
	}
	for _, f := range formats {
		if !strings.HasPrefix(string(head), f.header) {
			continue
		}
		d, err := f.read(in, scale)
		if err != nil {
			return dataset{}, err
		}
		if len(d.names) < 2 {
			return dataset{}, fmt.Errorf("%d nodes, want at least 2", len(d.names))
		}
		for _, m := range d.slices {
			m.complete(f.diagonal)
		}
		return d, nil
	}
	panic("unreachable: the last format fits all")
}

// bounded fails when there is more to read than it allows.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("more than %d MiB", maxBytes>>20)
	}
	return n, err
}

// parse reads one round trip, NaN if it is missing.
func parse(text string, scale float64) (ms float64, err error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return math.NaN(), nil
	}
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || v < 0 || math.IsNaN(v):
		return 0, fmt.Errorf("%.40q is no round trip", text)
	case v*scale > maxRTT:
		return 0, fmt.Errorf("a round trip of %.40s is over an hour", text)
	case v == 0:
		return math.NaN(), nil
	}
	return v * scale, nil
}

func checkNodes(n int) error {
	if n > maxNodes {
		return fmt.Errorf("%d nodes, want at most %d", n, maxNodes)
	}
	return nil
}
