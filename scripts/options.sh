# Sourced by the long forms of tests beside it, whose options are variables that
# the tests read.

# Say what stands at the head of the script, and end.
usage() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0" >&2
    exit 2
}

# take_options "NAME=VARIABLE ..." "$@": set and export the variables of the
# options that were given.
take_options() {
    known=$1
    shift
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || usage
        variable=
        for pair in $known; do
            [ "$1" != "--${pair%%=*}" ] || variable=${pair#*=}
        done
        [ -n "$variable" ] || usage
        export "$variable=$2"
        shift 2
    done
}

# Another seed for each run that was not given one; the tests print it. Their
# short forms make the same choices each time.
draw_seed() {
    [ -n "${SALTUS_SEED-}" ] || SALTUS_SEED=$(od -A n -N 4 -t u4 /dev/urandom | tr -d ' ')
    export SALTUS_SEED
}
