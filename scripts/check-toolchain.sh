#!/usr/bin/env bash
# Says what is missing to build this tree, and how to get it.
set -eu -o pipefail
cd "$(dirname "$0")/.."

fail() { printf '%s\n' "$@" >&2; exit 1; }

command -v cargo >/dev/null || fail \
  "Rust isn't installed (no 'cargo' on the PATH)." \
  "Install it with rustup, https://rustup.rs, then run this again."
command -v cc >/dev/null || fail \
  "There is no C compiler ('cc'), which some dependencies need." \
  "On Debian or Ubuntu: apt-get install build-essential"

need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(cargo --version | cut -d' ' -f2)
lower=$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n1)
[ "$lower" = "$need" ] || fail "Rust $need or later is needed; this is $have. Try: rustup update stable"
