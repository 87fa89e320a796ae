# shellcheck shell=bash
# What the compat_*.bats files share: both programs, ours and the reference where it is installed, are given the same
# and must say the same.  An expected text is the reference's whole line; ours may go on after a blank with a remedy.

load lib

PROGRAMS=("$PROXYD")
if [ -x "$REF" ]; then PROGRAMS+=("$REF"); fi

# try COMMAND...: runs it to its end; its exit status in $RC, what it wrote in $OUT and $ERR.
try() {
	RC=0
	timeout 20 "$@" </dev/null 3>&- >"$T/try.out" 2>"$T/try.err" || RC=$?
	IFS= read -r -d '' OUT <"$T/try.out" || :
	IFS= read -r -d '' ERR <"$T/try.err" || :
	OUT=${OUT%$'\n'} ERR=${ERR%$'\n'}
}

# line_is TEXT LINE: LINE is TEXT, or goes on after it.
line_is() { [[ $2 == "$1" || $2 == "$1 "* ]]; }

# log_has TEXT: a line of the log begins with it.
log_has() {
	local line
	while IFS= read -r line; do
		if line_is "$1" "$line"; then return 0; fi
	done <"$T/log"
	return 1
}

# fails TEXT COMMAND...: it exits with 1 and says TEXT.
fails() {
	try "${@:2}"
	if [ "$RC" != 1 ] || ! line_is "$1" "$ERR" || [ -n "$OUT" ]; then
		printf '%q ' "${@:2}" >&2
		printf '\n  should exit with 1 and say: %s\n  exited with %s and said: %s\n' "$1" "$RC" "$ERR$OUT" >&2
		return 1
	fi
}

# both_fail TEXT ARG...: so do both programs.
both_fail() {
	local program
	for program in "${PROGRAMS[@]}"; do
		fails "$1" "$program" "${@:2}" || return 1
	done
}

# is ACTUAL EXPECTED
is() {
	[ "$1" = "$2" ] || { printf 'should be: %s\n       is: %s\n' "$2" "$1" >&2; return 1; }
}

# answer [ADDR]: a backend that serves 200 talks; talk ADDR: one exchange with it, through the daemon.
answer() { BACKEND_FLAGS='-j -n 200' backend "${1:-127.0.0.1:0}" expect:1:1000 send:2:1000 closed; }
talk() { "$B/peer" -t 20 connect "$1" send:1:1000 expect:2:1000; }

# turned_away N: N clients at once at the first socket are closed, which the kernel may tell as early as on connect.
turned_away() {
	local rc=0
	"$B/peer" -j -n "$1" connect "${ADDR[0]}" closed || rc=$?
	[ "$rc" -le 1 ]
}

# logged N TEXT: so many lines of the log begin with it.
logged() { [ "$(grep -c "^$2" "$T/log")" = "$1" ]; }

# hold N ADDR: N clients that have had an answer of an echo, and stay until $T/go exists.
HELD=0
hold() {
	local i up
	for ((i = 0; i < $1; i++)); do
		up=$T/up.$((++HELD))
		run_bg "$B/peer" connect "$2" send:1:100 expect:1:100 "touch:$up" "until:$T/go"
		wait_for test -e "$up" || return 1
	done
}

# bytes N: a word of N letters.
bytes() { printf "%0$1d" 0 | tr 0 a; }

# wrapper NAME: makes $T/NAME, a program, of stdin.  It can stand in for the daemon: PROXYD=$T/NAME start ...
wrapper() {
	{ echo '#!/usr/bin/env bash'; cat; } >"$T/$1"
	chmod +x "$T/$1"
}
