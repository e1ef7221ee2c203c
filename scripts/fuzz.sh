#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds, with the compiler flags that cargo-fuzz would use. Needs
# neither cargo-fuzz nor a nightly compiler: without an address sanitizer (our code has no unsafe) stable will do.
#   scripts/fuzz.sh SECONDS [TARGET]...
set -eu -o pipefail
cd "$(dirname "$0")/.."

seconds=${1:?seconds for each target}
shift
host=$(rustc -vV | sed -n 's/^host: //p')
cargo run --quiet --locked -p mhc-testnet --example fuzz_seeds -- fuzz/corpus

export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks"
# Naming the target keeps the flags away from build scripts and macros.
cargo build --quiet --manifest-path fuzz/Cargo.toml --locked --release --target "$host"

targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"/\1/p' fuzz/Cargo.toml)
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  log=$(mktemp)
  # An input that takes over 5 s, 512 MB of memory or 64 MB in one piece is a finding too.
  if "fuzz/target/$host/release/$target" "fuzz/corpus/$target" \
    -max_total_time="$seconds" -timeout=5 -rss_limit_mb=512 -malloc_limit_mb=64 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$target/" >"$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz: $target: $seconds s, $runs inputs, no finding"
    rm -f "$log"
  else
    tail -n 60 "$log"
    echo "fuzz: $target: FINDING, in fuzz/artifacts/$target" >&2
    exit 1
  fi
done
