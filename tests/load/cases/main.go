package cases

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"text/tabwriter"
)

// Main is the program: it runs the cases and prints a table. 0: all hold; 1: one does not;
// 2: bad input.
func Main(args []string, stdout, stderr io.Writer, p Picker) int {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.SetOutput(stderr)
	seeds := f.Int("seeds", 5, "run each case with so many seeds")
	only := f.String("case", "", "only cases whose name matches this regular expression")
	asJSON := f.Bool("json", false, "print JSON")
	series := f.Bool("series", false, "print the share that is away, second by second, with the first seed")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	match, err := regexp.Compile(*only)
	if err != nil || *seeds < 1 || f.NArg() > 0 {
		fmt.Fprintln(stderr, "load: want a regular expression, at least one seed, and no argument")
		return 2
	}
	var cases []Case
	for _, c := range All() {
		if match.MatchString(c.Name) {
			cases = append(cases, c)
		}
	}
	rows := RunAll(cases, p, *seeds, true)
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(rows)
	} else {
		err = table(stdout, rows)
		if *series {
			for _, r := range rows {
				fmt.Fprintf(stdout, "%s: %.2f\n", r.Case, r.Series[1])
			}
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "load:", err)
		return 1
	}
	for _, r := range rows {
		if len(r.Failed) > 0 {
			return 1
		}
	}
	return 0
}

// RunAll runs cases with the seeds from 1 on, as many at a time as there are processors.
func RunAll(cases []Case, p Picker, seeds int, compare bool) (rows []Row) {
	list := make([]uint64, seeds)
	for i := range list {
		list[i] = uint64(i + 1)
	}
	perCase := make([][]Row, len(cases))
	var wait sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i := range cases {
		wait.Go(func() {
			slots <- struct{}{}
			perCase[i] = cases[i].Run(p, list, compare)
			<-slots
		})
	}
	wait.Wait()
	for _, r := range perCase {
		rows = append(rows, r...)
	}
	return rows
}

// table prints the mean of the seeds, the half width of its 95 % confidence interval where
// there is room for it, and the worst seed.
func table(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "case\taway %\tworst\tmean ms\tworst\tif all stay\tp50\tp99\tworst\trejected %\tif all stay\tturns\tdeviation %\tverdict\t")
	for _, r := range rows {
		f := r.Figures
		verdict := "holds"
		switch {
		case len(r.Failed) > 0:
			verdict = "FAILS"
		case r.Note != "":
			verdict = "unsolved"
		}
		fmt.Fprintf(t, "%s\t%.1f ±%.1f\t%.1f\t%.1f ±%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.0f\t%.1f\t%s\t\n", r.Case,
			f[Away].Mean, f[Away].Plus, f[Away].Worst, f[Mean].Mean, f[Mean].Plus, f[Mean].Worst, r.Stay[Mean],
			f[P50].Mean, f[P99].Mean, f[P99].Worst, f[Rejected].Worst, r.Stay[Rejected], f[Turns].Worst, f[Deviation].Worst, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		if len(r.Failed) > 0 {
			if _, err := fmt.Fprintf(w, "%s: %s\n", r.Case, strings.Join(r.Failed, "; ")); err != nil {
				return err
			}
		}
	}
	return nil
}
