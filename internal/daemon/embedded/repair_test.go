//go:build faults && linux

package embedded_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon/embedded"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// smallDisk is a file system of 4 MB that goes with the test.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system of 4 MB needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a file system of 4 MB: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "ballast")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<16); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2] // the last bytes too
		}
	}
	return file
}

func TestItWritesAgainWhenTheDiskHasRoom(t *testing.T) {
	disk := smallDisk(t)
	log := new(testkit.Output)
	s := start(t, embedded.Options{StoreDir: filepath.Join(disk, "store"), Logger: log.Logger(slog.LevelInfo)})
	kv, near := bucket(t, s.URL(), nats.MaxReconnects(-1)), bucket(t, "", s.InProcess(), nats.MaxReconnects(-1))
	write := func(value string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := kv.PutString(ctx, "key", value)
		return err
	}
	if err := write("before"); err != nil || s.Err() != nil {
		t.Fatal(err, s.Err())
	}
	for range 2 {
		ballast := fill(t, disk)
		testkit.Eventually(t, "a write fails", func() bool { return write(strings.Repeat("x", 4000)) != nil })
		testkit.Eventually(t, "it says so", func() bool { return s.Err() != nil && strings.Contains(s.Err().Error(), "no space left on device") })
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, 10*time.Second, "it writes again", func() bool { return write("after") == nil })
		testkit.Eventually(t, "it says that, too", func() bool { return s.Err() == nil })
	}
	testkit.Eventually(t, "a connection in the process reads it", func() bool {
		e, err := near.Get(t.Context(), "key")
		return err == nil && string(e.Value()) == "after"
	})
	if n := strings.Count(log.String(), "started again, and writes to its store"); n != 2 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

func TestAStoreThatCannotBeWrittenIsOneLineAtTheStart(t *testing.T) {
	disk := smallDisk(t)
	for what, spoil := range map[string]func(){
		"no space left on device": func() { fill(t, disk) },
		"read-only file system": func() {
			if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		},
	} {
		spoil()
		log := new(testkit.Output)
		s, err := embedded.Start(t.Context(), embedded.Options{Listen: "127.0.0.1:0", StoreDir: disk, Logger: log.Logger(slog.LevelWarn)})
		if err == nil {
			_ = s.Close()
			t.Fatal("started")
		}
		if !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), "\n") || log.String() != "" {
			t.Errorf("error %q, logged %s", err, log)
		}
		if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=4m"); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(filepath.Join(disk, "ballast"))
	}
}
