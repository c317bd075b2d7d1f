#!/usr/bin/env bash
# Builds the image of a release on scratch and runs it, with an agent beside it,
# as examples/container/compose.yaml says, under Podman:
#
#	tests/package/image.sh CADDY DIRECTORY
#
# As root. Everything is below DIRECTORY, a temporary one.
set -euo pipefail
cd "$(dirname "$0")/../.."

key=sk-package-0123456789-operator
token=a-token-of-more-than-thirty-two-characters

main() {
	caddy=$1 work=$2 etc=$2/etc
	mkdir -p "$work/context/run" "$work/agent" "$work/tmp"
	export TMPDIR=$work/tmp
	trap clean_up EXIT
	the_image_builds
	the_operator_lays_out_what_compose_mounts
	the_gate_starts_healthy_and_complains_of_nothing
	the_agent_has_the_token_and_not_the_key
	a_new_key_is_used_without_a_restart
	a_changed_config_is_used
	a_gate_that_is_restarted_or_killed_strands_no_agent
	the_verbs_are_reachable
	the_gate_ends_well
}

step() { printf -- '-- %s\n' "${FUNCNAME[1]//_/ }"; }

fail() {
	printf 'image.sh: %s\n' "$@" >&2
	engine logs gate >&2 || true
	exit 1
}

expect() { "$@" || fail "this fails: $*"; }
refuse() { ! "$@" || fail "this succeeds: $*"; }

# engine is a Podman that shares nothing with the machine's own.
engine() {
	podman --root "$work/storage" --runroot "$work/run" --runtime runc --storage-driver vfs --cgroup-manager cgroupfs \
		--events-backend file --log-level error "$@"
}

clean_up() {
	engine rm --all --force --time 0 >/dev/null 2>&1 || true
	engine system reset --force >/dev/null 2>&1 || true
}

# start runs a service of compose.yaml: NAME IMAGE [ARGUMENT...]
start() {
	local options
	mapfile -t options < <(go run ./tests/package/composeargs -replace "/etc/responses-proxy-gate=$etc" examples/container/compose.yaml "$1")
	((${#options[@]} >= 4))
	engine run --detach --name "$1" --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "${options[@]}" "${@:2}" >/dev/null
}

# ask calls the gate as the agent does.
# shellcheck disable=SC2016 # it is the agent's shell that expands
ask() {
	engine exec agent /bin/busybox sh -c 'exec /bin/busybox wget -q -O - --header "X-Proxy-Token: $(/bin/busybox cat /run/secrets/token/gate-token)" \
		--header "Content-Type: application/json" --post-data "{}" http://127.0.0.1:18080/v1/responses 2>&1' || true
}

# awaits calls until the answer is as given.
awaits() {
	local i
	for ((i = 0; i < 100; i++)); do
		[[ $(ask) != "$1" ]] || return 0
		sleep 0.2
	done
	fail "the answer is $(ask), not $1"
}

the_image_builds() {
	step
	cp "$caddy" "$work/context/caddy"
	cp examples/container/Caddyfile packaging/Containerfile "$work/context/"
	engine build --quiet --format docker --build-arg BASE=scratch --tag gate "$work/context" >/dev/null
	# That of a clone differs in where the program comes from only.
	expect diff <(sed -n '/^# The owner/,$p' packaging/Containerfile) <(sed -n '/^# The owner/,$p' examples/container/Containerfile)
	(cd "$work" && apt-get download -qq busybox-static 2>/dev/null && dpkg -x busybox-static_*.deb "$work/busybox")
	cp "$(find "$work/busybox" -path '*/bin/busybox' | head -n 1)" "$work/agent/busybox"
	cp "$caddy" "$work/agent/caddy"
	printf 'FROM scratch\nCOPY busybox caddy /bin/\n' >"$work/agent/Containerfile"
	engine build --quiet --tag agent "$work/agent" >/dev/null
}

the_operator_lays_out_what_compose_mounts() {
	step
	install -d -m 0711 "$etc" "$etc/config" "$etc/key" "$etc/token"
	sed 's,https://api.openai.com,http://127.0.0.1:8081,' examples/container/Caddyfile | install -m 0644 /dev/stdin "$etc/config/Caddyfile"
	printf '%s\n' "$key" | install -m 0400 -o 10001 /dev/stdin "$etc/key/openai-api-key"
	printf '%s\n' "$token" | install -m 0440 -o 10001 -g 10002 /dev/stdin "$etc/token/gate-token"
}

the_gate_starts_healthy_and_complains_of_nothing() {
	step
	# (no registry can be reached: what stands for the pause does nothing, either)
	start network agent /bin/busybox sleep 3600
	start gate gate
	start agent agent /bin/busybox sleep 3600
	# A stand-in for the API, which tells the credential it saw.
	engine run --detach --name upstream --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network container:network agent \
		/bin/caddy respond --listen 127.0.0.1:8081 --header 'Content-Type: application/json' 'upstream saw {http.request.header.Authorization}' >/dev/null
	awaits "upstream saw Bearer $key"
	expect engine healthcheck run gate
	engine logs gate >"$work/log" 2>&1
	refuse grep -iE '"level":"(warn|error)|denied|fail|not permitted|cannot' "$work/log"
}

the_agent_has_the_token_and_not_the_key() {
	step
	[[ $(engine exec agent /bin/busybox cat /run/secrets/token/gate-token) == "$token" ]] || fail "the agent has no token"
	# (/proc has what the processes of its own container have)
	[[ -z $(engine exec agent /bin/busybox find / -name openai-api-key -o -name admin.sock 2>/dev/null) ]] || fail "the agent can reach the key's file"
	[[ $(engine exec agent /bin/busybox env) != *"$key"* ]] || fail "the agent has the key in its environment"
	refuse engine exec gate /bin/sh -c true 2>/dev/null
}

a_new_key_is_used_without_a_restart() {
	step
	key+=-new
	printf '%s\n' "$key" | install -m 0400 -o 10001 /dev/stdin "$etc/key/openai-api-key"
	awaits "upstream saw Bearer $key"
}

a_changed_config_is_used() {
	step
	sed 's,server_info /run,allow_route GET /v1/models\n\t\t&,' "$etc/config/Caddyfile" >"$work/changed"
	install -m 0644 "$work/changed" "$etc/config/Caddyfile"
	expect engine exec gate caddy reload --config /etc/caddy/Caddyfile 2>"$work/reload"
	awaits "wget: server returned error: HTTP/1.1 403 Forbidden" # one allow_route closes the default
	sed 's,https://api.openai.com,http://127.0.0.1:8081,' examples/container/Caddyfile | install -m 0644 /dev/stdin "$etc/config/Caddyfile"
	expect engine exec gate caddy reload --config /etc/caddy/Caddyfile 2>"$work/reload"
	awaits "upstream saw Bearer $key"
}

a_gate_that_is_restarted_or_killed_strands_no_agent() {
	step
	engine restart --time 40 gate >/dev/null
	awaits "upstream saw Bearer $key"
	engine kill gate >/dev/null
	engine wait gate >/dev/null
	engine start gate >/dev/null
	awaits "upstream saw Bearer $key"
	expect engine healthcheck run gate
}

the_verbs_are_reachable() {
	step
	expect engine exec gate caddy responses-proxy clients --config /etc/caddy/Caddyfile >"$work/clients"
	expect grep -q '^default ' "$work/clients"
	[[ $(engine exec gate caddy responses-proxy token --server-info /run/gate/gate.json) == "$token" ]] || fail "the verb token does not tell it"
}

the_gate_ends_well() {
	step
	engine stop --time 40 gate >/dev/null
	[[ $(engine inspect --format '{{.State.ExitCode}}' gate) == 0 ]] || fail "it ends with $(engine inspect --format '{{.State.ExitCode}}' gate)"
}

main "$@"
