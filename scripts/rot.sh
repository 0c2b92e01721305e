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

. "$(dirname "$0")/options.sh"

export SALTUS_ROT=1000
take_options "places=SALTUS_ROT seed=SALTUS_SEED" "$@"
draw_seed

cd "$(dirname "$0")/.."
exec cargo test --release --test corruption every_rotten_byte -- --nocapture
