package load

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// limited finds the cgroup (v2) nearest to the process for which the file has a
// limit. The limit in cpu.max is in processors, others are as they are written.
func (m *meter) limited(file string) (dir string, limit float64, ok bool) {
	p, err := m.proc.Proc(m.pid)
	if err != nil {
		return "", 0, false
	}
	cgroups, err := p.Cgroups()
	if err != nil {
		return "", 0, false
	}
	for _, c := range cgroups {
		if c.HierarchyID != 0 { // v1
			continue
		}
		top := filepath.Join(m.root, "sys/fs/cgroup")
		// A container may see only its own part of the tree, as the top. Then
		// the directories that the path names do not exist.
		for dir := filepath.Join(top, filepath.Join("/", c.Path)); len(dir) >= len(top); dir = filepath.Dir(dir) {
			if limit, ok := readLimit(filepath.Join(dir, file)); ok {
				return dir, limit, true
			}
		}
	}
	return "", 0, false
}

// readLimit reads a number, or one number per another. "max" is no limit.
func readLimit(file string) (limit float64, ok bool) {
	data, _ := os.ReadFile(file)
	n, per := uint64(0), uint64(1)
	read, _ := fmt.Sscan(string(data), &n, &per)
	return float64(n) / float64(per), read > 0 && n > 0 && per > 0
}

// number reads the number at the beginning of the first line that has the
// prefix, which is left out.
func number(file, prefix string) (n float64, ok bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if text, found := strings.CutPrefix(line, prefix); found {
			n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			return float64(n), err == nil
		}
	}
	return 0, false
}
