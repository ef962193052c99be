package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestPrintsATable(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"-seeds", "1", "-case", "^slower machines"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "slower machines near") || !strings.Contains(out.String(), "holds") {
		t.Errorf("exit %d: %s%s", code, out.String(), errs.String())
	}
}

func TestPrintsJSON(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"-seeds", "1", "-json", "-case", "^slower machines"}, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	var rows []struct {
		Case    string
		Figures map[string]struct{ Mean float64 }
	}
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil || len(rows) != 1 || rows[0].Figures["mean ms"].Mean < 60 {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestRefusesBadInput(t *testing.T) {
	for _, args := range [][]string{{"-case", "("}, {"-seeds", "0"}, {"-no"}, {"x"}} {
		var out, errs bytes.Buffer
		if code := run(args, &out, &errs); code != 2 || errs.Len() == 0 {
			t.Errorf("%q: exit %d: %s", args, code, errs.String())
		}
	}
}
