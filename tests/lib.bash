# shellcheck shell=bash
# What every bats file loads: a directory of the test's own ($T), background processes that are stopped by pid, and
# waiting by polling with a deadline.
#
#   PROXYD=PROGRAM    the daemon under test (default: the one just built)
#   REFERENCE=1       systemd-socket-proxyd instead, to see where it differs

ROOT=$(cd "${BATS_TEST_DIRNAME:-.}/.." && pwd)
REF=/lib/systemd/systemd-socket-proxyd
PROXYD=${PROXYD:-$ROOT/proxyd}
[ -z "${REFERENCE:-}" ] || PROXYD=$REF
B=$ROOT/build
export ASAN_OPTIONS=${ASAN_OPTIONS:-abort_on_error=0:exitcode=99} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

setup() {
	T=$(mktemp -d "${TMPDIR:-/tmp}/proxyd-test.XXXXXX")
	PIDS=() BACKENDS=0
	unset LISTEN_PID LISTEN_FDS LISTEN_FDNAMES NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID SYSTEMD_LOG_LEVEL JOURNAL_STREAM
}

# Stops what the test left running, and fails if it does not go, or if a sanitizer spoke.
teardown() {
	local pid rc=0
	# One that a test has stopped is woken first; after the end is asked for, CONT would disturb LeakSanitizer's own stop.
	for pid in "${PIDS[@]}"; do kill -CONT "$pid" 2>/dev/null && kill -TERM "$pid" 2>/dev/null || :; done
	for pid in "${PIDS[@]}"; do
		if ! wait_for -q gone "$pid"; then
			kill -KILL "$pid" 2>/dev/null || :
			echo "process $pid did not end" >&2
			rc=1
		fi
		wait "$pid" 2>/dev/null || :
	done
	if grep -ls -e 'ERROR: AddressSanitizer' -e 'ERROR: LeakSanitizer' -e 'runtime error:' "$T"/log* "$T"/out*; then
		cat "$T"/log* >&2
		rc=1
	fi
	rm -rf "$T"
	return $rc
}

# wait_for [-q] COMMAND...: until it succeeds, for 10 s.
wait_for() {
	local quiet='' end=$((SECONDS + 10))
	if [ "$1" = -q ]; then quiet=1; shift; fi
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$end" ]; then
			[ -n "$quiet" ] || echo "waited in vain for: $*" >&2
			return 1
		fi
		sleep 0.02
	done
}

# state_is PID STATE: as in proc(5), without a fork: it is asked so often that pids would run out and come again.
state_is() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	stat=${stat##*) }
	[ "${stat%% *}" = "$2" ]
}
gone() { ! kill -0 "$1" 2>/dev/null || state_is "$1" Z; }
says() { grep -qs -- "$2" "$1"; } # FILE PATTERN

# run_bg COMMAND...: in the background, without bats' descriptor 3; its pid in $PID.
run_bg() {
	"$@" 3>&- &
	PID=$!
	PIDS+=("$PID")
}

# start SOCKET... -- ARG...: the daemon with sockets passed in, log in $T/log; $ADDR[n] are the sockets' addresses,
# $PROXY its pid.
start() {
	local activate=()
	while [ "$1" != -- ]; do activate+=("$1"); shift; done
	shift
	rm -f "$T/addr"
	run_bg "$B/activate" -f "$T/addr" "${activate[@]}" -- "$PROXYD" "$@" </dev/null >"$T/out" 2>"$T/log"
	PROXY=$PID
	wait_for test -e "$T/addr" || { cat "$T/log" >&2; return 1; }
	mapfile -t ADDR <"$T/addr"
}

# backend ADDR OP...: a scripted server (tests/tools/peer.c), its address in $BACK, its pid in $BACKEND.
backend() {
	local out=$T/backend.$((++BACKENDS))
	run_bg "$B/peer" ${BACKEND_FLAGS:-} listen "$@" >"$out" 2>"$out.err"
	BACKEND=$PID
	wait_for says "$out" '^listening ' || { cat "$out.err" >&2; return 1; }
	BACK=$(sed -n 's/^listening //p' "$out")
}

# ends PID: waits for it, and gives its exit status.
ends() {
	wait_for gone "$1" || return 125
	local rc=0
	wait "$1" || rc=$?
	return "$rc"
}

# stop: ends the daemon that start began.
stop() {
	kill -TERM "$PROXY"
	wait_for gone "$PROXY"
}

# no COMMAND...: it does not succeed, which a bare ! would not tell bats.
no() {
	if "$@"; then
		echo "this should not be so: $*" >&2
		return 1
	fi
}

# Milliseconds since some time.
now_ms() { local now=${EPOCHREALTIME/[.,]/}; echo "${now%???}"; }

# Microseconds of CPU that a process has used, from the scheduler where the kernel tells, or else in ticks; nothing if
# there is no such process.
cpu_us() {
	local used sum=0 file stat
	[ -d "/proc/$1" ] || return 0
	if [ -r "/proc/$1/schedstat" ]; then
		for file in "/proc/$1/task"/*/schedstat; do
			if read -r used _ 2>/dev/null <"$file"; then sum=$((sum + used)); fi
		done
		echo $((sum / 1000))
		return
	fi
	read -r stat <"/proc/$1/stat"
	# shellcheck disable=SC2086
	set -- ${stat##*) }
	echo $(((${12} + ${13}) * 1000000 / $(getconf CLK_TCK)))
}
