#!/bin/sh
# The long form of tests/corruption/flight.rs: single bits that flip in frames
# in flight, at random places of both directions, in the release build.
#
#   scripts/flip.sh [--flips 10000] [--seed S] [--kib-per-s 1024]
#
# Half of them on each backend, through four flipping proxies at a time. Prints
# its seed first. Exit 0 only if every flip was noticed (the connection that it
# was on was ended by one of its ends), none was written, and all logs are
# identical in the end.
set -eu

. "$(dirname "$0")/options.sh"

export SALTUS_FLIPS=10000
take_options "flips=SALTUS_FLIPS seed=SALTUS_SEED kib-per-s=SALTUS_KIB_PER_S" "$@"
draw_seed

cd "$(dirname "$0")/.."
exec cargo test --release --test corruption every_flipped_bit -- --nocapture
