//go:build !linux

package command

import (
	"net"
	"net/url"
	"os"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// checkListener makes sure that somebody listens. Which user that is, only
// Linux tells an unprivileged process; elsewhere the process id has to do.
func checkListener(info infofile.Info) error {
	if info.Socket != "" {
		_, err := os.Stat(info.Socket)
		return err
	}
	base, err := url.Parse(info.BaseURL)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", base.Host, callTimeout)
	if err != nil {
		return err
	}
	return conn.Close()
}
