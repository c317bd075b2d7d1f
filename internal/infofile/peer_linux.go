package infofile

import "golang.org/x/sys/unix"

// peerUID is the user who listens at the other end of a unix socket.
func peerUID(fd int) (uid uint32, err error) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return peer.Uid, nil
}
