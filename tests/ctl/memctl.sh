#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=90
#
# memctl, every command: what it asks of the daemon, what it prints, its exit code.
# shellcheck source=tests/ctl/lib.sh
. "$(dirname "$0")/lib.sh"

# ---- without a daemon: 3, and the line says what to do
for command in status "vm list" "vm show x" working-set "merge on" "unmerge all" settle estimate; do
    # shellcheck disable=SC2086
    ctl 3 $command
    err "^memctl: no memd at $dir/control.sock; start memd, or .*--run-dir or MEMD_RUN_DIR"
done
echo "no socket" >"$dir/control.sock"
ctl 3 status
rm "$dir/control.sock"
ctl 0 version
out "^memd not running in $dir$"

# ---- usage: 2
"$bin/memctl" >"$tmp/out" 2>"$tmp/err"
[ $? = 2 ] || fail "memctl without a command did not end with 2"
err "^Usage: memctl"
ctl 2 frobnicate
err "unknown command 'frobnicate'; see memctl --help"
ctl 2 vm
err '`memctl vm` needs list\|show\|set; see'
ctl 2 vm eat alpha
err "needs list\|show\|set, not 'eat'"
ctl 2 merge maybe
err "needs on\|off, not 'maybe'"
ctl 2 status extra
err "'extra' is too much"
ctl 2 unmerge
err "needs VM\|all"
ctl 2 unmerge a b
ctl 2 vm show
ctl 2 --bogus status
err "'--bogus'"
ctl 2 -q status
err "'-q'"
ctl 2 settle --timeout
err "timeout needs a value"
for seconds in 0 -1 1.5 86401 x ''; do
    ctl 2 settle --timeout "$seconds"
    err "not a number of seconds"
done
ctl 2 status --timeout 3
err "takes no --timeout"
ctl 2 merge on --json
ctl 2 doctor --guest 12Q
ctl 2 --run-dir "/$(printf '%0120d' 0)" status
err "too long for a socket"
ctl 2 status --run-dir
# ---- help: of everything, of each command, of a family; on stdout, with 0
ctl 0 --help
help_of=$(sed -n 's/^  \([a-z-]*\( list\| show\| set\| on\| off\| stats\| limits\)\{0,1\}\) .*/\1/p' "$tmp/out" | sort -u)
for command in status "vm list" "vm show" "vm set" working-set budget why "merge on" "merge off" unmerge settle estimate pageout pagein \
    "balloon list" "balloon set" "balloon stats" "balloon limits" doctor version; do
    grep -qx "$command" <<<"$help_of" || fail "memctl --help does not list '$command'"
    # shellcheck disable=SC2086
    ctl 0 $command --help
    out "^Usage: memctl $command"
    out "--run-dir DIR"
done
ctl 0 vm --help
[ "$(grep -c ^Usage: "$tmp/out")" = 3 ] || fail "memctl vm --help"
ctl 0 -h
ctl 0 --version
out '^memctl [0-9]+\.[0-9]+\.[0-9]+$'

# ---- with one
serve_start
ctl 0 status
out "^memd [0-9.]+, pid [0-9]+, up 1 min 1 s, in $dir: merging on$"
out "^saved +160 MiB  31.2% of guest memory$"
out "^ +1  alpha +4001  settled +256 MiB"
ctl 0 --run-dir "$dir" status
MEMD_RUN_DIR=/nonexistent ctl 0 status --run-dir "$dir"
MEMD_RUN_DIR='' ctl 0 --run-dir="$dir" version
out "^memd [0-9.]+, pid [0-9]+ in $dir$"

# every key people may count on
ctl 0 status --json
for key in daemon pid version host mem_total_bytes mem_available_bytes totals vms id name domain state guest_bytes \
    zero_pages pages_shared pages_sharing pages_unshared pages_volatile pages_skipped ineligible_bytes pinned locked \
    hugetlb shared uffd full_scans merges cow_breaks saved_bytes metadata_bytes net_saved_bytes vmas_used vmas_limit \
    settled; do
    out "^ +\"$key\": "
done
out '^ +"net_saved_bytes": -4096'
curl -sS --unix-socket "$dir/control.sock" http://memd/v1/status | cmp - "$tmp/out" ||
    fail "status --json is not what GET /v1/status answers"

ctl 0 vm list
[ "$(wc -l <"$tmp/out")" = 3 ] || fail "vm list"
out "^ *2 +beta .* 30000 +10000 +23 " # zero, merged, written and still there
ctl 0 vm list --json
out '"name": "beta"'
fake nvms=0
ctl 0 vm list
out "^no VM is connected$"
ctl 0 status
fake nvms=300
ctl 0 vm list
[ "$(wc -l <"$tmp/out")" = 301 ] || fail "vm list of 300"
for json in "" --json; do # whose reader goes
    # shellcheck disable=SC2086
    "$bin/memctl" --run-dir "$dir" vm list $json 2>"$tmp/err" | true
    [ ! -s "$tmp/err" ] || fail "vm list $json into a closed pipe says $(cat "$tmp/err")"
done
fake
ctl 0 vm show beta
out "^pages_sharing +9000$"
out "^limit_bytes +none$"
out "^ineligible shared +8.0 KiB$"
out "^working_set bytes +40.0 MiB$"
out "^1 min 0 s +60.0 MiB +50.0%$"
out "^parked +3 +3.0 us +1.5 us +7.0 us$"
ctl 0 vm show 2 --json
out '"name": "beta"'
for name in gamma .. a/b '' '%41' "$(printf 'a\001b')" "$(printf '%0400d' 0)"; do
    ctl 1 vm show "$name"
    [ -s "$tmp/err" ] || fail "vm show '$name' said nothing"
    ! grep -q "$(printf '\001')" "$tmp/err" || fail "a control character reached the terminal"
done

ctl 0 working-set
out "^ID +NAME +GUEST +SAMPLED +IN USE +\+/- +OTHER +MERGED +WRITTEN +IDLE 30.0 s +IDLE 1 min 0 s"
out "^ +1  alpha +256 MiB +120 MiB +40.0 MiB +6.0 MiB +0 B +39.0 MiB +12.0 MiB +80.0 MiB +60.0 MiB"
[ "$(wc -l <"$tmp/out")" = 3 ] || fail "working-set of all"
[ "$(head -n 1 "$tmp/out" | grep -o IDLE | wc -l)" = 2 ] || fail "two ages are known, and not two are shown"
ctl 0 working-set beta
[ "$(wc -l <"$tmp/out")" = 2 ] || fail "working-set of one"
ctl 0 working-set 2 alpha --json
out '"idle_bytes": 62914560'
out '"samplable_bytes": 125829120'
[ "$(grep -c '"working_set"' "$tmp/out")" = 2 ] || fail "working-set of two as JSON"
ctl 1 working-set gamma
err "no VM 'gamma' is connected"
fake nvms=0
ctl 0 working-set
out "^no VM is connected$"

fake
ctl 0 merge off
out "^merging off: all VMs$"
[ "$(tell get last_vm) $(tell get last_on)" = "(all) off" ] || fail "merge off asked for something else"
ctl 0 merge on alpha
[ "$(tell get last_vm) $(tell get last_on)" = "alpha on" ] || fail "merge on alpha asked for something else"
ctl 1 merge on gamma
err "^memctl: no VM 'gamma' is connected$"
ctl 1 merge on "$(printf '%0200d' 0)"
err "1 to [0-9]+ bytes"
fake command_error=-11
ctl 1 merge on
err "Resource temporarily unavailable"
fake snapshot_error=-110
ctl 1 status
err "did not answer within 5 s"

# ---- budgets
fake
ctl 0 budget
out "^budget 8.0 GiB, used 3.0 GiB, head-room 256 MiB: memory is high$"
out "^tenant-1  1.0 GiB  900 MiB +0 B  soft$"
out "^alpha  256 MiB +90.0 MiB  90.0 MiB  64.0 MiB +-  +500 +0.0  allowed +-$"
ctl 0 status
out "^used +3.0 GiB  by VMs and memd; budget 8.0 GiB; memory is high$"
ctl 0 budget --json
curl -sS --unix-socket "$dir/control.sock" http://memd/v1/budget | cmp - "$tmp/out" ||
    fail "budget --json is not what GET /v1/budget answers"
fake alarm=1
ctl 0 budget
out "^alarm: no new VM is let in"
ctl 0 status
out "^alarm: memory is low"
fake
ctl 0 budget 4G
out "^budget: 4.0 GiB$"
[ "$(tell get last_vm) $(tell get last_budget)" = "(all) 4294967296" ] || fail "budget 4G set something else"
ctl 0 budget off --domain tenant-1
out "^budget of tenant-1: none$"
[ "$(tell get last_vm) $(tell get last_budget)" = "tenant-1 0" ] || fail "budget off --domain set something else"
ctl 1 budget 1M
err "^memctl: 1 MiB are less than the 64 MiB that are reserved$"
ctl 1 budget 1G --domain nowhere
err "no domain 'nowhere' is in memd's configuration"
for size in 0 lots -1 1Q 17000000T; do
    ctl 2 budget -- "$size"
    err "neither a size"
done
for size in 1 64 1023K; do
    ctl 2 budget "$size"
    err "is a unit missing"
done
ctl 2 budget --domain tenant-1
ctl 2 budget 1G --json
ctl 2 budget 1G 2G

# ---- dry run, and why
ctl 0 budget --dry-run on
out "^dry run: on$"
[ "$(tell get dry_run)" = on ] || fail "budget --dry-run on set something else"
ctl 0 budget
out "^dry run: nothing is ordered"
ctl 0 status
out "^dry run: nothing is ordered to keep memory budgets"
[ "$(tell set alarm 1)" = ok ] || fail "set alarm"
ctl 0 status
out "^alarm: memory is low \(memctl budget\)$" # nobody is turned away
ctl 0 budget
out "^alarm: memory is low$"
ctl 0 why alpha
out "^dry run: nothing is ordered$"
out "3 orders of 6.0 MiB together \(not given: dry run\)$"
ctl 0 budget --dry-run off
[ "$(tell get dry_run)" = off ] || fail "budget --dry-run off set something else"
for wrong in "--dry-run maybe" "--dry-run on 4G" "--dry-run off --json" "--dry-run on --domain tenant-1"; do
    # shellcheck disable=SC2086
    ctl 2 budget $wrong
done
[ "$(tell get dry_run)" = off ] || fail "a wrong command has set the dry run"
fake
ctl 0 why alpha
[ "$(tell get last_vm)" = alpha ] || fail "why alpha asked for something else"
out "^alpha in tenant-1: 2 decisions, the latest first$"
out "^[0-9-]+ [0-9:]+ to [0-9:]+, 36 looks, 3 orders of 6.0 MiB together$"
out "^  shares and idle tax: the host's memory is soft \(7600.0 of 8192.0 MiB\), 400.0 MiB are wanted; 45.0 MiB of its 90.0 are in use, with idle tax it is charged for 225.0: 460.80 KiB a share, and the price is 400.00; asked for 2.0 MiB \(the most at a time\), cold pages, packed, gently \(75%\) for what it needs back; balloon \(spare\): asked for 12.0 MiB, the guest has 256.0 MiB, 80.0 available, and can spare 48.0, 75% of the last step came back$"
out "^  has 90.0 MiB, target 70.0 MiB, working set 45.0 MiB \(50% idle\), reserved 64.0 MiB, limit none, shares 500$"
out "^  may not leave: 1.0 MiB$"
out "^  needs back 2.5 packed and 0.2 swapped pages a second; host waits 0.25% some, 0.00% full$"
out "^  last order answered [0-9:]+: 2.0 MiB of 2.0 MiB$"
out "^  excluded \(paused\): it is paused, by its VMM or because a forked child shares its memory; the domain's memory is hard"
ctl 0 why alpha --json
out '"reason": "excluded"'
fake rests=1
ctl 0 why alpha
out "^alpha in tenant-1: 0 decisions$"
out "^nothing is being decided: there is no budget and no limit"
fake
ctl 1 why gamma
err "no VM 'gamma' is connected"
ctl 1 why alpha/x
ctl 1 why "$(printf '%0200d' 0)"
ctl 2 why
ctl 2 why alpha beta

ctl 0 vm set alpha reservation=1G limit=2G shares=7 swap=never swap-writes=3G
out "^alpha: set$"
[ "$(tell get last_terms)" = "31 1073741824 2147483648 7 1 3221225472" ] || fail "vm set: $(tell get last_terms)"
ctl 0 vm set beta limit=none
[ "$(tell get last_vm) $(tell get last_terms)" = "beta 2 0 0 0 0 0" ] || fail "limit=none: $(tell get last_terms)"
ctl 0 vm set beta shares=high
[ "$(tell get last_terms)" = "4 0 0 4294967295 0 0" ] || fail "shares=high: $(tell get last_terms)"
ctl 0 vm set beta shares=normal
[ "$(tell get last_terms)" = "4 0 0 0 0 0" ] || fail "shares=normal: $(tell get last_terms)"
ctl 1 vm set alpha limit=1M
err "^memctl: a limit of 1 MiB is below the reservation of 64 MiB$"
ctl 1 vm set gamma shares=1
err "no VM 'gamma' is connected"
for term in limit limit= limit=x limit=64 swap-writes=x swap-writes=-1 colour=red shares=-1 shares=none swap=off =1; do
    ctl 2 vm set alpha "$term"
    err "is none of reservation=SIZE"
done
ctl 1 vm set alpha/x shares=1
ctl 1 vm set alpha shares=20000000
err "shares at most 10000000"
ctl 2 vm set alpha

# ---- jobs
fake
ctl 0 unmerge beta
out "^unmerged: beta$"
[ "$(tell get last_vm)" = beta ] || fail "unmerge beta asked for something else"
ctl 0 unmerge all
[ "$(tell get last_vm)" = "(all)" ] || fail "unmerge all asked for something else"
ctl 1 unmerge gamma
err "no VM 'gamma'"
ctl 0 settle --timeout 20
out "^settled after [0-9.]+ s$"
ctl 0 estimate
out "^of 512 MiB of guest memory 200 MiB are zero, and 100 MiB duplicates that need 30.0 MiB of frames$"
out "^merging would save 270 MiB \(52.7%\)$"
[ "$(tell get last_nvms)" = 0 ] || fail "estimate named VMs"
ctl 0 pageout alpha
out "^alpha: 20.0 MiB taken out of RAM$"
ctl 0 pageout alpha --bytes 20M --timeout 30
ctl 0 pagein beta
out "^beta: 20.0 MiB brought back into RAM$"
[ "$(tell get last_vm)" = beta ] || fail "pagein beta asked for something else"
ctl 1 pageout gamma
err "no VM 'gamma'"
ctl 2 pageout alpha --bytes lots
ctl 2 pageout
ctl 0 estimate alpha 2 --json
out '"would_save_bytes": 283115520'
[ "$(tell get last_nvms)" = 2 ] || fail "estimate did not name two VMs"
ctl 1 estimate alpha gamma
err "no VM 'gamma' is connected"
ctl 1 vm show alpha/../beta
err "'alpha/../beta' is no VM's name"
fake job_error=12
ctl 1 unmerge alpha
err "^memctl: unmerge failed: does not fit: 120 MiB wanted, 40 MiB available$"

# time-out: 1, and the job is cancelled
fake job_polls=1000000
ctl 1 settle --timeout 1
err "^memctl: settle was cancelled: time-out$"
[ "$(tell get cancels)" = 1 ] || fail "the time-out did not cancel the job"

# Ctrl-C: the same
polled() {
    [ "$(tell get polls)" -gt 0 ]
}
for signal in INT TERM; do
    fake job_polls=1000000
    env --default-signal=INT "$bin/memctl" unmerge all >"$tmp/out" 2>"$tmp/err" &
    pid=$!
    await 20 polled || fail "memctl does not poll"
    kill -$signal $pid
    wait $pid
    [ $? = 1 ] || fail "interrupted, memctl ended with another code than 1"
    err "^memctl: unmerge was cancelled: interrupted$"
    [ "$(tell get cancels)" = 1 ] || fail "SIG$signal did not cancel the job"
done

# progress: on a terminal, and only there
if command -v script >/dev/null; then
    fake job_polls=20
    TERM=xterm script -qec "$bin/memctl settle" /dev/null >"$tmp/out" 2>"$tmp/err" </dev/null ||
        fail "settle on a terminal"
    out "settle +[0-9]+%"
    out "settled after"
    fake job_polls=20
    TERM=xterm script -qec "$bin/memctl status" /dev/null >"$tmp/out" 2>"$tmp/err" </dev/null
    grep -q "$(printf '\033\\[1m')" "$tmp/out" || fail "no colours on a terminal"
    NO_COLOR=1 TERM=xterm script -qec "$bin/memctl status" /dev/null >"$tmp/out" 2>"$tmp/err" </dev/null
    ! grep -q "$(printf '\033')" "$tmp/out" || fail "colours in spite of NO_COLOR"
else
    echo "skip: progress on a terminal needs script(1)"
fi

# output nobody takes: an error, not silence
fake
"$bin/memctl" status >/dev/full 2>"$tmp/err"
[ $? = 1 ] || fail "a full device went unnoticed"
err "cannot write"

# ---- an ordinary user without access to the socket: 1, told why
if [ "$(id -u)" = 0 ]; then
    cp "$bin/memctl" "$dir/memctl"
    chmod 755 "$dir" "$dir/memctl"
    as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups "$dir/memctl")
    "${as_nobody[@]}" status >"$tmp/out" 2>"$tmp/err"
    [ $? = 1 ] || fail "refused by the socket, memctl ended with another code than 1"
    err "Permission denied; run memctl as root"
    "${as_nobody[@]}" doctor >"$tmp/out" 2>"$tmp/err"
    out "^warn  daemon .*refuses this user"
else
    echo "skip: another user without access needs root"
fi
serve_end

# ---- a daemon that goes away meanwhile: 3; one that is no memd: 1
serve_start
fake job_polls=1000000
"$bin/memctl" settle >"$tmp/out" 2>"$tmp/err" &
pid=$!
await 20 polled || fail "memctl does not poll"
kill -KILL "$serve_pid"
wait "$serve_pid" 2>/dev/null
wait $pid
status=$?
case $status in 1 | 3) ;; *) fail "without its daemon memctl ended with $status" ;; esac
[ "$(wc -l <"$tmp/err")" = 1 ] || fail "not one line"
rm -f "$dir/control.sock"
echo "memctl does what it says"
