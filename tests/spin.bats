#!/usr/bin/env bats
# Stalls: one side is over in one way or another, the other does not read, and the buffer in between is full.  Then the
# daemon has nothing to do and must do nothing: under 20 ms of CPU in 2 s.  The side that stalled then reads on and gets
# every byte that was owed, and the daemon lets go of the connection.
#
# All cases run side by side, each with a daemon of its own, and are measured over the same 2 s (setup_file); each test
# then looks at one of them.
#
# On systemd-socket-proxyd 252 fail: all but five, where a side closes and the other stalls, and not these either if it is
# a unix server that closes or if both are unix sockets.  It spins on a side that was reset or hung up; it loses what it
# held when both directions are full; and a side that shut before the other was done ends the connection.

load streams

WINDOW=2 MOST_US=20000

# Each is FRONT BACK SIDE KIND: SIDE is over as KIND says, the other stalls.  A unix socket cannot reset; it leaves bytes
# unread.
CASES=()
for front in tcp unix; do
	for back in tcp unix; do
		for side in client server; do
			for kind in closed shut full reset unread; do
				case $front$back$side$kind in
				tcp*clientunread | *tcpserverunread | unix*clientreset | *unixserverreset) ;;
				*) CASES+=("$front $back $side $kind") ;;
				esac
			done
		done
	done
done

# scenario FRONT BACK SIDE KIND: plays it up to the stall.  $KEPT: how much of what was sent may be missing.
scenario() {
	local dead=$1 stalled=$2 end=expectclosed:1 buffer=() over=rst
	[ "$3" = client ] || dead=$2 stalled=$1
	if [ "$stalled" = tcp ]; then end=expectreset:1; fi
	KEPT=0
	if [ "$dead" = unix ]; then
		over=close
	elif [ "$4" = reset ] || [ "$4" = full ]; then
		# With it dies what its own kernel holds: twice its send buffer, and a segment on the way.
		buffer=(sndbuf:65536)
		KEPT=$((256 * 1024))
	fi
	case $4 in
	closed)
		play "$1" "$2" "$3" meet fill:1 close did -- rcvbuf:65536 meet did go expectall:1
		;;
	shut)
		play "$1" "$2" "$3" meet fill:1 shut eof did "until:$T/read" -- rcvbuf:65536 meet shut did go expectall:1 "touch:$T/read"
		;;
	reset) play "$1" "$2" "$3" "${buffer[@]}" meet fill:1 rst did -- rcvbuf:65536 meet did go "$end" ;;
	unread) play "$1" "$2" "$3" meet expect:2:1 fill:1 close did -- rcvbuf:65536 meet send:2:1000 did go "$end" ;;
	full) play "$1" "$2" "$3" "${buffer[@]}" meet fill:1 after "$over" did -- rcvbuf:65536 meet fill:2 did go "$end" ;;
	esac
	met
	acted
}

# run_case FRONT BACK SIDE KIND: leaves the daemon's pid for the measurement; after that the stalled side reads on and
# gets what was owed.
run_case() {
	local file=$D/$1.$2.$3.$4 sent got
	scenario "$@"
	echo "$PROXY" >"$file.pid.new"
	mv "$file.pid.new" "$file.pid"
	until [ -e "$D/measured" ]; do
		[ "$SECONDS" -lt "$LIMIT" ]
		sleep 0.3
	done
	go
	finish
	sent=$(said "$3" filled) got=$(said "$(other "$3")" got)
	echo "$sent bytes were sent, $got arrived"
	[ "$sent" -gt 16384 ]
	[ "$got" -le "$sent" ]
	[ "$got" -ge $((sent - KEPT)) ]
	freed
}

# Or have failed.
all_stall() {
	local case
	for case in "${CASES[@]}"; do
		[ -e "$D/${case// /.}.pid" ] || [ -e "$D/${case// /.}.end" ] || return 1
	done
}

cpu_of_all() { # SUFFIX
	local file pid
	for file in "$D"/*.pid; do
		read -r pid <"$file"
		cpu_us "$pid" >"${file%.pid}.$1"
	done
}

setup_file() {
	export D=$BATS_FILE_TMPDIR
	local case rounds=0
	LIMIT=40
	for case in "${CASES[@]}"; do
		# shellcheck disable=SC2086
		apart "$D/${case// /.}" run_case $case
	done
	until all_stall || [ $((++rounds)) = 300 ]; do sleep 0.1; done
	cpu_of_all before
	sleep $WINDOW
	cpu_of_all after
	: >"$D/measured"
	joined
}

# check FRONT BACK SIDE KIND: how that case went.
check() {
	local file=$D/$1.$2.$3.$4 used
	cat "$file.say"
	[ -s "$file.after" ] || { echo "it did not come to a stall, or the daemon is gone" >&2; return 1; }
	used=$(($(cat "$file.after") - $(cat "$file.before")))
	echo "the daemon used $used us of CPU in $WINDOW s"
	[ "$used" -lt "$MOST_US" ]
	[ -e "$file.ok" ]
}

@test "a TCP client closed, a TCP server stalls: no CPU, no byte lost" { check tcp tcp client closed; }
@test "a TCP client reset, a TCP server stalls: no CPU, no byte lost" { check tcp tcp client reset; }
@test "a TCP client and a TCP server both shut, the server stalls: no CPU, no byte lost" { check tcp tcp client shut; }
@test "a TCP client is gone while both directions are full, a TCP server stalls: no CPU, no byte lost" { check tcp tcp client full; }
@test "a TCP server closed, a TCP client stalls: no CPU, no byte lost" { check tcp tcp server closed; }
@test "a TCP server reset, a TCP client stalls: no CPU, no byte lost" { check tcp tcp server reset; }
@test "a TCP server and a TCP client both shut, the client stalls: no CPU, no byte lost" { check tcp tcp server shut; }
@test "a TCP server is gone while both directions are full, a TCP client stalls: no CPU, no byte lost" { check tcp tcp server full; }
@test "a TCP client closed, a unix server stalls: no CPU, no byte lost" { check tcp unix client closed; }
@test "a TCP client reset, a unix server stalls: no CPU, no byte lost" { check tcp unix client reset; }
@test "a TCP client and a unix server both shut, the server stalls: no CPU, no byte lost" { check tcp unix client shut; }
@test "a TCP client is gone while both directions are full, a unix server stalls: no CPU, no byte lost" { check tcp unix client full; }
@test "a unix server closed, a TCP client stalls: no CPU, no byte lost" { check tcp unix server closed; }
@test "a unix server is gone with bytes unread, a TCP client stalls: no CPU, no byte lost" { check tcp unix server unread; }
@test "a unix server and a TCP client both shut, the client stalls: no CPU, no byte lost" { check tcp unix server shut; }
@test "a unix server is gone while both directions are full, a TCP client stalls: no CPU, no byte lost" { check tcp unix server full; }
@test "a unix client closed, a TCP server stalls: no CPU, no byte lost" { check unix tcp client closed; }
@test "a unix client is gone with bytes unread, a TCP server stalls: no CPU, no byte lost" { check unix tcp client unread; }
@test "a unix client and a TCP server both shut, the server stalls: no CPU, no byte lost" { check unix tcp client shut; }
@test "a unix client is gone while both directions are full, a TCP server stalls: no CPU, no byte lost" { check unix tcp client full; }
@test "a TCP server closed, a unix client stalls: no CPU, no byte lost" { check unix tcp server closed; }
@test "a TCP server reset, a unix client stalls: no CPU, no byte lost" { check unix tcp server reset; }
@test "a TCP server and a unix client both shut, the client stalls: no CPU, no byte lost" { check unix tcp server shut; }
@test "a TCP server is gone while both directions are full, a unix client stalls: no CPU, no byte lost" { check unix tcp server full; }
@test "a unix client closed, a unix server stalls: no CPU, no byte lost" { check unix unix client closed; }
@test "a unix client is gone with bytes unread, a unix server stalls: no CPU, no byte lost" { check unix unix client unread; }
@test "a unix client and a unix server both shut, the server stalls: no CPU, no byte lost" { check unix unix client shut; }
@test "a unix client is gone while both directions are full, a unix server stalls: no CPU, no byte lost" { check unix unix client full; }
@test "a unix server closed, a unix client stalls: no CPU, no byte lost" { check unix unix server closed; }
@test "a unix server is gone with bytes unread, a unix client stalls: no CPU, no byte lost" { check unix unix server unread; }
@test "a unix server and a unix client both shut, the client stalls: no CPU, no byte lost" { check unix unix server shut; }
@test "a unix server is gone while both directions are full, a unix client stalls: no CPU, no byte lost" { check unix unix server full; }
