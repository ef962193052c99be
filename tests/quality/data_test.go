package main

import (
	"bytes"
	"compress/gzip"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// published is where the data is that lies beside a checkout.
const published = "../../../shared/data/latency"

const (
	table  = "from,a,b,c\na,8,2,3\nb,20,9,\nc,30,0,7\n"
	plain  = "0 0.1 0.2\n0.3 0 0.4\n0.5 0.6 0\n\n0 1 2\n3 0 4\n5 6 0\n"
	pings  = "source,destination,min,avg,max,mdev\n2,10,1,2,4,0.5\n10,2,1,3,5,0.5\n2,2,0.01,384,500,3\n10,7,5,6,9,1\n"
	weekly = `week_ending,window,scope,region,src,dst,rtt_ms
2024-08-18,w,region,,Dallas,London,100
2024-08-18,w,region,,London,Dallas,101
2024-08-18,w,region,,Dallas,Osaka,130
2024-08-18,w,zone,Dallas,d1,d1,0.1
2024-08-18,w,zone,Dallas,d1,d2,2
2024-08-18,w,zone,Dallas,d2,d1,2.5
2024-08-18,w,zone,Dallas,d1,d3,3
2024-08-18,w,zone,London,l1,l1,0.2
2024-08-11,w,region,,Dallas,London,90
2024-08-11,w,region,,Dallas,Osaka,130
2024-08-11,w,zone,Dallas,d1,d2,1
2024-08-11,w,zone,London,l1,l1,0.2
`
)

// rows are the round trips of a slice, with 0 for what is missing.
func rows(m *matrix) [][]float64 {
	var all [][]float64
	for a := range m.n {
		row := make([]float64, m.n)
		for b := range row {
			row[b], _ = m.expected(a, b)
			if math.IsNaN(row[b]) {
				row[b] = 0
			}
		}
		all = append(all, row)
	}
	return all
}

func TestEveryFormatIsToldByItsContent(t *testing.T) {
	for _, test := range []struct {
		name, text string
		scale      float64
		names      []string
		slices     [][][]float64
	}{
		{"a table: what is missing is taken from the way back", table, 1, []string{"a", "b", "c"}, [][][]float64{
			{{0.3, 2, 3}, {20, 0.3, 0}, {30, 0, 0.3}},
		}},
		{"plain matrices, in seconds", plain, 1000, []string{"0", "1", "2"}, [][][]float64{
			{{0.3, 100, 200}, {300, 0.3, 400}, {500, 600, 0.3}},
			{{0.3, 1000, 2000}, {3000, 0.3, 4000}, {5000, 6000, 0.3}},
		}},
		{"pings", pings, 1, []string{"2", "7", "10"}, [][][]float64{
			{{0.3, 0, 2}, {0, 0.3, 6}, {3, 6, 0.3}},
		}},
		{"weeks: zones inside a region, regions between them, no zone that is missing once", weekly, 1, []string{"d1", "d2", "l1", "Osaka"}, [][][]float64{
			{{0.3, 1, 90, 130}, {1, 0.3, 90, 130}, {90, 90, 0.2, 0}, {130, 130, 0, 0.3}},
			{{0.1, 2, 100, 130}, {2.5, 0.3, 100, 130}, {101, 101, 0.2, 0}, {130, 130, 0, 0.3}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, data := range map[string][]byte{"text": []byte(test.text), "packed": pack(t, test.text)} {
				d, err := read(bytes.NewReader(data), test.scale)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if !slices.Equal(d.names, test.names) {
					t.Errorf("%s: nodes %q, want %q", name, d.names, test.names)
				}
				if len(d.slices) != len(test.slices) {
					t.Fatalf("%s: %d slices, want %d", name, len(d.slices), len(test.slices))
				}
				for i, m := range d.slices {
					if got := rows(m); !slices.EqualFunc(got, test.slices[i], slices.Equal) {
						t.Errorf("%s: slice %d is\n%v, want\n%v", name, i, got, test.slices[i])
					}
				}
			}
		})
	}
}

func pack(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsNoDataIsRefusedWithAReason(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "0 nodes"},
		{"prose", "The quick brown\n", `"The" is no round trip`},
		{"half a gzip", "\x1f\x8b\x08", "unpack"},
		{"a single node", "from,a\na,1\n", "1 nodes"},
		{"a table without its last row", "from,a,b\na,1,2\n", "1 rows, want 2"},
		{"a table with a row too many", "from,a,b\na,1,2\nb,1,2\nc,1,2\n", "row 3"},
		{"a table in another order", "from,a,b\nb,1,2\na,1,2\n", "row 1"},
		{"a short row", "from,a,b\na,1\nb,1,2\n", "wrong number of fields"},
		{"a negative round trip", "from,a,b\na,1,-2\nb,1,2\n", `row 1: "-2" is no round trip`},
		{"not a number", "0 NaN\n1 0\n", `line 1: "NaN"`},
		{"a matrix cut off", "0 1\n1 0\n0 1\n", "1 lines in the last matrix, want 2"},
		{"a matrix with a ragged line", "0 1\n1 0 3\n", "line 2 has 3 columns, want 2"},
		{"an hour", "0 1\n4e6 0\n", "over an hour"},
		{"pings without avg", "source,destination,min,max,mdev\n1,2,1,2,3\n", "no column avg"},
		{"a pair twice", "source,destination,min,avg,max,mdev\n1,2,1,2,3,1\n1,2,1,2,3,1\n", "line 3: a second row"},
		{"an unknown scope", weekly + "2024-08-18,w,city,,a,b,1\n", `scope "city"`},
		{"a zone of two regions", weekly + "2024-08-18,w,zone,London,d1,l1,1\n", `zone "d1"`},
		{"too many nodes", strings.Repeat("1 ", maxNodes+1) + "\n", "nodes, want at most"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := read(strings.NewReader(test.text), 1)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q in it", err, test.want)
			}
		})
	}
}

func TestMoreThanIsAllowedIsNotUnpacked(t *testing.T) {
	_, err := read(&bounded{&endless{}, 3 << 20}, 1)
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v, want an error about the size", err)
	}
}

// endless are lines without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	return len(p), nil
}

func TestFilesOfASeriesHaveTheSameNodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := write("one", table), write("two", plain)
	if d, err := load([]string{one, one, one}, 1); err != nil || len(d.slices) != 3 {
		t.Errorf("%d slices, %v, want 3", len(d.slices), err)
	}
	if _, err := load([]string{one, two}, 1); err == nil || !strings.Contains(err.Error(), "are not those of") {
		t.Errorf("%v, want an error about the nodes", err)
	}
}

func TestThePublishedFilesAreRead(t *testing.T) {
	for _, test := range []struct {
		name          string
		scale         float64
		nodes, slices int
		a, b          string
		ms            float64 // in the first slice
	}{
		{"aws-regions-p50-1y.csv", 1, 32, 1, "us-east-1", "us-east-2", 14.668},
		{"wondernetwork-2020-07-avg-matrix.csv.gz", 1, 246, 1, "JoaoPessoa", "Melbourne", 288.722},
		{"wondernetwork-2020-07-pings.csv.gz", 1, 250, 1, "0", "1", 288.722},
		{"ibm-cloud-weekly-2024-08_2025-03.csv.gz", 1, 30, 33, "us-south-dal10-a", "us-south-dal12-a", 2.09},
		{"seattle99-t001-t024.txt.gz", 1000, 99, 24, "0", "1", 170},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(published, test.name)
			if test.name == "aws-regions-p50-1y.csv" {
				path = filepath.Join("testdata", test.name)
			} else if _, err := os.Stat(path); err != nil {
				t.Skipf("the data beside the checkout is missing: %v", err)
			}
			d, err := load([]string{path}, test.scale)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.names) != test.nodes || len(d.slices) != test.slices {
				t.Errorf("%d nodes in %d slices, want %d in %d", len(d.names), len(d.slices), test.nodes, test.slices)
			}
			ms, _ := d.slices[0].expected(slices.Index(d.names, test.a), slices.Index(d.names, test.b))
			if math.Abs(ms-test.ms) > 1e-6 {
				t.Errorf("%v ms from %s to %s, want %v", ms, test.a, test.b, test.ms)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{table, plain, pings, weekly, "", "from,", "from,a\n", "\xef\xbb\xbf" + table, "week_ending,window,scope,region,src,dst,rtt_ms\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := read(bytes.NewReader(data), 1)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		for i, m := range d.slices {
			if m.n != len(d.names) || len(m.mean) != m.n*m.n || m.spread != nil && len(m.spread) != len(m.mean) {
				t.Fatalf("slice %d is of %d nodes and has %d values, want %d nodes", i, m.n, len(m.mean), len(d.names))
			}
			for a := range m.n {
				for b := range m.n {
					there, ok := m.expected(a, b)
					_, back := m.expected(b, a)
					if ok != back || ok && !(there > 0 && there <= maxRTT) {
						t.Fatalf("from %d to %d %v %v, back %v", a, b, there, ok, back)
					}
					if rtt, drawn := m.draw(a, b, 0); drawn != ok || drawn && rtt <= 0 {
						t.Fatalf("from %d to %d took %v", a, b, rtt)
					}
				}
			}
		}
	})
}
