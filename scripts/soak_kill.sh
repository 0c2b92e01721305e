#!/bin/sh
# The long form of tests/kill.rs: both sides killed with SIGKILL at random
# moments, under load, in the release build.
#
#   scripts/soak_kill.sh [--kills 100 | --minutes M] [--seed S]
#                        [--backend uring|portable] [--mib-per-s R]
#
# With --minutes the steady writers' loop runs for so long, and the unruly
# writer's is left out. Three spaces are written at R MiB a second each (20; with
# --minutes 2), and everything written stays on the disk until the end, three
# times: 30 minutes take 32 GB. Prints its seed first; the same seed makes the
# same choices again. Exit 0 only if the directories are identical in the end, and
# if no restart has cost a byte that was acknowledged as flushed before it, or
# showed a gap, a duplicate or a torn tail. How many restarts were looked at is said
# at the end.
set -eu

. "$(dirname "$0")/options.sh"

export SALTUS_KILLS=100
known="kills=SALTUS_KILLS minutes=SALTUS_MINUTES seed=SALTUS_SEED"
take_options "$known backend=SALTUS_BACKEND mib-per-s=SALTUS_MIB_PER_S" "$@"
draw_seed

cd "$(dirname "$0")/.."
only= rate=20
[ -z "${SALTUS_MINUTES-}" ] || only=both_sides rate=2
export SALTUS_MIB_PER_S="${SALTUS_MIB_PER_S-$rate}"
exec cargo test --release --test kill -- --nocapture $only
