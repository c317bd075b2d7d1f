#!/usr/bin/env bash
# Prints what CHANGELOG.md says of a version: packaging/notes.sh v0.1.0
set -euo pipefail
cd "$(dirname "$0")/.."
notes=$(awk -v heading="## ${1#v}" '
	/^## / { inside = $0 == heading || index($0, heading " ") == 1; next }
	inside { print }
' CHANGELOG.md)
[[ $notes == *[![:space:]]* ]] || {
	printf 'CHANGELOG.md has no section "## %s"\n' "${1#v}" >&2
	exit 1
}
printf '%s\n' "$notes"
