#!/bin/sh
# The long form of tests/kill.rs: both sides killed with SIGKILL at random
# moments, under load, in the release build.
#
#   scripts/soak_kill.sh [--kills 100 | --minutes M] [--seed S]
#                        [--backend uring|portable] [--mib-per-s 20]
#
# With --minutes the steady writers' loop runs for so long, and the unruly
# writer's is left out. Everything written stays on the disk until the end,
# three times. Prints its seed first; the same seed makes the same choices again. Exit 0
# only if the directories are identical in the end and no restart showed a gap,
# a duplicate or a torn tail.
set -eu

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

SALTUS_KILLS=100
SALTUS_MIB_PER_S=20
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --kills) SALTUS_KILLS=$2 ;;
        --minutes) SALTUS_MINUTES=$2; export SALTUS_MINUTES ;;
        --seed) SALTUS_SEED=$2; export SALTUS_SEED ;;
        --backend) SALTUS_BACKEND=$2; export SALTUS_BACKEND ;;
        --mib-per-s) SALTUS_MIB_PER_S=$2 ;;
        *) usage ;;
    esac
    shift 2
done
export SALTUS_KILLS SALTUS_MIB_PER_S

cd "$(dirname "$0")/.."
only=
[ -z "${SALTUS_MINUTES-}" ] || only=both_sides
exec cargo test --release --test kill -- --nocapture $only
