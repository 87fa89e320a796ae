# shellcheck shell=bash disable=SC2034
# What the tests of shortages, of late backends and of endings share.

load lib

export MAKEFLAGS='' MFLAGS='' MAKELEVEL=''

# between LOW N HIGH
between() {
	if [ "$2" -lt "$1" ] || [ "$2" -gt "$3" ]; then
		echo "$2 is not between $1 and $3" >&2
		return 1
	fi
}

# pause MS: nothing but time passes, because the test is about time.
pause() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }

# calm PID [SECONDS]: it uses less than 20 ms of CPU in 2 s, or less in less.
calm() {
	local before seconds=${2:-2}
	before=$(cpu_us "$1")
	pause $((seconds * 1000))
	between 0 $(($(cpu_us "$1") - before)) $((seconds * 10000))
}

# Descriptors of a process.
descriptors() {
	local all=("/proc/$1/fd/"*)
	echo "${#all[@]}"
}
holds() { [ "$(descriptors "$1")" -ge "$2" ]; } # PID COUNT

# status: asks $PROXY for its line of numbers, which becomes $STATUS, and those of it that have a name: $NOW, $PEAK,
# $TOTAL, $FROM_CLIENTS, $FROM_TARGET, $REFUSED, $FAILED.
status() {
	local asked pattern n='([0-9]+)'
	asked=$(grep -c '^Status: ' "$T/log" || :)
	kill -USR1 "$PROXY"
	wait_for answered "$asked"
	STATUS=$(grep '^Status: ' "$T/log" | tail -n 1)
	pattern="^Status: $n connections now, $n at the peak, $n in total; $n bytes from clients, $n from the target;"
	pattern+=" $n refused, $n failed\.\$"
	[[ $STATUS =~ $pattern ]] || { echo "no such status: $STATUS" >&2; return 1; }
	read -r NOW PEAK TOTAL FROM_CLIENTS FROM_TARGET REFUSED FAILED <<<"${BASH_REMATCH[*]:1}"
}
answered() { [ "$(grep -c '^Status: ' "$T/log")" -gt "$1" ]; }

# status_is NAME VALUE: for wait_for, as in wait_for status_is NOW 3.
status_is() {
	status
	[ "${!1}" = "$2" ]
}

# clients N ADDR OP...: so many at once, each a process of its own; in the background, their common pid in $CLIENTS, what
# they say in $T/clients.
clients() {
	run_bg "$B/peer" -j -n "$1" -t 50 connect "${@:2}" >"$T/clients.out" 2>"$T/clients"
	CLIENTS=$PID
}

# client NAME ADDR OP...: one, in the background, its pid in $CLIENT; $T/NAME.up appears when it is connected.
client() {
	run_bg "$B/peer" -t 50 connect "$2" "touch:$T/$1.up" "${@:3}" >"$T/$1.out" 2>"$T/$1.err"
	CLIENT=$PID
	wait_for test -e "$T/$1.up"
}

# appeared FILE...: the times at which these appeared, in milliseconds, one a line.
appeared() { stat -c %.3Y "$@" | tr -d .; }

# after LOW FILE1 FILE2 HIGH: FILE2 appeared so many milliseconds after FILE1.  FILE1 is touched before the last thing that
# happens on the connection, so that LOW is right however slow the machine is.
after() {
	wait_for test -e "$2"
	wait_for test -e "$3"
	between "$1" $(($(appeared "$3") - $(appeared "$2"))) "$4"
}

# patiently COMMAND...: waits as wait_for does, for 40 s, on a machine that has much to do.
patiently() { wait_for -q "$@" || wait_for -q "$@" || wait_for -q "$@" || wait_for "$@"; }

# finished PID: it ends well, in the end.
finished() {
	local rc=0
	patiently gone "$1" && ends "$1" || rc=$?
	[ "$rc" = 0 ] || { echo "process $1 ended with $rc" >&2; cat "$T"/clients "$T"/*.err "$T"/log* >&2 || :; }
	return "$rc"
}

# aside: $PROXY is left to itself, and the next start may come; its log is in $T/log.NAME.
aside() { mv "$T/log" "$T/log.$1"; }

# nowhere: in $NOWHERE a TCP address where nobody listens.  Not one of the ports that the kernel gives to clients: there
# a connect(2) can happen to meet itself.
nowhere() {
	local port
	while :; do
		port=$((20000 + RANDOM % 10000))
		"$B/peer" -t 1 connect "127.0.0.1:$port" 2>"$T/nowhere" || ! says "$T/nowhere" ECONNREFUSED || break
	done
	NOWHERE=127.0.0.1:$port
}

# stuck ADDR OP...: a backend with a full backlog, so that connecting to it hangs (TCP) or is told to come again (unix),
# until $T/open (or $OPEN) exists; from then on it serves.
stuck() {
	BACKEND_FLAGS="-b 0 -j -n 1000 -t 50 -a ${OPEN:-$T/open}" backend "$@"
	case $1 in *:*) BACK=${1%:*}:${BACK##*:} ;; esac
	# Who leaves at once keeps its place in the backlog.
	while "$B/peer" -t 0.2 connect "$BACK" close 2>"$T/stuck"; do :; done
	says "$T/stuck" 'out of time'
}

# spied FILE CC FLAG...: builds the daemon with tests/tools/spy.c in it.
spied() {
	local name wrap=''
	for name in connect setsockopt getaddrinfo freeaddrinfo wheel_add wheel_cancel; do wrap+=",--wrap=$name"; done
	# With 64 bits of time on a machine of 32 glibc calls setsockopt by another name, which nothing wraps.
	"${@:2}" -U_TIME_BITS -DPROXYD_VERSION='"spied"' -o "$1" "$ROOT"/*.c "$ROOT/tests/tools/spy.c" "-Wl$wrap"
}

# spy: such a daemon as $SPY, with the flags of the one under test; built once a file.
spy() {
	local flags
	SPY=$BATS_FILE_TMPDIR/spied
	[ -z "${REFERENCE:-}" ] || SPY=$REF
	[ ! -x "$SPY" ] || return 0
	read -r -a flags <"$B/flags"
	spied "$SPY" "${flags[@]}"
}

# spying HOSTS SOCKET... -- ARG...: start, for such a daemon; its report in $T/spy.  A name stands for the addresses in
# HOSTS, which are kept in $T/hosts.
spying() {
	spy
	echo "$1" >"$T/hosts"
	shift
	PROXYD=$SPY SPY_LOG=$T/spy SPY_HOSTS=$T/hosts start "$@"
}
