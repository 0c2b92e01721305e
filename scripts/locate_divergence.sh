#!/usr/bin/env bash
# How much travels to find one rotten byte in a large space.
#
#   scripts/locate_divergence.sh [--gib 4] [--record-bytes 3238] [--dir DIR]
#
# A primary and a replica on loopback, a space of that size, one byte of one
# payload flipped in the middle of the replica's copy; then saltus verify, on
# equal copies first. Needs twice the size on the disk of DIR (default: the
# directory for temporary files). Exit 0 only if the copies were proven equal,
# the record was located, and less than 1 MiB was exchanged for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }

gib=4 record_bytes=3238 parent=${TMPDIR:-/tmp}
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --gib) gib=$2 ;;
        --record-bytes) record_bytes=$2 ;;
        --dir) parent=$2 ;;
        *) usage ;;
    esac
    shift 2
done

cargo build --release --locked --quiet
saltus=$PWD/target/release/saltus
dir=$(mktemp -d "$parent/saltus-locate-XXXXXX")
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$dir"
}
trap cleanup EXIT

# The address under a key of a ready file.
address() { sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p" "$dir/$1.ready"; }

# start NODE "listen lines" "other sections"
start() {
    mkdir -p "$dir/$1"
    printf '[node]\nid = "%s"\ncluster = "locate"\ndata_root = "%s"\n[listen]\nadmin = "127.0.0.1:0"\n%s\n%s\n' \
        "$1" "$dir/$1" "$2" "$3" >"$dir/$1.toml"
    "$saltus" run --config "$dir/$1.toml" --ready-file "$dir/$1.ready" 2>"$dir/$1.log" &
    pids+=($!)
    for _ in $(seq 300); do
        [ -e "$dir/$1.ready" ] && return
        sleep 0.1
    done
    echo "$1 did not start:" >&2
    cat "$dir/$1.log" >&2
    exit 3
}

start beta 'replication = "127.0.0.1:0"' ''
start alpha '' "[[replica]]
id = \"beta\"
address = \"$(address beta replication)\""
here=$(address alpha admin) there=$(address beta admin)

records=$((gib * (1 << 30) / (record_bytes + 64) + 1))
"$saltus" wal write "$dir/alpha/large/wal" --records "$records" --record-bytes "$record_bytes" \
    --fsync never
# The primary may not have noticed all of it at the first call.
bytes=$((records * (record_bytes + 64)))
for _ in $(seq 600); do
    head=$("$saltus" wait --json --space large --admin "$here" --timeout 600s |
        sed -n 's/.*"large": \([0-9]*\).*/\1/p')
    [ "${head:-0}" -ge "$bytes" ] && break
    sleep 0.2
done

verify() { "$saltus" verify --json --space large --admin "$here" --against "$there" "$@"; }
number() { sed -n "s/^ *\"$1\": \([0-9.]*\),*$/\1/p" <<<"$2" | tail -1; }

for more in '' --headers; do
    # shellcheck disable=SC2086
    answer=$(verify $more)
    echo "equal up to $(number to_lsn "$answer") ${more:-(every byte)}:" \
        "$(number exchanged_bytes "$answer") bytes exchanged, $(number seconds "$answer") s"
done

segments=("$dir"/beta/large/wal/wal-*.log)
segment=${segments[$((${#segments[@]} / 2))]}
offset=$(((record_bytes + 64) * 1000 + 64 + record_bytes / 2))
byte=$(od -An -tu1 -j "$offset" -N 1 "$segment")
printf "$(printf '\\%03o' $((byte ^ 1)))" |
    dd of="$segment" bs=1 seek="$offset" conv=notrunc status=none
echo "flipped a bit of byte $offset of ${segment##*/} on beta"

code=0
answer=$(verify) || code=$?
echo "$answer"
exchanged=$(number exchanged_bytes "$answer")
echo "located: exit code $code, $exchanged bytes exchanged, $(number seconds "$answer") s"
grep -q "\"segment\": \"${segment##*/}\"" <<<"$answer"
grep -q "\"offset\": $((offset - 64 - record_bytes / 2))" <<<"$answer"
[ "$code" -eq 1 ] && [ "$exchanged" -lt $((1 << 20)) ]
