#!/usr/bin/env bash
# Measures resident memory of release nodes on loopback and prints the table of docs/performance.md:
# idle with three peers, publishing a 4 GiB file, streaming it from the node that has it and through one that hasn't.
# Takes some minutes and 9 GiB of disk in $TMPDIR. SIZE_MIB and IDLE_S change size and waiting time.
set -eu -o pipefail
cd "$(dirname "$0")/.."

export MHC_P2P__LISTEN=127.0.0.1
mhc=$PWD/target/release/mhc
size_mib=${SIZE_MIB:-4096}
idle_s=${IDLE_S:-60}
dir=$(mktemp -d "${TMPDIR:-/tmp}/mhc-memory.XXXXXX")
declare -A pid http

finish() {
  for one in "${pid[@]}"; do kill -9 "$one" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap finish EXIT

say() { printf 'measure-memory: %s\n' "$*" >&2; }

# Starts node $1; further arguments go to `mhc up`.
start() {
  local name=$1
  shift
  "$mhc" up --home "$dir/$name" --json --no-mdns --http 127.0.0.1:0 --p2p-port 0 "$@" >"$dir/$name.out" 2>"$dir/$name.log" &
  pid[$name]=$!
  for _ in $(seq 300); do
    grep -q '"ready"' "$dir/$name.out" && break
    sleep 0.1
  done
  http[$name]=$(field http <"$dir/$name.out")
}

# The text field $1 of the JSON on stdin.
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n1; }

status_kib() { sed -n "s/^$2:[[:space:]]*\([0-9]*\) kB/\1/p" "/proc/${pid[$1]}/status"; }
resident() { status_kib "$1" VmRSS; }

# Peaks are counted from here on.
reset_peak() { echo 5 >"/proc/${pid[$1]}/clear_refs"; }
peak() { status_kib "$1" VmHWM; }
mb() { awk -v kib="$1" 'BEGIN { printf "%.1f", kib * 1024 / 1000000 }'; }

row() { printf '| %s | %s | %s | %s |\n' "$1" "$(mb "$2")" "$(mb "$3")" "$(mb $(($3 - $2)))"; }

start a
ticket=$("$mhc" ticket --home "$dir/a" --json | field ticket)
for name in b c d; do start "$name" --peer "$ticket"; done
say "idle with three peers for $idle_s s"
sleep "$idle_s"
peers=$("$mhc" status --home "$dir/a" --json | tr -d ' \n' | sed -n 's/.*"peers":\([0-9]*\).*/\1/p')
[ "$peers" = 3 ] || { say "there are $peers peers, not 3"; exit 1; }

echo "| node | before, MB | peak, MB | added, MB |"
echo "|---|---|---|---|"
printf '| idle, 3 peers, after %s s | %s | | |\n' "$idle_s" "$(mb "$(resident a)")"

# Holes cost no disk; what is published of them does.
truncate -s "${size_mib}M" "$dir/big.bin"
say "publishing $size_mib MiB"
before=$(resident a)
reset_peak a
blob=$("$mhc" publish "$dir/big.bin" --home "$dir/a" --json 2>/dev/null | field blob)
row "publishing $size_mib MiB" "$before" "$(peak a)"

say "streaming from the node that has it"
before=$(resident a)
reset_peak a
curl -sS -o /dev/null --fail "${http[a]}/blobs/$blob"
row "streaming $size_mib MiB from disk" "$before" "$(peak a)"

say "streaming through a node that hasn't got it"
before=$(resident b)
before_a=$(resident a)
reset_peak a
reset_peak b
curl -sS -o /dev/null --fail "${http[b]}/blobs/$blob"
row "streaming $size_mib MiB fetched from a peer" "$before" "$(peak b)"
row "providing $size_mib MiB to a peer" "$before_a" "$(peak a)"
