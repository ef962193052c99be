package load

import (
	"bufio"
	"bytes"
	"os"
	"slices"
	"strconv"
)

// calls counts connections to the ports: those accepted, and those that wait
// for it.
func (m *meter) calls() (accepted, waiting int) {
	if len(m.ports) == 0 {
		return 0, 0
	}
	for _, name := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(m.proc(name))
		if err != nil {
			continue // no IPv6, or the process has ended
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			port, a, w := parseSocket(lines.Bytes())
			if a+w > 0 && slices.Contains(m.ports, port) {
				accepted, waiting = accepted+a, waiting+w
			}
		}
		f.Close()
	}
	const most = 1_000_000 // that a beat can tell
	return min(accepted, most), min(waiting, most)
}

// parseSocket reads a line of /proc/net/tcp: its local port, whether it is a
// connection that was accepted (1), and how many wait if it listens.
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
//	 0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 1529 …
//	 1: 0100007F:1F90 0100007F:B2C4 01 00000000:00000000 00:00000000 00000000     0        0 1530 …
//
// One that waits to be accepted stands there too, without an inode.
func parseSocket(line []byte) (port uint16, accepted, waiting int) {
	const (
		local, state, queues, inode = 1, 3, 4, 9
		established, listens        = "01", "0A"
	)
	fields := bytes.Fields(line)
	if len(fields) <= inode {
		return 0, 0, 0
	}
	switch string(fields[state]) {
	case established:
		if string(fields[inode]) != "0" {
			accepted = 1
		}
	case listens:
		_, rx, _ := bytes.Cut(fields[queues], []byte(":"))
		n, err := strconv.ParseUint(string(rx), 16, 31)
		if err != nil {
			return 0, 0, 0
		}
		waiting = int(n)
	default:
		return 0, 0, 0
	}
	_, p, _ := bytes.Cut(fields[local], []byte(":"))
	n, err := strconv.ParseUint(string(p), 16, 16)
	if err != nil {
		return 0, 0, 0
	}
	return uint16(n), accepted, waiting
}
