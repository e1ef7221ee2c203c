#!/usr/bin/env bash
# Checks the dependencies' licences, duplicates and sources by deny.toml. Advisories need the RustSec database, which
# is checked where it has been fetched before (`cargo deny fetch`) and loudly skipped elsewhere.
set -eu -o pipefail
cd "$(dirname "$0")/.."

PATH="$PWD/target/tools/bin:$PATH"
if ! command -v cargo-deny >/dev/null; then
  echo "deny: installing cargo-deny (some minutes)" >&2
  CARGO_TARGET_DIR=target/tools-build CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
    cargo install --quiet --locked cargo-deny --version 0.20.2 --debug --root target/tools
  rm -rf target/tools-build
fi

cargo deny --locked check --hide-inclusion-graph bans licenses sources

if [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
  cargo deny --locked --offline check advisories
else
  echo "deny: SKIPPED advisories: the RustSec database isn't on this machine; fetch it with 'cargo deny fetch db'" >&2
fi
