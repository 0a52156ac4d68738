#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# deps.sh GROUP...: make sure the Debian packages of these groups of packages.txt are installed.
#
# Nothing missing: says nothing, changes nothing, needs no network. Otherwise, as root, installs what is missing;
# as anyone else, prints the one command to run and fails.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

groups=$(awk '!/^#/ && NF {print $1}' "$here/packages.txt" | sort -u | xargs)
usage() {
    echo "usage: $0 GROUP... (groups: $groups)" >&2
    exit 2
}

[ $# -gt 0 ] || usage
for g in "$@"; do
    [[ " $groups " = *" $g "* ]] || usage
done

wanted=()
while read -r group package _; do
    case $group in '' | '#'*) continue ;; esac
    for g in "$@"; do
        [ "$g" != "$group" ] || wanted+=("$package")
    done
done <"$here/packages.txt"

if ! command -v dpkg-query >/dev/null; then
    echo "deps: not a Debian system; if the build fails, install what these provide: ${wanted[*]}" >&2
    exit 0
fi

missing=()
for package in "${wanted[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "Packages are missing. Run this, then try again:" >&2
    echo "    sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "deps: apt-get failed; install these by hand and try again: ${missing[*]}" >&2
    exit 1
fi
