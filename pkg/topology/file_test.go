package topology_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestFileReadsWhatTheDownwardAPIWrites(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		want       topology.Location
	}{
		{
			"labels of a pod",
			`app="user"
pod-template-hash="6d4cf56db6"
topology.kubernetes.io/region="us-east-1"
topology.kubernetes.io/zone="us-east-1a"
`,
			topology.Location{Region: "us-east-1", Zone: "us-east-1a"},
		},
		{
			"the older labels",
			"failure-domain.beta.kubernetes.io/region=\"r\"\nfailure-domain.beta.kubernetes.io/zone=\"z\"",
			topology.Location{Region: "r", Zone: "z"},
		},
		{
			"the best label wins, whatever the order",
			`zone="green"
failure-domain.beta.kubernetes.io/zone="old"
topology.kubernetes.io/zone="new"
failure-domain.beta.kubernetes.io/region="old"
region="blue"
`,
			topology.Location{Region: "old", Zone: "new"},
		},
		{
			"a better label without a value does not hide the next",
			"topology.kubernetes.io/zone=\"\"\ntopology.kubernetes.io/region=_\nzone=\"a\"\nregion=\"r\"\n",
			topology.Location{Region: "r", Zone: "a"},
		},
		{
			"plain lines, comments, odd spaces, no quotes, Windows line ends",
			"# where\r\n\r\n region = us-east-1\r\nzone=us-east-1a\r\n\track=\"r 12\"\r\nhost=node-3\r\n",
			topology.Location{Region: "us-east-1", Zone: "us-east-1a", Rack: "r 12", Host: "node-3"},
		},
		{
			"escapes",
			`rack="a\"b\\cé"` + "\nkubectl.kubernetes.io/last=\"{\\\"zone\\\":\\\"x\\\"}\\nzone=y\\n\"\n",
			topology.Location{Rack: `a"b\cé`},
		},
		{"values of other labels are not looked at", "note=\"unterminated\nzone=\"a\"", topology.Location{Zone: "a"}},
		{"an equals sign in the value", `rack="a=b"`, topology.Location{Rack: "a=b"}},
		{"nothing", "", topology.Location{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := topology.Detect(t.Context(), topology.File(write(t, tt.data)))
			if d.Location != tt.want || d.Errors != nil {
				t.Errorf("got %+v, %v, want %+v", d.Location, d.Errors, tt.want)
			}
		})
	}
}

func TestFileNamesTheLineThatIsWrong(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"no key", "region=\"r\"\nus-east-1a\n", `line 2: want key="value"`},
		{"a quote that does not end", "\nzone=\"a\n", "line 2: zone: want a quoted value, or one without quotes"},
		{"text after the quote", "zone=\"a\"b", "line 1: zone: want a quoted value"},
		{"twice", "zone=a\nregion=r\nzone=b\n", "line 3: zone is there twice"},
		{"not a name", "topology.kubernetes.io/zone=\"a.b\"", `zone "a.b": want 1 to 63 of`},
		{"too large", strings.Repeat("#", 1<<20+1), "larger than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.data)
			d := topology.Detect(t.Context(), topology.File(path))
			if len(d.Errors) != 1 || !strings.HasPrefix(d.Errors[0].Error(), "topology: file "+path+": "+tt.want) {
				t.Errorf("errors are %v, want one with %q", d.Errors, tt.want)
			}
			if d.Location != (topology.Location{}) {
				t.Errorf("got %+v from a file that is wrong", d.Location)
			}
		})
	}
}

func TestAMissingFileIsAnErrorThatNamesIt(t *testing.T) {
	d := topology.Detect(t.Context(), topology.File(filepath.Join(t.TempDir(), "labels")), topology.File(t.TempDir()))
	if len(d.Errors) != 2 || !errors.Is(d.Errors[0], fs.ErrNotExist) {
		t.Errorf("errors are %v", d.Errors)
	}
}

func TestFileIsReadAtEachDetection(t *testing.T) {
	path := write(t, "zone=a")
	file := topology.File(path)
	for _, zone := range []string{"a", "b"} {
		if err := os.WriteFile(path, []byte("zone="+zone), 0o600); err != nil {
			t.Fatal(err)
		}
		if d := topology.Detect(t.Context(), file); d.Location.Zone != zone || d.Won[topology.Zone] != "file "+path {
			t.Errorf("got %+v, want zone %s", d, zone)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("topology.kubernetes.io/region=\"us-east-1\"\ntopology.kubernetes.io/zone=\"us-east-1a\"\n")
	f.Add("# c\n\nregion = r\r\nzone=\"\\u00e9\"\nrack=\"a\\\"\"\nhost=`h`")
	f.Add("zone=\"a\nzone")
	f.Fuzz(func(t *testing.T, data string) {
		l, err := topology.ParseLabels(data)
		if err != nil && l != (topology.Location{}) {
			t.Fatalf("refused and still %+v", l)
		}
		for _, v := range []string{l.Region, l.Zone, l.Rack, l.Host} {
			if v == topology.Unknown || v != strings.TrimSpace(v) {
				t.Fatalf("%q gives the value %q", data, v)
			}
		}
		if err != nil {
			return
		}
		plain, err := topology.ParseLabels("# again\n" + data + "\nother=\"label\"\n")
		if err != nil || plain != l {
			t.Fatalf("%q is %+v, with another label %+v, %v", data, l, plain, err)
		}
	})
}

func write(t testing.TB, data string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
