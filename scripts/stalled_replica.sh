#!/bin/sh
# The memory of a primary whose replica has stopped reading, while the writer
# goes on and another replica is served: flat, and below 64 MiB anonymous.
#
#   scripts/stalled_replica.sh [--seconds 600] [--mib-per-s 16]
#
# Needs twice what is written on the disk that TMPDIR names: the primary's log
# and the other replica's copy. Prints a line now and then and the figures at
# the end. Exit 0 only if the memory stayed flat and below the limit.
set -eu

. "$(dirname "$0")/options.sh"

export SALTUS_SECONDS=600 SALTUS_MIB_PER_S=16
take_options "seconds=SALTUS_SECONDS mib-per-s=SALTUS_MIB_PER_S" "$@"

cd "$(dirname "$0")/.."
exec cargo test --release --test faults -- --nocapture stopped_reading
