package topology_test

import (
	"bytes"
	"log/slog"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestHereLogsWhereItIsOnceForEachPlace(t *testing.T) {
	for _, prefix := range []string{"PROXIMA", "SERVICE", "CLIENT"} {
		for _, level := range []string{"_REGION", "_ZONE", "_RACK", "_HOST"} {
			t.Setenv(prefix+level, "")
		}
	}
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	const zone = "a"
	lines := func() (all []string) {
		for _, found := range regexp.MustCompile(`(?m)^time=\S+ (.*)$`).FindAllStringSubmatch(out.String(), -1) {
			all = append(all, found[1])
		}
		out.Reset()
		return all
	}
	topology.Forget()
	for _, tt := range []struct {
		name, value string
		want        topology.Location
		line        string
	}{
		{"PROXIMA_HOST", "", topology.Location{}, `level=INFO msg="it is not known where this process runs, so nothing is near it: set PROXIMA_REGION and PROXIMA_ZONE"`},
		{"SERVICE_ZONE", zone, topology.Location{Zone: zone}, `level=INFO msg="this process runs where its environment says" location=_/` + zone + ` variables=SERVICE_ZONE`},
		{"PROXIMA_REGION", "r", topology.Location{Region: "r", Zone: zone}, `level=INFO msg="this process runs where its environment says" location=r/` + zone + ` variables="PROXIMA_REGION, SERVICE_ZONE"`},
		{"PROXIMA_RACK", "a/b", topology.Location{Region: "r", Zone: zone}, `level=WARN msg="a location variable is not valid and is ignored" location=r/` + zone +
			` error="topology: env PROXIMA: rack \"a/b\": want at most 255 bytes of printable text without '/'"`},
	} {
		t.Setenv(tt.name, tt.value)
		for range 3 {
			if got := topology.Here(t.Context(), log); got != tt.want {
				t.Errorf("%s=%s: %v, want %v", tt.name, tt.value, got, tt.want)
			}
		}
		if diff := cmp.Diff([]string{tt.line}, lines()); diff != "" {
			t.Errorf("%s=%s (-want +got):\n%s", tt.name, tt.value, diff)
		}
	}
}
