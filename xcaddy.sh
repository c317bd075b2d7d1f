#!/usr/bin/env bash
# Builds Caddy with the gate, runs it, and shows what it refuses. See usage().
set -euo pipefail
IFS=$'\n\t'

module=github.com/responses-proxy-gate/caddy-responses-proxy-gate
handler=http.handlers.responses_proxy_gate

cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

usage() {
	cat <<-'END'
		./xcaddy.sh [build] [option...]   build ./caddy with the gate; options go to xcaddy:
		                                  --with <module>[@version][=path]  --replace …  --embed …
		                                  (paths are relative to the repository)
		                                  GATE_VERSION=v1.2.3 names the gate's version, which
		                                  otherwise comes from git
		./xcaddy.sh run                   run Caddyfile.example with OPENAI_API_KEY
		./xcaddy.sh demo                  attack the gate and watch; needs no key
		./xcaddy.sh version               print that version
		./xcaddy.sh help                  print this
	END
}

main() {
	local command=${1:-build}
	case $command in
	build) build "${@:2}" ;;
	--*) build "$@" ;;
	run | demo | version)
		(($# == 1)) || wrong_usage "$command takes no arguments"
		"$command"
		;;
	help | -h) usage ;;
	*) wrong_usage "unknown command: $command" ;;
	esac
}

die() {
	printf 'xcaddy.sh: %s\n' "$@" >&2
	exit 1
}

wrong_usage() {
	printf 'xcaddy.sh: %s\n' "$1" >&2
	usage >&2
	exit 2
}

# Everything temporary is in one directory, which goes when the script ends,
# and with it the Caddy of the demo.
tmp='' caddy_pid='' build_pid=''
cleanup() {
	if [[ -n $build_pid ]]; then
		kill -- "-$build_pid" 2>/dev/null || true
		wait "$build_pid" 2>/dev/null || true
		build_pid=
	fi
	if [[ -n $caddy_pid ]]; then
		kill "$caddy_pid" 2>/dev/null || true
		wait "$caddy_pid" 2>/dev/null || true
		caddy_pid=
	fi
	if [[ -n $tmp ]]; then
		rm -rf -- "$tmp"
		tmp=
	fi
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

make_tmp() {
	[[ -n $tmp ]] || tmp=$(mktemp -d "${TMPDIR:-/tmp}/xcaddy.XXXXXX")
}

# --- build -------------------------------------------------------------------

build() {
	local option caddy_version
	for option in "$@"; do
		case $option in
		--help) usage && return ;;
		--with | --replace | --embed | [!-]*) ;;
		*) wrong_usage "build does not know $option" ;;
		esac
	done
	check_go
	caddy_version=$(go_mod_version github.com/caddyserver/caddy/v2)
	make_tmp
	printf 'building ./caddy: the first time, it downloads 230 modules and compiles 1000 packages (5 to 15 minutes on two cores)\n' >&2
	: >"$tmp/build.log" # there before anybody reads it
	# A version keeps xcaddy from looking the module up: it is here, at "=.".
	# A go.work around this directory has no say. -v tells what is compiled.
	set -m # a process group of its own, to end all of it
	GOWORK=off GOFLAGS="${GOFLAGS:+$GOFLAGS }-v" go tool xcaddy build "$caddy_version" --output ./caddy \
		--with "$module@$(version)=." "$@" >"$tmp/build.log" 2>&1 </dev/null &
	build_pid=$!
	set +m
	show_progress
	if ! wait "$build_pid"; then
		grep -vE '^go: (added|downloading) |^[a-z0-9.]+(/[^ :]*)?$' "$tmp/build.log" >&2 || true # without what went well
		die "the build failed; xcaddy's output is above"
	fi
	build_pid=
	./caddy list-modules >"$tmp/modules" 2>&1 || die "./caddy does not run: $(<"$tmp/modules")"
	grep -qx "$handler" "$tmp/modules" || die "./caddy was built, but has no $handler"
	local IFS=' '
	printf 'built ./caddy: Caddy %s with %s%s\n' "$caddy_version" "$handler" "${*:+ ($*)}"
}

# show_progress tells how far the build is until it has ended: on a terminal in
# one line, elsewhere in a line now and then.
show_progress() {
	local start=$SECONDS next=0 every=15 line
	[[ ! -t 2 ]] || every=1
	while kill -0 "$build_pid" 2>/dev/null; do
		sleep 0.2
		((SECONDS - start >= next)) || continue
		next=$((SECONDS - start + every))
		line=$(awk -v seconds=$((SECONDS - start)) '
			/^go: downloading/ { modules++ }
			/^[a-z0-9.]+(\/[^ ]*)?$/ { packages++ }
			END { printf "  %d:%02d  %d modules downloaded, %d packages compiled", seconds / 60, seconds % 60, modules, packages }
		' "$tmp/build.log")
		if [[ -t 2 ]]; then
			printf '\r%s' "$line" >&2
		elif ((SECONDS > start)); then
			printf '%s\n' "$line" >&2
		fi
	done
	[[ ! -t 2 ]] || printf '\r%60s\r' '' >&2
}

build_if_needed() {
	local newer
	if [[ -x caddy ]]; then
		newer=$(find . -path ./tests -prune -o \( -name '*.go' ! -name '*_test.go' -o -name go.mod \) -newer caddy -print -quit)
		[[ -n $newer ]] || return 0
		printf './caddy is older than %s\n' "$newer" >&2
	fi
	build
}

# go_mod_version prints the version that go.mod requires of a module, or of go.
go_mod_version() {
	local version
	version=$(awk -v name="$1" '{ sub(/^require /, "") } $1 == name { print $2; exit }' go.mod)
	[[ -n $version ]] || die "go.mod does not name a version of $1"
	printf '%s\n' "$version"
}

check_go() {
	local want have
	want=$(go_mod_version go)
	command -v go >/dev/null || die "Go $want or newer is needed to build; get it from https://go.dev/dl/"
	have=$(go env GOVERSION) || die "Go $want or newer is needed; this one cannot use go.mod (see above)"
	is_at_least "${have#go}" "$want" || die "Go $want or newer is needed; $(command -v go) is $have; get one from https://go.dev/dl/"
}

# is_at_least compares versions such as 1.26.8, 1.27rc1 and 1.26.0-custom.
is_at_least() {
	local have=${1%%[!0-9.]*} want=$2 i
	local IFS=.
	# shellcheck disable=SC2206 # split at the dots
	have=($have) want=($want)
	for i in 0 1 2; do
		((${have[i]:-0} == ${want[i]:-0})) || break
	done
	((${have[i]:-0} >= ${want[i]:-0}))
}

# --- version -----------------------------------------------------------------

# version prints which version this is: that of the tag, or as Go names the
# commit between two, with .dirty if a source is not as committed. GATE_VERSION
# decides, where it is set.
version() {
	local tag='' commit
	if [[ -n ${GATE_VERSION:-} ]]; then
		printf '%s\n' "$GATE_VERSION"
		return
	fi
	# Only if this directory is the repository itself, and not a copy within one.
	if ! [[ -e .git ]] || ! commit=$(git_here log -1 --format=%cd-%H --date=format-local:%Y%m%d%H%M%S 2>/dev/null); then
		printf 'v0.0.0\n'
		return
	fi
	commit=${commit:0:27}
	if [[ -n $(git_here status --porcelain -- '*.go' go.mod ':!*_test.go' ':!tests') ]]; then
		commit=$commit.dirty
	elif tag=$(git_here describe --tags --exact-match --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null); then
		printf '%s\n' "$tag"
		return
	fi
	tag=$(git_here describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null) || tag=
	if [[ $tag =~ ^(v[0-9]+\.[0-9]+\.)([0-9]+)$ ]]; then
		printf '%s%d-0.%s\n' "${BASH_REMATCH[1]}" $((BASH_REMATCH[2] + 1)) "$commit"
	elif [[ -n $tag ]]; then
		printf '%s.0.%s\n' "$tag" "$commit"
	else
		printf 'v0.0.0-%s\n' "$commit"
	fi
}

# git_here is git for a clone that may belong to another user, for whom it
# would not speak.
git_here() { TZ=UTC git -c safe.directory='*' "$@"; }

# --- run ---------------------------------------------------------------------

run() {
	if [[ -z ${OPENAI_API_KEY:-} ]]; then
		die "OPENAI_API_KEY is not set. To set it without leaving it in your shell's history:" \
			"    read -rs OPENAI_API_KEY && export OPENAI_API_KEY     (then paste the key and press Enter)" \
			"and run ./xcaddy.sh run again."
	fi
	(unset OPENAI_API_KEY && build_if_needed) # no build needs the key
	if [[ ! -w ${XDG_RUNTIME_DIR:-/run} ]]; then
		# Caddyfile.example puts its admin socket and its server-info file there.
		export XDG_RUNTIME_DIR=${XDG_STATE_HOME:-$HOME/.local/state}/responses-proxy-gate
		(umask 077 && mkdir -p -- "$XDG_RUNTIME_DIR")
		printf 'using XDG_RUNTIME_DIR=%s\n' "$XDG_RUNTIME_DIR" >&2
	fi
	printf 'callers find the port and the token in %s\n' "${XDG_RUNTIME_DIR:-/run}/responses-proxy-gate.json" >&2
	cleanup
	exec ./caddy run --config Caddyfile.example --adapter caddyfile
}

# --- demo --------------------------------------------------------------------

demo() {
	command -v curl >/dev/null || die "the demo needs curl"
	build_if_needed
	make_tmp
	umask 077
	demo_start
	demo_attacks
	demo_real_request
	demo_shutdown
	demo_verdict
}

demo_key=sk-demo-operator
wrong=0 requests=0

demo_start() {
	local try
	DEMO_DIR=$tmp DEMO_KEY=$demo_key XDG_CONFIG_HOME=$tmp XDG_DATA_HOME=$tmp \
		./caddy run --config examples/demo/Caddyfile >"$tmp/caddy.out" 2>&1 &
	caddy_pid=$!
	for ((try = 0; try < 300; try++)); do
		[[ ! -s $tmp/server-info.json ]] || break
		kill -0 "$caddy_pid" 2>/dev/null || demo_failed "Caddy did not start"
		sleep 0.1
	done
	[[ -s $tmp/server-info.json ]] || demo_failed "Caddy has not written its server-info file within 30 seconds"
	port=$(sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$tmp/server-info.json")
	# The token goes from file to file, past the arguments that ps shows.
	sed -n 's/.*"auth_token":"\([^"]*\)".*/X-Proxy-Token: \1/p' "$tmp/server-info.json" >"$tmp/token"
	printf 'Caddy with the gate is on 127.0.0.1:%s, a stand-in for the OpenAI API behind it.\n\n' "$port"
	row WHO TRIES EXPECTED GOT ''
}

row() { printf '%-16s%-29s%-26s%-25s %s\n' "$@"; }

demo_attacks() {
	local json='Content-Type: application/json' text='Content-Type: text/plain' attacker='Origin: https://attacker.example'
	local post='{"model":"gpt-5","input":"on your bill"}'

	attempt 'a web page' 'fetch, no-cors, text/plain' '403 origin_not_allowed' /v1/responses -H "$attacker" -H "$text" -d "$post"
	attempt '' 'the same without an Origin' '415 content_type_not_json' /v1/responses -H "$text" -d "$post"
	attempt '' 'fetch of JSON: its preflight' '403 origin_not_allowed' /v1/responses -H "$attacker" -X OPTIONS \
		-H 'Access-Control-Request-Method: POST' -H 'Access-Control-Request-Headers: content-type'
	attempt '' 'an <img> tag' '403 cross_site_request' /v1/responses -H 'Sec-Fetch-Site: cross-site' -H 'Sec-Fetch-Mode: no-cors'
	attempt '' 'DNS rebinding' '403 host_not_allowed' /v1/responses -H 'Host: attacker.example' -H "$json" -d "$post"
	attempt 'a local program' 'no token' '401 missing_token' /v1/responses -H "$json" -d "$post"
	attempt '' 'a guessed token' '401 invalid_token' /v1/responses -H 'X-Proxy-Token: 12345' -H "$json" -d "$post"
	attempt 'a caller' 'the token, another path' '403 route_not_allowed' /v1/files -H "@$tmp/token"
	attempt '' 'the token, a query' '403 route_not_allowed' '/v1/responses?limit=1' -H "@$tmp/token" -H "$json" -d "$post"
}

demo_real_request() {
	attempt 'a caller' 'the token, a real request' '200' /v1/responses -H "@$tmp/token" \
		-H 'Content-Type: application/json' -d '{"model":"gpt-5","input":"hi","stream":true}'
	local events saw
	events=$(grep -c '^event: ' "$tmp/body" || true)
	saw=$(sed -n 's/.*"delta":"upstream saw \([^"]*\)".*/\1/p' "$tmp/body")
	result '' '  its answer' '3 events' "$events events"
	result '' '  the key upstream' "Bearer $demo_key" "$saw"
}

# attempt sends one request to a path with further arguments for curl, and
# compares the answer's status and code with what was expected.
attempt() {
	local who=$1 what=$2 expected=$3 path=$4 got code
	requests=$((requests + 1))
	got=$(curl -q --silent --noproxy '*' --max-time 20 --dump-header "$tmp/head" --output "$tmp/body" \
		--write-out '%{http_code}' "${@:5}" "http://127.0.0.1:$port$path") || got="no answer"
	code=$(sed -n 's/^X-Responses-Proxy-Gate: \([a-z_]*\).*/\1/p' "$tmp/head" 2>/dev/null || true)
	result "$who" "$what" "$expected" "$got${code:+ $code}"
}

# result prints a line of the table.
result() {
	local verdict=ok
	if [[ $3 != "$4" ]]; then
		verdict=WRONG
		wrong=$((wrong + 1))
	fi
	row "$1" "$2" "$3" "$4" "$verdict"
}

demo_shutdown() {
	local try status=0
	attempt '' 'the token, POST /shutdown' '200' /shutdown -X POST -H "@$tmp/token"
	for ((try = 0; try < 100; try++)); do
		kill -0 "$caddy_pid" 2>/dev/null || break
		sleep 0.1
	done
	if kill -0 "$caddy_pid" 2>/dev/null; then
		demo_failed "Caddy still runs, 10 seconds after /shutdown"
	fi
	wait "$caddy_pid" || status=$?
	caddy_pid=
	result 'Caddy' 'exit code' '0' "$status"
	if [[ -e $tmp/server-info.json ]]; then
		result '' 'server-info file' 'removed' 'still there'
	else
		result '' 'server-info file' 'removed' 'removed'
	fi
	# Counted now, because Caddy logs a request after it has been answered.
	result 'the upstream' "requests seen, of $requests" '1' "$(grep -c '"handled request"' "$tmp/upstream.log" || true)"
}

demo_verdict() {
	printf '\n'
	((wrong == 0)) || demo_failed "$wrong of these lines are WRONG"
	printf 'As it should be: only the real request reached the upstream and was paid with the key.\n'
}

demo_failed() {
	local log
	for log in caddy.out caddy.log; do
		[[ ! -s $tmp/$log ]] || { printf '%s\n' "--- $log" && cat -- "$tmp/$log"; } >&2
	done
	die "$1; the log of the demo's Caddy is above"
}

main "$@"
