package command

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// checkListener makes sure that the port, or the socket, is held by the user
// who runs the gate's process. Any user may take a port that became free.
func checkListener(info infofile.Info) error {
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
		holder, err = userOfPort(info)
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
	return strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10), nil
}

// userOfPort is the uid of the process that gets requests to the gate's address,
// from proc_pid_net(5): a listener on just that address, or else one on every
// address. Listeners on other loopback addresses do not matter.
func userOfPort(info infofile.Info) (string, error) {
	base, err := url.Parse(info.BaseURL)
	if err != nil {
		return "", err
	}
	exact, wildcard := make(map[string]bool), make(map[string]bool)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		lines, err := os.ReadFile(table)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // there may be no IPv6
			return "", err
		}
		for line := range strings.Lines(string(lines)) {
			ip, uid, listens := listenerLine(line, info.Port)
			switch {
			case !listens:
			case ip.IsUnspecified():
				wildcard[uid] = true
			case ip.String() == base.Hostname(), base.Hostname() == "localhost" && ip.IsLoopback():
				exact[uid] = true
			}
		}
	}
	holders := exact
	if len(holders) == 0 {
		holders = wildcard
	}
	if len(holders) > 1 {
		return "", fmt.Errorf("port %d is held by several users", info.Port)
	}
	for holder := range holders {
		return holder, nil
	}
	return "", fmt.Errorf("nobody listens on port %d", info.Port)
}

// listenerLine reads one line of the table: the address and the user of a
// socket that listens on port.
func listenerLine(line string, port int) (ip netip.Addr, uid string, listens bool) {
	const localAddress, state, stateListen, owner = 1, 3, "0A", 7
	fields := strings.Fields(line)
	if len(fields) <= owner || fields[state] != stateListen {
		return netip.Addr{}, "", false
	}
	address, hexPort, _ := strings.Cut(fields[localAddress], ":")
	if got, err := strconv.ParseUint(hexPort, 16, 16); err != nil || int(got) != port {
		return netip.Addr{}, "", false
	}
	raw, err := hex.DecodeString(address)
	if err != nil {
		return netip.Addr{}, "", false
	}
	for word := 0; word+4 <= len(raw); word += 4 { // each 32-bit word is little-endian
		slices.Reverse(raw[word : word+4])
	}
	ip, ok := netip.AddrFromSlice(raw)
	return ip.Unmap(), fields[owner], ok
}
