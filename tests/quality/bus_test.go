package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// heard subscribes, and returns what has come so far.
func heard(t *testing.T, b *bus, subject string) (sofar func() []string, unsubscribe func()) {
	t.Helper()
	var all []string
	unsubscribe, err := b.Subscribe(t.Context(), subject, func(subject string, data []byte, _ time.Duration) { all = append(all, subject+"="+string(data)) })
	if err != nil {
		t.Fatal(err)
	}
	return func() []string {
		synctest.Wait()
		return all
	}, unsubscribe
}

func publish(t *testing.T, b *bus, subject, data string) {
	t.Helper()
	if err := b.Publish(subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func TestSubjectsMatchAsInNATS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		want := map[string][]string{
			"a.b.c": {"a.b.c"},
			"a.*.c": {"a.b.c", "a.x.c"},
			"a.>":   {"a.b.c", "a.x.c", "a.b"},
			"a.b.>": {"a.b.c"},
			"*.*":   {"a.b"},
			">":     {"a.b.c", "a.x.c", "a.b", "b"},
			"c":     nil,
		}
		heardOf := make(map[string]func() []string)
		for pattern := range want {
			sofar, unsubscribe := heard(t, b, pattern)
			heardOf[pattern] = sofar
			defer unsubscribe()
		}
		for _, subject := range []string{"a.b.c", "a.x.c", "a.b", "b"} {
			publish(t, b, subject, "1")
		}
		for pattern, subjects := range want {
			var messages []string
			for _, s := range subjects {
				messages = append(messages, s+"=1")
			}
			if got := heardOf[pattern](); !slices.Equal(got, messages) {
				t.Errorf("%s heard %q, want %q", pattern, got, messages)
			}
			// Later subscribers get the same.
			late, unsubscribe := heard(t, b, pattern)
			if got := late(); !slices.Equal(got, messages) {
				t.Errorf("%s heard %q later, want %q", pattern, got, messages)
			}
			unsubscribe()
		}
	})
}

func TestALateSubscriberHearsTheLastOfEachSubjectForTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		publish(t, b, "s.a", "old")
		publish(t, b, "s.b", "1")
		time.Sleep(time.Minute)
		publish(t, b, "s.a", "new")
		listen := func() []string {
			var all []string
			unsubscribe, err := b.Subscribe(t.Context(), "s.*", func(subject string, data []byte, _ time.Duration) { all = append(all, subject+"="+string(data)) })
			if err != nil {
				t.Fatal(err)
			}
			defer unsubscribe()
			return slices.Clone(all) // they have come before Subscribe returns
		}
		if got, want := listen(), []string{"s.b=1", "s.a=new"}; !slices.Equal(got, want) {
			t.Errorf("heard %q, want %q", got, want)
		}
		time.Sleep(time.Minute)
		if got, want := listen(), []string{"s.a=new"}; !slices.Equal(got, want) {
			t.Errorf("heard %q after two minutes, want %q", got, want)
		}
		b.wait()
	})
}

func TestHandlersMayPublishAndUnsubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		// A handler that publishes, and one that ends itself.
		stop, err := b.Subscribe(t.Context(), "a", func(_ string, data []byte, _ time.Duration) { publish(t, b, "b", string(data)) })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		calls := 0
		var end func()
		end, err = b.Subscribe(t.Context(), "b", func(string, []byte, time.Duration) {
			calls++
			end()
		})
		if err != nil {
			t.Fatal(err)
		}
		data := []byte("1")
		sofar, unsubscribe := heard(t, b, "b")
		defer unsubscribe()
		if err := b.Publish("a", data); err != nil {
			t.Fatal(err)
		}
		data[0] = '2' // it was copied
		if got := sofar(); !slices.Equal(got, []string{"b=1"}) {
			t.Errorf("heard %q, want b=1", got)
		}
		publish(t, b, "b", "3")
		if got := sofar(); len(got) != 2 || calls != 1 {
			t.Errorf("heard %q, and %d calls after the end of a subscription", got, calls-1)
		}
		for _, subject := range []string{"", "a..b", "a.*", ">", "a."} {
			if b.Publish(subject, nil) == nil {
				t.Errorf("published to %q", subject)
			}
		}
		for _, subject := range []string{"", "a..b", ">.a", "a."} {
			if _, err := b.Subscribe(t.Context(), subject, func(string, []byte, time.Duration) {}); err == nil {
				t.Errorf("subscribed to %q", subject)
			}
		}
	})
}
