package topology

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxFile is the largest file that a detector reads, in bytes.
const maxFile = 1 << 20

// File is a detector that reads a file of labels as the Kubernetes Downward
// API writes it, a line key="value" for each, value quoted as in Go:
//
//	topology.kubernetes.io/region="us-east-1"
//	topology.kubernetes.io/zone="us-east-1a"
//
// A key is one of those two, else of the older
// failure-domain.beta.kubernetes.io/region and /zone, else plain region, zone,
// rack or host, in that order whatever their order in the file. Other labels
// are ignored, and so are empty lines and lines that begin with '#'. A value
// may be written without quotes. The file is read anew at each detection.
func File(path string) Detector {
	return Detector{"file " + path, func(context.Context) (Location, error) {
		data, err := readFile(path)
		if err != nil {
			return Location{}, err
		}
		return parseLabels(data)
	}}
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxFile {
		return "", fmt.Errorf("larger than %d bytes", maxFile)
	}
	return string(data), nil
}

// parseLabels reads the lines of [File].
func parseLabels(data string) (Location, error) {
	var l Location
	ranks := map[Level]int{} // of the label that was taken
	n := 0
	for line := range strings.Lines(data) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return Location{}, fmt.Errorf("line %d: want key=\"value\"", n)
		}
		level, rank := labelLevel(strings.TrimSpace(key))
		if rank == 0 {
			continue
		}
		value = strings.TrimSpace(value)
		if strings.HasPrefix(value, `"`) {
			unquoted, err := strconv.Unquote(value)
			if err != nil {
				return Location{}, fmt.Errorf("line %d: %s: want a quoted value, or one without quotes", n, level)
			}
			value = strings.TrimSpace(unquoted)
		}
		if value == "" || value == Unknown {
			continue
		}
		if rank == ranks[level] {
			return Location{}, fmt.Errorf("line %d: %s is there twice", n, key)
		}
		if rank > ranks[level] {
			*l.field(level), ranks[level] = value, rank
		}
	}
	return l, nil
}

// labelLevel is the level of a label, and its rank: a pod may have a plain label
// "zone" that means something else, so it has a low one. Rank 0 is no level.
func labelLevel(key string) (level Level, rank int) {
	switch key {
	case "topology.kubernetes.io/region":
		return Region, 3
	case "topology.kubernetes.io/zone":
		return Zone, 3
	case "failure-domain.beta.kubernetes.io/region":
		return Region, 2
	case "failure-domain.beta.kubernetes.io/zone":
		return Zone, 2
	case string(Region), string(Zone), string(Rack), string(Host):
		return Level(key), 1
	}
	return "", 0
}
