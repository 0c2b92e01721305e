#!/usr/bin/env bash
# Run the fuzzers of fuzz/, each for a while.
#
#   scripts/fuzz.sh [--seconds 20] [--target NAME] [--sanitizer address|none] [--quick]
#
# --quick builds beside the tests, without cargo-fuzz: no sanitizer, no
# optimisation, and of what the tests have built only this crate anew, because it
# alone is watched for where an input leads. The checks of a debug build stay in.
#
# Begins with the inputs in fuzz/corpus/ and writes nothing there: what is found
# on the way is kept in fuzz/found/, what fails in fuzz/artifacts/. Exit 1 if
# anything failed, a build of ours among it; where a target did, the last lines say
# which input, and the input, copied to fuzz/corpus/NAME/, is a test. Exit 4 only if
# this machine lacks what it takes (cargo, a C++ compiler, the crates), with the
# reason.
#
# An input may take 10 seconds (30 with --quick), 2 GiB of memory in all and
# 256 MiB in one piece.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,18s/^# \{0,1\}//p' "$0" >&2; exit 2; }

seconds=20 sanitizer=address quick=""
targets=$(sed -n 's/^    ("\([a-z]*\)", .*/\1/p' fuzz/targets/mod.rs)
while [ $# -gt 0 ]; do
    if [ "$1" = --quick ]; then
        quick=yes
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
command -v cargo >/dev/null || cannot "there is no cargo"
# libFuzzer is C++.
command -v c++ >/dev/null || cannot "there is no C++ compiler"
# Tell what the machine lacks from what is wrong with the source.
build_failed() {
    local fetched from=(--manifest-path fuzz/Cargo.toml --locked)
    local no_network='failed to download|failed to query|Could not resolve|offline mode'
    if ! fetched=$(cargo fetch "${from[@]}" 2>&1); then
        echo "$fetched" >&2
        ! grep -Eq "$no_network" <<<"$fetched" || cannot "the crates are not to be had"
    elif ! cargo build "${from[@]}" --target-dir "$built" --package libfuzzer-sys; then
        cannot "libFuzzer does not build"
    fi
    echo "the fuzzers do not build" >&2
    exit 1
}
build_quickly() {
    local flags
    # What cargo-fuzz passes.
    flags='"--cfg=fuzzing","-Cpasses=sancov-module","-Cllvm-args=-sanitizer-coverage-level=4"'
    flags+=',"-Cllvm-args=-sanitizer-coverage-inline-8bit-counters"'
    flags+=',"-Cllvm-args=-sanitizer-coverage-pc-table"'
    flags+=',"-Cllvm-args=-sanitizer-coverage-trace-compares"'
    cargo build --manifest-path fuzz/Cargo.toml --target-dir "$built" --bins --locked \
        -Zprofile-rustflags \
        --config "profile.dev.package.saltus.rustflags=[$flags]" \
        --config "profile.dev.package.saltus-fuzz.rustflags=[$flags]"
}
build() { cargo fuzz build --sanitizer "$1"; }

built=${CARGO_TARGET_DIR:-target}
if [ -n "$quick" ]; then
    build_quickly || build_failed
else
    if ! cargo fuzz --version >/dev/null 2>&1; then
        # It only starts the others: nothing is gained by optimising it.
        cargo install cargo-fuzz --locked --debug --quiet ||
            cannot "cargo install cargo-fuzz failed"
    fi
    if ! build "$sanitizer"; then
        [ "$sanitizer" != none ] || build_failed
        echo "without the $sanitizer sanitizer, then" >&2
        sanitizer=none
        build none || build_failed
    fi
fi

# cargo-fuzz has options of its own before this; what is not optimised is slow.
end_of_ours=-- patience=10
[ -z "$quick" ] || end_of_ours="" patience=30

# Run one, with directories of inputs and options of libFuzzer.
fuzz() {
    local target=$1
    shift
    if [ -n "$quick" ]; then
        mkdir -p "fuzz/artifacts/$target"
        "$built/debug/$target" "-artifact_prefix=fuzz/artifacts/$target/" "$@"
    else
        cargo fuzz run --sanitizer "$sanitizer" "$target" "$@"
    fi
}

failed=()
for target in $targets; do
    echo "--- $target, $seconds s"
    mkdir -p "fuzz/found/$target"
    # The log of the program under test is not of interest.
    SALTUS_LOG=off fuzz "$target" "fuzz/found/$target" "fuzz/corpus/$target" $end_of_ours \
        -max_total_time="$seconds" -timeout=$patience -rss_limit_mb=2048 -malloc_limit_mb=256 \
        -max_len=32768 -print_final_stats=1 -verbosity=1 2>&1 |
        grep -v '^#[0-9]' | tail -25 || failed+=("$target")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}" >&2
    exit 1
fi
