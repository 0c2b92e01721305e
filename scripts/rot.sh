#!/bin/sh
# The long form of tests/corruption/rest.rs: bytes that rot at random places of
# a replica, found and mended by one pass of scrubbing, in the release build.
#
#   scripts/rot.sh [--places 1000] [--seed S]
#
# 40 places before each pass, every other pass while the log grows. Prints its
# seed first. Exit 0 only if every byte lay in a range that the next pass found
# and mended, and the replica was identical after each.
set -eu

usage() {
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

SALTUS_ROT=1000
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --places) SALTUS_ROT=$2 ;;
        --seed) SALTUS_SEED=$2; export SALTUS_SEED ;;
        *) usage ;;
    esac
    shift 2
done
export SALTUS_ROT

cd "$(dirname "$0")/.."
exec cargo test --release --test corruption every_rotten_byte -- --nocapture
