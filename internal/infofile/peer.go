package infofile

import (
	"fmt"
	"net"
	"os"
)

// CheckPeer refuses a unix socket at which another user answers than root or the
// one who runs this process: that user could say that a token is revoked which
// the gate still takes. Other connections pass: they have no user to check.
func CheckPeer(conn net.Conn) error {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var uid uint32
	var peerErr error
	if err := raw.Control(func(fd uintptr) { uid, peerErr = peerUID(int(fd)) }); err != nil {
		return err
	}
	if peerErr != nil {
		return fmt.Errorf("who answers at the socket %s is not known: %w", conn.RemoteAddr(), peerErr)
	}
	if us := os.Geteuid(); uid != 0 && int64(uid) != int64(us) && us >= 0 {
		return fmt.Errorf("uid %d answers at the socket %s, and you are uid %d; if that user runs the gate, run this as that user (%s)", uid, conn.RemoteAddr(), us, becoming(uid))
	}
	return nil
}

// becoming is how one runs a command as a user.
func becoming(uid uint32) string {
	if uid >= 61184 && uid <= 65519 { // https://systemd.io/UIDS-GIDS
		return "it is the user of a systemd service with DynamicUser, and called as the service is: runuser -u <service> -- caddy ..."
	}
	return fmt.Sprintf("sudo -u '#%d' ...", uid)
}
