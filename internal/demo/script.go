package demo

import (
	"context"
	"fmt"
	"time"
)

// scene is one step of the script.
type scene struct {
	at   float64 // share of the length of the script
	what string  // as it is printed
	ids  []string
	do   func(*process) error
}

// script is repeated until the demo ends.
func script() []scene {
	return []scene{
		{0.10, "kill -9", []string{"user-1"}, (*process).kill},
		{0.25, "start", []string{"user-1"}, (*process).start},
		{0.35, "pause (SIGSTOP)", []string{"user-2"}, (*process).pause},
		{0.55, "resume (SIGCONT)", []string{"user-2"}, (*process).resume},
		{0.65, "drain (SIGTERM) the whole zone:", []string{"user-1", "user-2"}, (*process).drain},
		{0.75, "kill -9, the last of the region:", []string{"user-3"}, (*process).kill},
		{0.86, "start", []string{"user-1", "user-2", "user-3"}, (*process).start},
	}
}

// play runs the script until ctx ends; each run takes length.
func (d *demo) play(ctx context.Context, length time.Duration) error {
	for {
		began := time.Now()
		for _, s := range script() {
			if !wait(ctx, time.Until(began.Add(time.Duration(s.at*float64(length))))) {
				return nil
			}
			d.tally.event(s.what, s.ids)
			for _, id := range s.ids {
				if err := s.do(d.process(id)); err != nil {
					return err
				}
			}
		}
		if !wait(ctx, time.Until(began.Add(length))) {
			return nil
		}
	}
}

func (d *demo) process(id string) *process {
	for _, p := range d.processes {
		if p.ID == id {
			return p
		}
	}
	panic(fmt.Sprintf("demo: the script names %s, which does not exist", id))
}

// wait returns true after d, false when ctx has ended before.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
