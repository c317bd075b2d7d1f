#!/usr/bin/env bash
# Makes what a release consists of, from the commit that is checked out, and
# uploads nothing: archives, .deb packages and checksums.txt.
#
#	packaging/build.sh v0.1.0 DIRECTORY [linux/amd64 ...]
#
# Caddy is built from the module as a proxy serves it, as anybody builds the
# published version: the binaries name it and no path of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/responses-proxy-gate/caddy-responses-proxy-gate
name="caddy-responses-proxy-gate"
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64)

main() {
	(($# >= 2)) || {
		sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
		exit 2
	}
	version=$1 out=$(realpath -m "$2")
	shift 2
	(($# == 0)) || platforms=("$@")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$out"
	export GOFLAGS="${GOFLAGS:+$GOFLAGS }-buildvcs=false"
	modified=$(git -c safe.directory='*' log -1 --format=%cI)
	go run ./tests/modproxy -version "$version" "$work/proxy"
	go build -o "$work/xcaddy" github.com/caddyserver/xcaddy/cmd/xcaddy
	caddy=$work/host/caddy
	build "$(go env GOOS)/$(go env GOARCH)" "$caddy"
	manual_pages
	local platform
	for platform in "${platforms[@]}"; do
		package "$platform"
	done
	(cd "$out" && sha256sum -- "${name}"_* >checksums.txt)
	ls -l "$out"
}

# build makes the Caddy of a platform.
build() {
	local caddy_version
	caddy_version=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
	printf 'building %s\n' "$1"
	GOOS=${1%/*} GOARCH=${1#*/} GOWORK=off GONOSUMDB=$module GOPROXY=file://$work/proxy,$(go env GOPROXY) \
		"$work/xcaddy" build "$caddy_version" --output "$2" --with "$module@$version" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		exit 1
	}
	if grep -qF -e "$PWD" -e "$work" "$2"; then
		printf '%s names a directory of this machine\n' "$1" >&2
		exit 1
	fi
}

manual_pages() {
	"$caddy" manpage --directory "$work/all" >/dev/null 2>&1
	mkdir "$work/man"
	cp "$work"/all/caddy-responses-proxy*.8 "$work/man/"
	gzip -n9 "$work"/man/*.8
}

# package makes the archive of a platform, and for linux the .deb.
package() {
	local os=${1%/*} arch=${1#*/} binary=caddy
	local base=${name}_${version#v}_${os}_$arch
	[[ $os != windows ]] || binary=caddy.exe
	mkdir "$work/$base"
	if [[ $1 == "$(go env GOOS)/$(go env GOARCH)" ]]; then
		cp "$caddy" "$work/$base/$binary"
	else
		build "$1" "$work/$base/$binary"
	fi
	cp LICENSE README.md CHANGELOG.md Caddyfile.example "$work/$base/"
	[[ $os == windows ]] || cp -r "$work/man" "$work/$base/man"
	find "$work/$base" -exec touch --date="$modified" {} +
	if [[ $os == windows ]]; then
		(cd "$work" && find "$base" -type f | LC_ALL=C sort | TZ=UTC zip -q -X "$out/$base.zip" -@)
	else
		tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -c "$base" | gzip -n9 >"$out/$base.tar.gz"
	fi
	[[ $os != linux ]] || deb "$arch" "$work/$base"
}

# deb lays out what packaging/nfpm.yaml names.
deb() {
	local stage=$work/deb-$1
	mkdir -p "$stage/doc"
	cp "$2/caddy" packaging/{postinst,prerm,postrm} examples/systemd/Caddyfile "$stage/"
	cp -r "$work/man" "$stage/man"
	cp LICENSE "$stage/doc/copyright"
	cp README.md CHANGELOG.md examples/systemd/launch-token.conf "$stage/doc/"
	sed -f packaging/unit.sed examples/systemd/responses-proxy-gate.service >"$stage/responses-proxy-gate.service"
	find "$stage" -exec touch --date="$modified" {} +
	(cd "$stage" && GATE_ARCH=$1 GATE_VERSION=$version SOURCE_DATE_EPOCH=$(date -d "$modified" +%s) \
		go run "$nfpm" package --config "$OLDPWD/packaging/nfpm.yaml" --packager deb --target "$out/")
}

main "$@"
