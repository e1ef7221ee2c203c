#!/usr/bin/env bash
# Installs the programs that `make bench` measures beside us: Debian's packages, and release builds of sendme and rqbit.
# The builds go into target/tools-release, apart from the debug sendme that tests use.
set -eu -o pipefail
cd "$(dirname "$0")/.."

readonly root=target/tools-release

say() { printf 'setup-bench: %s\n' "$*" >&2; }

# A command that must be there, and the Debian package that has it.
missing_packages() {
  [ -e /usr/include/openssl/ssl.h ] || echo libssl-dev
  while read -r command package; do
    PATH=$PATH:/usr/sbin command -v "$command" >/dev/null || echo "$package"
  done <<'END'
aria2c aria2
b3sum b3sum
curl curl
ip iproute2
nginx nginx-light
openssl openssl
pkg-config pkgconf
tc iproute2
wrk wrk
END
}

install_packages() {
  local packages
  packages=$(missing_packages | sort -u | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  say "installing $packages"
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  command -v apt-get >/dev/null || { say "no apt-get here: install these yourself: $packages"; exit 1; }
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
  # The web server must not start by itself: it would take port 80.
  local no_start=/usr/sbin/policy-rc.d
  if [ ! -e "$no_start" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$no_start" >/dev/null
    "${as_root[@]}" chmod +x "$no_start"
    # shellcheck disable=SC2064 # as it is now
    trap "${as_root[*]} rm -f $no_start" EXIT
  fi
  # shellcheck disable=SC2086 # a list of words
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $packages >/dev/null
}

# install_crate NAME VERSION ARGUMENT...
install_crate() {
  local name=$1 version=$2
  shift 2
  case $("$root/bin/$name" --version 2>/dev/null || true) in *" $version"*) return 0 ;; esac
  say "building $name $version (some minutes)"
  CARGO_TARGET_DIR=target/tools-release-build \
    nice cargo install --quiet --locked "$name" --version "$version" --root "$root" --force "$@"
}

scripts/check-toolchain.sh
install_packages
install_crate sendme 0.37.1 --no-default-features
# With OpenSSL, as its own releases are built: its fastest SHA-1.
install_crate rqbit 9.1.0 --no-default-features --features default-tls
rm -rf target/tools-release-build
