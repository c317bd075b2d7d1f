package responsesproxygate

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// checkListener makes sure that the port, or the socket, is held by the user
// who runs the gate's process. Any user may take a port that became free.
func checkListener(info serverInfo) error {
	gateUser, err := userOfProcess(info.PID)
	if err != nil {
		return err
	}
	// Only root and we ourselves can have written a file that is ours. A
	// process of anybody else has the id of a gate that is gone.
	if gateUser != "0" && gateUser != strconv.Itoa(os.Geteuid()) {
		return fmt.Errorf("process %d now belongs to another user (uid %s)", info.PID, gateUser)
	}
	place, holder := fmt.Sprintf("port %d", info.Port), ""
	if info.Socket != "" {
		place = "socket " + info.Socket
		holder, err = userOfSocket(info.Socket)
	} else {
		holder, err = userOfPort(info.Port)
	}
	if err != nil {
		return err
	}
	if holder != gateUser {
		return fmt.Errorf("%s is now held by another user (uid %s) than process %d (uid %s)", place, holder, info.PID, gateUser)
	}
	return nil
}

// userOfProcess is the effective uid of a process, from proc_pid_status(5).
func userOfProcess(pid int) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", fmt.Errorf("process %d is gone", pid)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "Uid:" {
			return fields[2], nil
		}
	}
	return "", fmt.Errorf("process %d: no uid in its status", pid)
}

// userOfSocket is the uid of whoever made a unix socket.
func userOfSocket(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return "", fmt.Errorf("%s is no socket", path)
	}
	return strconv.FormatUint(uint64(statOf(info).Uid), 10), nil
}

// userOfPort is the uid of whoever listens on a loopback port, from
// proc_pid_net(5).
func userOfPort(port int) (string, error) {
	holder := ""
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		file, err := os.Open(table)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // no IPv6
			}
			return "", err
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			uid, listens := listenerLine(lines.Text(), port)
			if !listens {
				continue
			}
			if holder != "" && holder != uid {
				return "", fmt.Errorf("port %d is held by several users", port)
			}
			holder = uid
		}
	}
	if holder == "" {
		return "", fmt.Errorf("nobody listens on port %d", port)
	}
	return holder, nil
}

// listenerLine reads one line of the table: the uid, if the line is a socket
// that listens on port and gets what is sent to loopback.
func listenerLine(line string, port int) (uid string, listens bool) {
	const localAddress, state, stateListen, owner = 1, 3, "0A", 7
	fields := strings.Fields(line)
	if len(fields) <= owner || fields[state] != stateListen {
		return "", false
	}
	address, hexPort, _ := strings.Cut(fields[localAddress], ":")
	if got, err := strconv.ParseUint(hexPort, 16, 16); err != nil || int(got) != port {
		return "", false
	}
	return fields[owner], reachesLoopback(address)
}

// reachesLoopback tells whether a listener on this address, in the table's
// byte order, is loopback or every address.
func reachesLoopback(address string) bool {
	raw, err := hex.DecodeString(address)
	if err != nil {
		return true // unknown: let it count
	}
	for word := 0; word+4 <= len(raw); word += 4 { // each 32-bit word is little-endian
		raw[word], raw[word+1], raw[word+2], raw[word+3] = raw[word+3], raw[word+2], raw[word+1], raw[word]
	}
	ip, ok := netip.AddrFromSlice(raw)
	return !ok || ip.Unmap().IsLoopback() || ip.IsUnspecified()
}
