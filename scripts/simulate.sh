#!/bin/sh
# The long form of tests/simulation.rs: whole nodes in a simulated world, one
# seed after the other, in the release build.
#
#   scripts/simulate.sh [--first-seed N] [--seeds N] [--seconds S]
#
# Ends after so many seeds or so many seconds, whichever comes first; without
# either, after a million seeds. Prints seeds per second. Exit 0 if all held that
# docs/TESTING.md says the oracle looks at; exit 1 at a violation, with the last
# lines of the seed and the one command that shows it in full.
set -eu

. "$(dirname "$0")/options.sh"

take_options "first-seed=SALTUS_FIRST_SEED seeds=SALTUS_SEEDS seconds=SALTUS_SECONDS" "$@"
for number in "${SALTUS_FIRST_SEED:-0}" "${SALTUS_SEEDS:-0}" "${SALTUS_SECONDS:-0}"; do
    case $number in
        *[!0-9]*) usage ;;
    esac
done

cd "$(dirname "$0")/.."
[ -n "${SALTUS_SEEDS:-}${SALTUS_SECONDS:-}" ] || { SALTUS_SEEDS=1000000; export SALTUS_SEEDS; }
RUST_BACKTRACE=0 cargo test --quiet --release --test simulation every_invariant -- --nocapture || exit 1
