# Makes the packaged unit of examples/systemd/responses-proxy-gate.service: all
# of it, but for how to install it by hand.
/^# The \.deb of a release/,/^#   systemctl daemon-reload/{
	d
}
s,/usr/local/bin/caddy,/usr/lib/caddy-responses-proxy-gate/caddy,
