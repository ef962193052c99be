package probe

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// kernelRTT is the moving average of the round trips of a connection, and the least
// of the last minutes; ok if the connection has sent data, and got an
// acknowledgement, within connEvery.
func kernelRTT(conn *net.TCPConn) (average, least time.Duration, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	var info *unix.TCPInfo
	cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if cerr != nil || err != nil {
		return 0, 0, false
	}
	average = time.Duration(info.Rtt) * time.Microsecond
	least = time.Duration(info.Min_rtt) * time.Microsecond
	const recent = uint32(connEvery / time.Millisecond)
	ok = info.Last_data_sent < recent && info.Last_ack_recv < recent &&
		least > 0 && least <= average && average <= MaxRTT
	return average, least, ok
}
