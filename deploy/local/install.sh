#!/usr/bin/env bash
# Installs the Debian packages of one or more groups of packages.txt: install.sh build demo test
# Installs only what is missing, and touches the network only then.
set -euo pipefail

packages_file="$(dirname "${BASH_SOURCE[0]}")/packages.txt"

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

is_installed() {
  case "$1" in
    # Other builds of Node.js bring both under other package names.
    nodejs) command -v node >/dev/null && return 0 ;;
    npm) command -v npm >/dev/null && return 0 ;;
  esac
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if [ $# -eq 0 ]; then
  echo "usage: install.sh GROUP...; groups: $(awk '/^[a-z]/ {print $1}' "$packages_file" | sort -u | xargs)" >&2
  exit 2
fi

missing=()
for group in "$@"; do
  packages="$(awk -v group="$group" '$1 == group {print $2}' "$packages_file")"
  if [ -z "$packages" ]; then
    echo "install.sh: no group \"$group\" in $packages_file" >&2
    exit 2
  fi
  for package in $packages; do
    is_installed "$package" || missing+=("$package")
  done
done

if [ ${#missing[@]} -eq 0 ]; then
  echo "packages ($*): all installed"
  exit 0
fi
echo "packages ($*): installing ${missing[*]}"
as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
