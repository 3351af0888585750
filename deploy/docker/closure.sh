#!/usr/bin/env bash
# Fills DIRECTORY with what programs need to run in an image of nothing else: the programs in
# /usr/local/bin, every library that they load, the loader, the authorities that TLS trusts, and a
# user: closure.sh DIRECTORY PROGRAM...
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: closure.sh DIRECTORY PROGRAM..." >&2
  exit 2
fi
root="$1"
shift

# Only root can give the directory to the image's user; a trial run as another keeps it.
owner=()
if [ "$(id -u)" -eq 0 ]; then
  owner=(-o 65532 -g 65532)
fi

install -d "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/lib" "$root/lib64"
install -d -m 1777 "$root/tmp"
install -d "${owner[@]}" "$root/var/lib/teqd"
install -m 755 -t "$root/usr/local/bin" "$@"

libraries="$(for program in "$@"; do ldd "$program"; done)"
if grep "not found" <<<"$libraries" >&2; then
  echo "closure.sh: libraries are missing; install what the programs were built with" >&2
  exit 1
fi
awk '$3 ~ /^\// {print $3} $1 ~ /^\// {print $1}' <<<"$libraries" | sort -u | while read -r library; do
  install -D -m 755 "$library" "$root$library"
done

# Where OpenSSL and where gRPC look.
install -d "$root/usr/lib/ssl"
ln -sf /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'teqd:x:65532:65532:teqd:/var/lib/teqd:/sbin/nologin' >"$root/etc/passwd"
echo 'teqd:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
