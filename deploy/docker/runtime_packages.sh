#!/usr/bin/env bash
# Prints the Debian packages whose libraries a program loads: runtime_packages.sh PROGRAM...
# The image of a program installs these, so no list of them needs care.
set -euo pipefail

package_of() {
  # Packages name a library below /usr/lib or, from before the two were merged, below /lib.
  dpkg-query -S "$1" 2>/dev/null || dpkg-query -S "${1#/usr}"
}

for program in "$@"; do
  ldd "$program" | awk '$3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
  package_of "$(realpath "$library")" | cut -d: -f1
done | sort -u
