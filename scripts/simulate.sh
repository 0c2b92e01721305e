#!/bin/sh
# The long form of tests/simulation.rs: whole nodes in a simulated world, one
# seed after the other, in the release build.
#
#   scripts/simulate.sh [--first-seed N] [--seeds N] [--seconds S]
#
# Ends after so many seeds or so many seconds, whichever comes first; without
# either, after a million seeds. Prints seeds per second. Exit 0 if every
# invariant held in every seed; exit 1 at a violation, with the last lines of
# the seed and the one command that shows it in full.
set -eu

usage() {
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

number() {
    case $1 in
        '' | *[!0-9]*) usage ;;
    esac
}

while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    number "$2"
    case $1 in
        --first-seed) SALTUS_FIRST_SEED=$2; export SALTUS_FIRST_SEED ;;
        --seeds) SALTUS_SEEDS=$2; export SALTUS_SEEDS ;;
        --seconds) SALTUS_SECONDS=$2; export SALTUS_SECONDS ;;
        *) usage ;;
    esac
    shift 2
done

cd "$(dirname "$0")/.."
[ -n "${SALTUS_SEEDS:-}${SALTUS_SECONDS:-}" ] || { SALTUS_SEEDS=1000000; export SALTUS_SEEDS; }
RUST_BACKTRACE=0 cargo test --quiet --release --test simulation every_invariant -- --nocapture || exit 1
