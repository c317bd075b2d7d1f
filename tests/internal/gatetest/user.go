//go:build unix

package gatetest

import (
	"os"
	"os/user"
	"strconv"
	"testing"
)

// Nobody is another user than the one who runs the tests.
func Nobody(t testing.TB) (uid, gid int) {
	t.Helper()
	account, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ = strconv.Atoi(account.Uid)
	gid, _ = strconv.Atoi(account.Gid)
	return uid, gid
}

// NeedRoot skips the test for anybody but root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to another user")
	}
}
