#!/usr/bin/env bash
# Run the fuzzers of fuzz/, each for a while.
#
#   scripts/fuzz.sh [--seconds 20] [--target NAME] [--sanitizer address|none] [--quick]
#
# --quick builds within minutes from nothing: no sanitizer, little
# optimisation, no debug information. The checks of a debug build stay in.
#
# Begins with the inputs in fuzz/corpus/ and writes nothing there: what is found
# on the way is kept in fuzz/found/, what fails in fuzz/artifacts/. Exit 1 if
# anything failed; the last lines then say which input, and the input, copied to
# fuzz/corpus/NAME/, is a test. Exit 4 if the fuzzers cannot be built here, with
# the reason.
#
# An input may take 10 seconds, 2 GiB of memory in all and 256 MiB in one piece.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }

seconds=20 sanitizer=address profile=""
targets=$(sed -n 's/^    ("\([a-z]*\)", .*/\1/p' fuzz/targets/mod.rs)
while [ $# -gt 0 ]; do
    if [ "$1" = --quick ]; then
        # As fuzz/Cargo.toml has it for dev.
        sanitizer=none profile=--dev
        shift
        continue
    fi
    [ $# -ge 2 ] || usage
    case $1 in
        --seconds) seconds=$2 ;;
        --target) targets=$2 ;;
        --sanitizer) sanitizer=$2 ;;
        *) usage ;;
    esac
    shift 2
done

# cargo-fuzz passes flags that only a nightly compiler takes by itself.
export RUSTC_BOOTSTRAP=1
cannot() {
    echo "the fuzzers cannot be run here: $1" >&2
    exit 4
}
# libFuzzer is C++.
command -v c++ >/dev/null || cannot "there is no C++ compiler"
if ! cargo fuzz --version >/dev/null 2>&1; then
    # It only starts the others: nothing is gained by optimising it.
    cargo install cargo-fuzz --locked --debug --quiet ||
        cannot "cargo install cargo-fuzz failed"
fi
build() { cargo fuzz build $profile --sanitizer "$1"; }
if ! build "$sanitizer"; then
    [ "$sanitizer" != none ] || cannot "the build failed"
    echo "without the $sanitizer sanitizer, then" >&2
    sanitizer=none
    build none || cannot "the build failed"
fi

failed=()
for target in $targets; do
    echo "--- $target, $seconds s"
    mkdir -p "fuzz/found/$target"
    # The log of the program under test is not of interest.
    SALTUS_LOG=off cargo fuzz run $profile --sanitizer "$sanitizer" "$target" \
        "fuzz/found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 \
        -max_len=32768 -print_final_stats=1 -verbosity=1 2>&1 |
        grep -v '^#[0-9]' | tail -25 || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}" >&2
    exit 1
fi
