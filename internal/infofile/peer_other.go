//go:build !linux && !darwin

package infofile

import "os"

// peerUID is not asked for here: who answers at a socket, its directory decides.
func peerUID(int) (uid uint32, err error) { return uint32(os.Geteuid()), nil }
