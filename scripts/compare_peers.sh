#!/usr/bin/env bash
# Saltus beside others that do a part of what it does, on this machine, in one
# sitting: one table of ratios at the end.
#
#   catch-up  a receiver that has nothing takes about 1 GiB of log
#             - pg_receivewal --synchronous (flushes what it writes)
#             - rsync -W through its daemon (flushes nothing)
#             - saltus (durable, verified)
#   commit    one client, one small record at a time
#             - PostgreSQL alone; with one synchronous pg_receivewal
#             - write + fdatasync alone; saltus, append to flushed
#
# usage: scripts/compare_peers.sh [--dir DIR] [--saltus BINARY] [--mib N]
#                                 [--runs N] [--no-install]
#
# As root it installs what is missing with apt-get and runs PostgreSQL as
# `nobody`; otherwise it uses what is there. What it cannot run it skips, and
# says so. It leaves nothing behind but installed packages.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${TMPDIR:-/tmp}
saltus=$root/target/release/saltus
mib=1024
runs=3
install=yes
while [ $# -gt 0 ]; do
    case $1 in
        --dir) dir=$2; shift 2 ;;
        --saltus) saltus=$2; shift 2 ;;
        --mib) mib=$2; shift 2 ;;
        --runs) runs=$2; shift 2 ;;
        --no-install) install=no; shift ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "unknown argument: $1" >&2; exit 2 ;;
    esac
done

say() { echo "$*" >&2; }
skip() { say "skipped: $*"; skipped+=("$*"); }
now() { date +%s.%N; }
# calc EXPRESSION: with three digits.
calc() { awk "BEGIN { printf \"%.3f\", $1 }"; }
# median: of the numbers on standard input, one a line.
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
# field PATH: of the JSON on standard input.
field() { python3 -c "import json,sys
value = json.load(sys.stdin)
for key in sys.argv[1].split('.'): value = value[key]
print(value)" "$1"; }
# A port that is free now.
port() { python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

skipped=()
pids=()
pg_running=no
work=$(mktemp -d "$dir/saltus-peers-XXXXXX")

finish() {
    status=$?
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    if [ "$pg_running" = yes ]; then
        as_pg "$pg_bin/pg_ctl" -D "$work/pg" -m immediate -w stop >/dev/null 2>&1 || true
    fi
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

# --- what there is to compare with ------------------------------------------

find_pg() {
    for candidate in /usr/lib/postgresql/*/bin /usr/local/pgsql/bin; do
        if [ -x "$candidate/initdb" ] && [ -x "$candidate/pg_receivewal" ]; then
            echo "$candidate"
        fi
    done | sort -V | tail -1
}

if [ "$install" = yes ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    missing=()
    [ -n "$(find_pg)" ] || missing+=(postgresql-15)
    command -v rsync >/dev/null || missing+=(rsync)
    if [ ${#missing[@]} -gt 0 ]; then
        say "installing ${missing[*]} ..."
        export DEBIAN_FRONTEND=noninteractive
        # Nothing of the package is to be started: a cluster is made below.
        mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
        { apt-get update -qq && apt-get install -y -qq "${missing[@]}"; } >/dev/null 2>&1 ||
            say "apt-get could not install ${missing[*]}"
    fi
fi
pg_bin=$(find_pg)
command -v python3 >/dev/null || { echo "python3 is needed to read JSON" >&2; exit 3; }
[ -x "$saltus" ] || { echo "no $saltus: cargo build --release" >&2; exit 3; }

# PostgreSQL refuses to run as root.
if [ "$(id -u)" = 0 ]; then
    as_pg() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
    chmod 755 "$work"
else
    as_pg() { "$@"; }
fi
pg_dir() { mkdir -p "$1"; chmod 700 "$1"; [ "$(id -u)" != 0 ] || chown nobody:nogroup "$1"; }

# --- PostgreSQL ---------------------------------------------------------------

pg_port=$(port)
sql() { as_pg "$pg_bin/psql" -h "$work/pgsock" -p "$pg_port" -U bench -qAtX -d postgres -c "$1"; }

pg_start() {
    pg_dir "$work/pg" && pg_dir "$work/pgsock" && pg_dir "$work/pgwal" || return 1
    as_pg "$pg_bin/initdb" -D "$work/pg" -U bench -A trust -N >/dev/null 2>&1 || return 1
    cat >>"$work/pg/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work/pgsock'
port = $pg_port
fsync = on
wal_level = logical
max_wal_size = 16GB
checkpoint_timeout = 1h
wal_keep_size = 16GB
autovacuum = off
synchronous_standby_names = ''
CONF
    pg_running=yes
    as_pg "$pg_bin/pg_ctl" -D "$work/pg" -l "$work/pg/log" -w start >/dev/null
}

# Log without tables: messages of 3.2 KB, as a memory store writes them.
pg_fill() {
    sql "SELECT count(pg_logical_emit_message(false, 'bench', repeat(md5(i::text), 101)))
         FROM generate_series(1, $((mib * 1024 * 1024 / 3302))) i" >/dev/null
    sql "SELECT pg_switch_wal()" >/dev/null
    sql "CHECKPOINT" >/dev/null
    sync -f "$work"
}

# pg_slot NAME: keeps the log from now on for one run of pg_receivewal.
pg_slot() { sql "SELECT pg_create_physical_replication_slot('$1', true)" >/dev/null; }

pg_receive() {
    as_pg "$pg_bin/pg_receivewal" -d "host=$work/pgsock port=$pg_port user=bench application_name=bench" \
        -D "$work/pgwal" --synchronous --no-loop "$@"
}

# pg_catch_up SLOT LSN: GB/s and CPU s/GB of the receiver.
pg_catch_up() {
    rm -rf "$work/pgwal" && pg_dir "$work/pgwal"
    sync -f "$work"
    local real user sys bytes
    local TIMEFORMAT='%R %U %S'
    { time pg_receive --slot="$1" --endpos="$2" >/dev/null 2>"$work/pgreceive.log"; } 2>"$work/time"
    read -r real user sys <"$work/time"
    bytes=$(du -sb "$work/pgwal" | cut -f1)
    [ "$bytes" -gt $((mib * 1024 * 1024 / 2)) ] || return 1
    echo "$(calc "$bytes / 1e9 / $real") $(calc "($user + $sys) * 1e9 / $bytes")"
}

# pg_commits: p50 and p99 in microseconds of one client's inserts of 1 KiB.
pg_commits() {
    (cd "$work/pgbench" && rm -f pgbench_log.* &&
        as_pg "$pg_bin/pgbench" -h "$work/pgsock" -p "$pg_port" -U bench -n -c 1 -t 3000 -l \
            -f insert.sql postgres >/dev/null 2>&1 &&
        cat pgbench_log.* | awk '{ print $3 }' | sort -n |
        awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)], v[int(NR * 0.99)] }')
}

run_pg() {
    [ -n "$pg_bin" ] || { skip "PostgreSQL: not installed"; return 0; }
    say "PostgreSQL: a new cluster, $mib MiB of log ..."
    pg_start || { skip "PostgreSQL: the cluster does not start"; return 0; }
    local end line receiver
    for run in $(seq "$runs"); do pg_slot "run$run"; done
    pg_fill
    end=$(sql "SELECT pg_current_wal_flush_lsn()")
    for run in $(seq "$runs"); do
        if line=$(pg_catch_up "run$run" "$end"); then
            echo "$line" >>"$work/pg_catch_up"
            say "pg_receivewal: $line (GB/s, receiver CPU s/GB)"
        else
            skip "pg_receivewal: $(tail -1 "$work/pgreceive.log")"
            return 0
        fi
    done

    command -v "$pg_bin/pgbench" >/dev/null || { skip "commits: no pgbench"; return 0; }
    pg_dir "$work/pgbench"
    echo "INSERT INTO bench VALUES (repeat('x', 1024));" >"$work/pgbench/insert.sql"
    sql "CREATE TABLE bench (payload text)"
    rm -rf "$work/pgwal" && pg_dir "$work/pgwal"
    for run in $(seq "$runs"); do
        pg_commits >>"$work/pg_local"
        say "commit, alone: $(tail -1 "$work/pg_local") (us, p50 p99)"
        sql "ALTER SYSTEM SET synchronous_standby_names = 'bench'"
        pg_receive >/dev/null 2>&1 &
        receiver=$!
        pids+=("$receiver")
        sql "SELECT pg_reload_conf()" >/dev/null
        for _ in $(seq 100); do
            [ "$(sql "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")" = 1 ] && break
            sleep 0.1
        done
        pg_commits >>"$work/pg_sync"
        say "commit, one synchronous receiver: $(tail -1 "$work/pg_sync") (us, p50 p99)"
        sql "ALTER SYSTEM RESET synchronous_standby_names"
        sql "SELECT pg_reload_conf()" >/dev/null
        pkill -P "$receiver" 2>/dev/null || kill "$receiver" 2>/dev/null || true
        wait "$receiver" 2>/dev/null || true
    done
    as_pg "$pg_bin/pg_ctl" -D "$work/pg" -m fast -w stop >/dev/null
    pg_running=no
    rm -rf "$work/pg" "$work/pgwal"
}

# --- rsync --------------------------------------------------------------------

run_rsync() {
    command -v rsync >/dev/null || { skip "rsync: not installed"; return 0; }
    say "rsync -W through its daemon, $mib MiB of log ..."
    local rsync_port start copied flushed bytes
    rsync_port=$(port)
    "$saltus" wal write "$work/rsync-from" --record-bytes 3238 --fsync never \
        --records $((mib * 1024 * 1024 / 3302)) >/dev/null
    bytes=$(du -sb "$work/rsync-from" | cut -f1)
    printf 'use chroot = no\nuid = %s\ngid = %s\n[log]\npath = %s\nread only = yes\n' \
        "$(id -u)" "$(id -g)" "$work/rsync-from" >"$work/rsyncd.conf"
    rsync --daemon --no-detach --address=127.0.0.1 --port="$rsync_port" \
        --config="$work/rsyncd.conf" >/dev/null 2>&1 &
    pids+=($!)
    for _ in $(seq 50); do
        rsync "rsync://127.0.0.1:$rsync_port/" >/dev/null 2>&1 && break
        sleep 0.1
    done
    for run in $(seq "$runs"); do
        rm -rf "$work/rsync-to"
        sync -f "$work"
        cat "$work"/rsync-from/* >/dev/null
        start=$(now)
        rsync -aW "rsync://127.0.0.1:$rsync_port/log/" "$work/rsync-to/" >/dev/null ||
            { skip "rsync: it failed"; return 0; }
        copied=$(now)
        sync -f "$work"
        flushed=$(now)
        echo "$(calc "$bytes / 1e9 / ($copied - $start)") $(calc "$bytes / 1e9 / ($flushed - $start)")" \
            >>"$work/rsync"
        say "rsync: $(tail -1 "$work/rsync") (GB/s copied, GB/s with a sync behind it)"
    done
    rm -rf "$work/rsync-from" "$work/rsync-to"
}

# --- Saltus -------------------------------------------------------------------

run_saltus() {
    say "saltus bench catch-up, tail ..."
    "$saltus" bench catch-up --dir "$work" --runs "$runs" --bytes "${mib}MiB" --json >"$work/catch-up.json"
    "$saltus" bench tail --dir "$work" --runs "$runs" --json >"$work/tail.json"
}

column() { cut -d' ' -f"$2" <"$work/$1" | median; }
# row WHAT FIGURE UNIT RATIO
row() { printf '%-44s %14s %-5s %15s\n' "$@"; }
# short: a number with three digits at most.
short() { printf '%.3g' "$1"; }

run_pg
run_rsync
run_saltus

rate=$(short "$(field durable_gb_s <"$work/catch-up.json")")
p50=$(printf '%.0f' "$(field append_to_flushed_us.p50 <"$work/tail.json")")
p99=$(printf '%.0f' "$(field append_to_flushed_us.p99 <"$work/tail.json")")
bare50=$(printf '%.0f' "$(field bare_fdatasync_us.p50 <"$work/tail.json")")
bare99=$(printf '%.0f' "$(field bare_fdatasync_us.p99 <"$work/tail.json")")
faster() { printf '%.1f x' "$(calc "$rate / $1")"; }
slower() { printf '%.2f x' "$(calc "$1 / $2")"; }

echo
echo "$mib MiB of log, median of $runs run(s)"
echo
row CATCH-UP FIGURE UNIT "SALTUS IS"
row "saltus, verified, durable" "$rate" GB/s ""
row "  receiver" "$(short "$(field receiver_cpu_s_per_gb <"$work/catch-up.json")")" s/GB ""
row "raw loop, durable" "$(short "$(field limit_gb_s <"$work/catch-up.json")")" GB/s \
    "$(printf '%.2f x' "$(field ratio <"$work/catch-up.json")")"
if [ -s "$work/pg_catch_up" ]; then
    row "pg_receivewal --synchronous" "$(column pg_catch_up 1)" GB/s "$(faster "$(column pg_catch_up 1)")"
    row "  receiver" "$(column pg_catch_up 2)" s/GB ""
fi
if [ -s "$work/rsync" ]; then
    row "rsync -W, not durable" "$(column rsync 1)" GB/s "$(faster "$(column rsync 1)")"
    row "rsync -W, then sync" "$(column rsync 2)" GB/s "$(faster "$(column rsync 2)")"
fi
echo
row "ONE SMALL RECORD, P50 / P99" FIGURE UNIT "BY ALONE"
row "write + fdatasync alone" "$bare50 / $bare99" us ""
row "saltus, append to flushed at the replica" "$p50 / $p99" us \
    "$(slower "$p50" "$bare50") / $(slower "$p99" "$bare99")"
if [ -s "$work/pg_local" ]; then
    row "PostgreSQL commit alone" "$(column pg_local 1) / $(column pg_local 2)" us ""
fi
if [ -s "$work/pg_sync" ]; then
    row "PostgreSQL commit, one synchronous receiver" "$(column pg_sync 1) / $(column pg_sync 2)" us \
        "$(slower "$(column pg_sync 1)" "$(column pg_local 1)") / $(slower "$(column pg_sync 2)" "$(column pg_local 2)")"
fi
for what in "${skipped[@]}"; do echo "skipped: $what"; done
