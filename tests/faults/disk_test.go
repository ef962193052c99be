//go:build faults && linux

package faults_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/tests/faults"
)

// smallDisk is a file system of 24 MB that goes with the test.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system of 24 MB needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("mounting a file system of 24 MB: %v", err)
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

func TestTheDiskIsFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	w := faults.Start(t, faults.Options{Cluster: natstest.ClusterOptions{StoreDir: func(i int) string {
		if i == 0 {
			return filepath.Join(disk, "n1")
		}
		return filepath.Join(t.TempDir(), fmt.Sprintf("n%d", i+1))
	}}})
	w.Announce(50, long)
	w.Callers(3)

	w.Case("of the leader", faults.Bounds{Blind: 20 * time.Second, Heal: time.Minute}, func() {
		n1 := w.Nodes[0]
		w.StepDown(n1)
		var ballast string
		w.Break("the disk of n1 is full", func() { ballast = fill(t, disk) })
		w.Pass(25 * time.Second)
		w.Mend("there is room", func() { _ = os.Remove(ballast) })
		w.Terminate(n1)
		w.Restart(n1)
	})
}

func TestTheOnlyDiskIsFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	w := faults.Start(t, faults.Options{Cluster: natstest.ClusterOptions{Size: 1, StoreDir: func(int) string { return filepath.Join(disk, "n1") }}})
	w.Announce(50, long)
	w.Callers(2)

	w.Case("of the only server", faults.Bounds{Blind: 60 * time.Second, Heal: time.Minute}, func() {
		n1 := w.Nodes[0]
		var ballast string
		w.Break("the disk is full", func() { ballast = fill(t, disk) })
		w.Pass(20 * time.Second)
		newcomer := w.CallerAt(n1.URL)
		took := w.Until("a new caller sees the living instances", newcomer.Whole)
		w.Log("a new caller saw the living instances after %v", took)
		w.Mend("there is room", func() { _ = os.Remove(ballast) })
		w.Terminate(n1)
		w.Restart(n1)
	})
}

// corrupt flips a bit in the middle of every block of the bucket's stream.
func corrupt(t *testing.T, store string) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(store, "jetstream", "$G", "streams", "KV_proxima", "msgs", "*.blk"))
	if err != nil || len(blocks) == 0 {
		t.Fatalf("there are no blocks below %s: %v", store, err)
	}
	for _, block := range blocks {
		data, err := os.ReadFile(block)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) == 0 {
			continue
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(block, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADiskRots(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	store := func(i int) string { return filepath.Join(root, fmt.Sprintf("n%d", i+1)) }
	w := faults.Start(t, faults.Options{Cluster: natstest.ClusterOptions{StoreDir: store}})
	w.Announce(50, long)
	w.Callers(6)

	w.Case("under a follower", faults.Bounds{Blind: 15 * time.Second, Heal: time.Minute}, func() {
		for i, n := range w.Nodes {
			if n == w.Leader() {
				continue
			}
			w.Kill(n)
			corrupt(t, store(i))
			w.Note("a bit of each block of %s is flipped", n.Name)
			w.Restart(n)
			w.Agree()
			return
		}
	})
}
