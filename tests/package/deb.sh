#!/usr/bin/env bash
# Installs the .deb of a release under systemd, uses, upgrades and purges it, on
# a bare Debian or Ubuntu of the machine's own kind in systemd-nspawn:
#
#	tests/package/deb.sh OLD.deb NEW.deb DIRECTORY
#
# As root. Everything is below DIRECTORY, a temporary one.
set -euo pipefail

etc=/etc/responses-proxy-gate
caddy=/usr/lib/caddy-responses-proxy-gate/caddy
key=sk-package-0123456789-operator

main() {
	old=$1 new=$2 work=$3 root=$3/root
	bootstrap
	boot
	trap power_off EXIT
	a_new_package_waits_for_its_key
	the_service_starts_and_has_nothing_to_complain_of
	members_of_the_group_call_and_others_do_not
	a_wrong_config_is_refused_and_a_new_key_taken
	a_log_that_root_made_by_validating_is_the_services_again
	an_upgrade_keeps_what_is_the_operators
	a_removed_package_leaves_key_and_config
	a_purged_package_leaves_nothing
}

step() { printf -- '-- %s\n' "${FUNCNAME[1]//_/ }"; }

fail() {
	printf 'deb.sh: %s\n' "$@" >&2
	inside journalctl --no-pager -n 60 >&2 || true
	exit 1
}

# expect runs a command, which has to succeed; refuse one that has to fail.
expect() { "$@" || fail "this fails: $*"; }
refuse() { ! "$@" || fail "this succeeds: $*"; }

# --- the machine -------------------------------------------------------------

bootstrap() {
	step
	local site release
	# shellcheck source=/dev/null
	release=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
	# shellcheck disable=SC2016 # these are apt's
	site=$(apt-get indextargets --format '$(SITE) $(CODENAME)' 'Created-By: Packages' | awk -v release="$release" '$2 == release { print $1; exit }')
	[[ -n $site ]] || fail "apt has no source for $release"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,libnss-systemd,ca-certificates,curl "$release" "$root" "$site" >"$work/debootstrap.log" 2>&1 ||
		{ tail -n 20 "$work/debootstrap.log" >&2 && exit 1; }
	cp "$old" "$root/srv/old.deb"
	cp "$new" "$root/srv/new.deb"
	# A stand-in for the API, which tells the credential it saw.
	cat >"$root/etc/systemd/system/upstream.service" <<-END
		[Service]
		Type=notify
		ExecStart=$caddy run --config /srv/upstream --adapter caddyfile
	END
	cat >"$root/srv/upstream" <<-'END'
		{
			admin off
		}
		http://127.0.0.1:8081 {
			bind 127.0.0.1
			respond "upstream saw {header.Authorization}"
		}
	END
}

boot() {
	step
	local i
	systemd-nspawn --quiet --register=no --keep-unit --private-network --directory="$root" --machine=gate-package \
		--boot >"$work/boot.log" 2>&1 </dev/null &
	nspawn=$!
	for ((i = 0; i < 600; i++)); do
		leader=$(pgrep -P "$nspawn" | head -n 1) || true
		case $([[ -z $leader ]] || inside systemctl is-system-running 2>/dev/null) in
		running | degraded) return ;;
		esac
		kill -0 "$nspawn" 2>/dev/null || break
		sleep 0.2
	done
	cat "$work/boot.log" >&2
	exit 1
}

power_off() {
	inside systemctl poweroff --force --force >/dev/null 2>&1 || true
	kill -KILL "$leader" 2>/dev/null || true
	wait "$nspawn" || true
}

# inside runs a command on the machine, as root.
inside() {
	nsenter --target "$leader" --mount --uts --ipc --net --pid --root --wd -- \
		env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# as runs a script as another user, as after a login.
as() { inside setpriv --reuid "$1" --regid "$1" --init-groups sh -c "$2"; }

# ask calls the gate with the token of the file, if the user may read it.
ask() {
	as "$1" "{ printf 'X-Proxy-Token: '; cat $etc/token; } | curl -sS --noproxy '*' -H @- -H 'Content-Type: application/json' -d '{}' http://127.0.0.1:980/v1/responses"
}

property() { inside systemctl show --value --property "$1" responses-proxy-gate; }

# --- what is expected --------------------------------------------------------

a_new_package_waits_for_its_key() {
	step
	inside dpkg -i /srv/old.deb >"$work/install" 2>&1 || { cat "$work/install" && fail "the package does not install"; }
	expect grep -q 'systemctl enable --now responses-proxy-gate' "$work/install"
	refuse inside systemctl --quiet is-active responses-proxy-gate
	[[ $(inside stat -c '%a %U %G' $etc/token) == '640 root responses-proxy-callers' ]] || fail "the token is open to others"
	expect inside test -e /usr/share/man/man8/caddy-responses-proxy.8.gz
	[[ $(inside caddy list-modules --versions) == *http.handlers.responses_proxy_gate\ v* ]] || fail "the gate has no version"
}

the_service_starts_and_has_nothing_to_complain_of() {
	step
	inside useradd --create-home sam
	inside useradd --create-home stranger
	inside usermod -aG responses-proxy-callers sam
	printf '%s\n' "$key" | inside install -m 0600 /dev/stdin $etc/openai-api-key
	inside sed -i 's,https://api.openai.com,http://127.0.0.1:8081,' $etc/Caddyfile
	expect inside systemctl start upstream
	expect inside systemctl --quiet enable --now responses-proxy-gate
	inside journalctl --no-pager -o cat -u responses-proxy-gate >"$work/journal"
	refuse grep -iE '"level":"(warn|error)|denied|fail|not permitted|cannot' "$work/journal"
	local user
	user=$(inside stat -c %u "/proc/$(property MainPID)")
	((user >= 61184 && user <= 65519)) || fail "the gate runs as $user, which is none of systemd's dynamic users"
	expect inside env CREDENTIALS_DIRECTORY=$etc caddy validate --config $etc/Caddyfile >"$work/validate" 2>&1
}

members_of_the_group_call_and_others_do_not() {
	step
	[[ $(ask sam) == "upstream saw Bearer $key" ]] || fail "sam gets no answer"
	[[ $(ask stranger 2>/dev/null) == *'"missing_token"'* || $(ask stranger 2>/dev/null) == *'"invalid_token"'* ]] || fail "a stranger is not refused"
	local file
	for file in $etc/openai-api-key /run/credentials/responses-proxy-gate.service/openai-api-key /run/responses-proxy-gate/admin.sock \
		"/proc/$(property MainPID)/environ" /var/log/responses-proxy-gate/audit.log; do
		expect inside test -e "$file"
		refuse as sam "test -r $file -o -w $file"
	done
	expect inside grep -q '"code":"\(missing\|invalid\)_token"' /var/log/responses-proxy-gate/audit.log
	local socket=/run/responses-proxy-gate/admin.sock
	refuse inside caddy responses-proxy clients --address $socket 2>"$work/verb"
	expect grep -q 'runuser -u <service>' "$work/verb"
	expect grep -q '^default ' <(inside runuser -u responses-proxy-gate -- caddy responses-proxy clients --address $socket)
	expect grep -q '_token  *401' <(inside runuser -u responses-proxy-gate -- caddy responses-proxy refusals --address $socket)
}

a_wrong_config_is_refused_and_a_new_key_taken() {
	step
	inside cp $etc/Caddyfile /srv/Caddyfile
	inside sed -i 's,harden_process,harden_proces,' $etc/Caddyfile
	refuse inside systemctl reload responses-proxy-gate 2>/dev/null
	[[ $(ask sam) == "upstream saw Bearer $key" ]] || fail "the gate is gone after a reload that failed"
	inside cp /srv/Caddyfile $etc/Caddyfile
	expect inside systemctl reload responses-proxy-gate
	key+=-new
	printf '%s\n' "$key" | inside install -m 0600 /dev/stdin $etc/openai-api-key
	expect inside systemctl restart responses-proxy-gate
	[[ $(ask sam) == "upstream saw Bearer $key" ]] || fail "the new key is not used"
}

a_log_that_root_made_by_validating_is_the_services_again() {
	step
	local remedy
	inside rm /var/log/responses-proxy-gate/audit.log
	inside env CREDENTIALS_DIRECTORY=$etc caddy validate --config $etc/Caddyfile >"$work/validate" 2>&1 || fail "$(<"$work/validate")"
	remedy=$(sed -n 's/.*run: \(chown [^"]*\)".*/\1/p' "$work/validate")
	[[ -n $remedy ]] || fail "validate says nothing of the log: $(<"$work/validate")"
	inside systemctl restart responses-proxy-gate 2>/dev/null || true # (Caddy tells systemd that it is up, and then ends)
	[[ -z $(ask sam 2>/dev/null || true) ]] || fail "the service runs with a log that is root's: there is nothing to warn of"
	inside systemctl stop responses-proxy-gate
	expect inside sh -c "$remedy"
	expect inside systemctl start responses-proxy-gate
	[[ $(ask sam) == "upstream saw Bearer $key" ]] || fail "sam gets no answer"
}

an_upgrade_keeps_what_is_the_operators() {
	step
	local token pid before
	before=$(inside caddy list-modules --versions | grep '^http.handlers.responses_proxy_gate')
	token=$(inside cat $etc/token)
	pid=$(property MainPID)
	inside dpkg -i /srv/new.deb >"$work/upgrade" 2>&1 || { cat "$work/upgrade" && fail "the package does not upgrade"; }
	expect inside systemctl --quiet is-active responses-proxy-gate
	[[ $(property MainPID) != "$pid" ]] || fail "the former version still runs"
	[[ $(inside caddy list-modules --versions) != *"$before"* ]] || fail "the version is still $before"
	[[ $(inside cat $etc/token) == "$token" ]] || fail "the token is another one"
	[[ $(ask sam) == "upstream saw Bearer $key" ]] || fail "sam gets no answer"
}

a_removed_package_leaves_key_and_config() {
	step
	inside dpkg -r caddy-responses-proxy-gate >"$work/remove" 2>&1 || { cat "$work/remove" && fail "the package does not go"; }
	refuse inside curl -s -o /dev/null --noproxy '*' http://127.0.0.1:980/
	expect inside test -e $etc/openai-api-key -a -e $etc/token -a -e $etc/Caddyfile
	refuse inside test -e /usr/bin/caddy -o -L /usr/bin/caddy
}

a_purged_package_leaves_nothing() {
	step
	inside systemctl stop upstream || true
	inside dpkg -P caddy-responses-proxy-gate >"$work/purge" 2>&1 || { cat "$work/purge" && fail "the package is not purged"; }
	local left
	left=$(inside find / -xdev \( -path /proc -o -path /sys -o -path /run/systemd -o -path /var/log/journal \) -prune -o \
		-name '*responses-proxy*' -print)
	[[ -z $left ]] || fail "this is left: $left"
	refuse inside getent group responses-proxy-callers
	refuse inside grep -rq sk-package- /etc
}

main "$@"
