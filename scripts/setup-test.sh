#!/usr/bin/env bash
# Installs what the tests need and isn't there yet: Debian's packages, playwright-core, sendme.
# Everything but the packages goes into this tree (target/tools, testnet/browser/node_modules).
set -eu -o pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup-test: %s\n' "$*" >&2; }

# A command that must be there, and the Debian package that has it.
missing_packages() {
  while read -r command package; do
    command -v "$command" >/dev/null || echo "$package"
  done <<'END'
cc build-essential
c++ build-essential
ffmpeg ffmpeg
chromium chromium
curl curl
ip iproute2
nft nftables
h2load nghttp2-client
yggdrasil yggdrasil
setpriv util-linux
node nodejs
npm npm
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
  # shellcheck disable=SC2086 # a list of words
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $packages >/dev/null
}

install_browser_driver() {
  [ -d testnet/browser/node_modules/playwright-core ] && return 0
  say "installing playwright-core"
  PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --prefix testnet/browser --no-audit --no-fund --loglevel=error
}

# The public tool that fetches from iroh nodes: our bytes must be readable by it.
install_sendme() {
  command -v sendme >/dev/null || [ -x target/tools/bin/sendme ] && return 0
  say "installing sendme (some minutes)"
  CARGO_TARGET_DIR=target/tools-build CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
    cargo install --quiet --locked sendme --version 0.37.1 --debug --no-default-features --root target/tools
  rm -rf target/tools-build
}

scripts/check-toolchain.sh
install_packages
install_browser_driver
install_sendme
