#!/usr/bin/env bats
# Shortages: of descriptors, and of places.
#
# On systemd-socket-proxyd 252 all of these fail.  Out of descriptors it writes more than a thousand lines a second (1), as
# fast as a whole CPU can, and drops clients that it has accepted: "Failed to get remote socket" (2, 3), "Failed to allocate
# pipe buffer" and "Failed to resolve host: System error" (4); one connection takes six descriptors, so that 5 to 7 do not
# get far.  With -c 3 it lets a fourth client in (8), and 200 refusals are 199 lines (10).  It has no --when-full=.

load late

# ---- descriptors ----

# Descriptors of the daemon's own: three, a listener, epoll, signals, the spare one; with a name to look up one more.
OWN=7
[ -z "${REFERENCE:-}" ] || OWN=9

# scarce LIMIT SOCKET... -- ARG...: start, with no more than LIMIT descriptors.
scarce() { start -r "$@"; }

@test "a burst of 500 clients at the limit of descriptors costs no CPU and a line a second, and all are served" {
	local before lines
	BACKEND_FLAGS="-j -n 500 -t 50" backend 127.0.0.1:0 expect:1:100 "until:$T/go" send:2:100 eof
	scarce $((OWN + 20)) tcp4 -- -c 1000 "$BACK"
	before=$SECONDS
	clients 500 "${ADDR[0]}" send:1:100 expect:2:100 shut eof
	wait_for says "$T/log" 'Failed to accept() socket'
	wait_for holds "$PROXY" $((OWN + 20 - 1))
	calm "$PROXY"
	lines=$(wc -l <"$T/log")
	between 1 "$lines" $((SECONDS - before + 3))
	touch "$T/go"
	finished "$CLIENTS"
	[ ! -s "$T/clients" ]
	lines=$(wc -l <"$T/log")
	between 1 "$lines" $((SECONDS - before + 3))
}

@test "wherever between a client's socket and its target's the limit hits, all who come are served" {
	local limit
	for limit in {1..8}; do
		BACKEND_FLAGS="-j -n 30 -t 20" backend 127.0.0.1:0 expect:1:100 pause:10 send:2:100 eof
		scarce $((OWN + limit)) tcp4 -- "$BACK"
		clients 30 "${ADDR[0]}" send:1:100 expect:2:100 shut eof
		finished "$CLIENTS" || { echo "with $limit descriptors for clients" >&2; return 1; }
		no says "$T/log" 'Failed to get remote socket'
		stop
	done
}

@test "so it is between unix sockets" {
	local limit
	for limit in {1..4}; do
		BACKEND_FLAGS="-j -n 30 -t 20" backend "$T/back" expect:1:100 pause:10 send:2:100 eof
		scarce $((OWN + limit)) "unix:$T/front" -- "$BACK"
		clients 30 "$T/front" send:1:100 expect:2:100 shut eof
		finished "$CLIENTS" || { echo "with $limit descriptors for clients" >&2; return 1; }
		stop
	done
}

@test "so it is with a target whose name is to be looked up, which takes descriptors too" {
	local limit lines before=$SECONDS
	for limit in 6 7 8 9 12; do
		BACKEND_FLAGS="-j -n 30 -t 20" backend 127.0.0.1:0 expect:1:100 pause:10 send:2:100 eof
		scarce $((OWN + limit)) tcp4 -- "localhost:${BACK##*:}"
		clients 30 "${ADDR[0]}" send:1:100 expect:2:100 shut eof
		finished "$CLIENTS" || { echo "with $limit descriptors for clients" >&2; return 1; }
		lines=$(wc -l <"$T/log")
		between 1 "$lines" $((SECONDS - before + 3))
		stop
	done
}

@test "who waits for a descriptor comes in as soon as somebody leaves" {
	local began
	BACKEND_FLAGS="-j -n 5 -t 20" backend 127.0.0.1:0 expect:1:100 send:2:100 sink
	scarce $((OWN + 4)) tcp4 -- "$BACK"
	client first "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/first" "until:$T/leave"
	wait_for test -e "$T/first"
	client second "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/second" "until:$T/end"
	wait_for test -e "$T/second"
	client third "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/third" "until:$T/end"
	wait_for says "$T/log" 'Failed to accept() socket'
	# Right after the pause began, which would end by itself after a second.
	began=$(now_ms)
	touch "$T/leave"
	wait_for test -e "$T/third"
	between 0 $(($(now_ms) - began)) 500
	touch "$T/end"
}

@test "accepted clients that wait for a late target share the descriptors there are when it comes" {
	nowhere
	scarce $((OWN + 8)) tcp4 -- --connect-retry=30 "$NOWHERE"
	clients 40 "${ADDR[0]}" send:1:100 expect:2:100 shut eof
	wait_for says "$T/log" 'Failed to accept() socket'
	calm "$PROXY" 1
	BACKEND_FLAGS="-j -n 40 -t 40" backend "$NOWHERE" expect:1:100 send:2:100 eof
	finished "$CLIENTS"
	status
	[ "$FAILED" = 0 ]
	[ "$TOTAL" = 40 ]
}

@test "who was let in comes before who is still outside, with a name as the target, too" {
	local i pids=()
	BACKEND_FLAGS="-j -n 2000 -t 40" backend "127.0.0.1:0" expect:1:100 pause:30 send:2:100 close
	scarce 30 tcp4 -- "localhost:${BACK##*:}"
	# Each client comes again as soon as it has its reply, so there is always somebody outside.
	for ((i = 0; i < 30; i++)); do
		run_bg again_and_again "${ADDR[0]}" 15
		pids+=("$PID")
	done
	for i in "${pids[@]}"; do ends "$i"; done
}
# No client waits for more than 3 s.
again_and_again() {
	local i
	for ((i = 0; i < $2; i++)); do "$B/peer" -t 3 connect "$1" send:1:100 expect:2:100 || return 1; done
}

@test "the service manager hears from it also while no descriptor is left" {
	run_bg socat -u "UNIX-RECV:$T/manager" "OPEN:$T/heard,creat,append"
	wait_for test -S "$T/manager"
	BACKEND_FLAGS="-j -n 100 -t 20" backend 127.0.0.1:0 expect:1:100 "until:$T/go" send:2:100
	NOTIFY_SOCKET=$T/manager WATCHDOG_USEC=400000 scarce $((OWN + 20)) tcp4 -- --shutdown-timeout=5 "$BACK"
	clients 100 "${ADDR[0]}" send:1:100 expectclosed:2
	wait_for says "$T/log" 'Failed to accept() socket'
	pause 300
	: >"$T/heard"
	wait_for says "$T/heard" 'WATCHDOG=1'
	kill "$PROXY"
	wait_for says "$T/heard" 'STOPPING=1'
	touch "$T/go"
	ends "$PROXY"
}

# ---- places ----

# house [OPTION...]: a backend that answers each client at once and then keeps it, behind a daemon with three places.
house() {
	BACKEND_FLAGS="-j -n 1000 -t 50" backend 127.0.0.1:0 expect:1:100 send:2:100 sink
	start tcp4 -- -c 3 "$@" "$BACK"
}

# guest NAME: is served, and stays until $T/NAME.leave exists; $T/NAME.in tells that it is served.
guest() { client "$1" "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/$1.in" "until:$T/$1.leave"; }
guests() {
	local name
	for name in "$@"; do
		guest "$name"
		wait_for test -e "$T/$name.in"
	done
}

@test "by default those past the limit are refused, and a place that becomes free is free" {
	house
	guests a b c
	"$B/peer" connect "${ADDR[0]}" closed
	"$B/peer" connect "${ADDR[0]}" closed
	status
	[ "$NOW $PEAK $TOTAL $REFUSED" = "3 3 3 2" ]
	says "$T/log" 'Hit connection limit, refusing connection.'
	touch "$T/b.leave"
	wait_for status_is NOW 2
	guests d
	"$B/peer" connect "${ADDR[0]}" closed
	status
	[ "$NOW $PEAK $TOTAL $REFUSED" = "3 3 4 3" ]
	touch "$T"/{a,c,d}.leave
}

@test "the same with --when-full=refuse, and the last one given counts" {
	house --when-full=wait --when-full=refuse
	guests a b c
	"$B/peer" connect "${ADDR[0]}" closed
	status
	[ "$NOW $REFUSED" = "3 1" ]
	touch "$T"/{a,b,c}.leave
}

@test "200 refusals cost a line a second, and a full house no CPU" {
	local before=$SECONDS
	house
	guests a b c
	clients 200 "${ADDR[0]}" closed
	finished "$CLIENTS"
	between 1 "$(grep -c 'Hit connection limit' "$T/log")" $((SECONDS - before + 1))
	calm "$PROXY" 1
	status
	[ "$NOW $REFUSED" = "3 200" ]
	touch "$T"/{a,b,c}.leave
}

@test "--when-full=wait leaves those past the limit in the backlog, without CPU, and lets them in one for one" {
	house --when-full=wait
	guests a b c
	clients 50 "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/others" quiet:10 shut eof
	client patient "${ADDR[0]}" quiet:500
	calm "$PROXY"
	status
	[ "$NOW $PEAK $TOTAL $REFUSED" = "3 3 3 0" ]
	no test -e "$T/others"
	touch "$T/b.leave"
	finished "$CLIENTS"
	[ ! -s "$T/clients" ]
	touch "$T"/{a,c}.leave
	wait_for status_is NOW 0
	[ "$PEAK $REFUSED" = "3 0" ]
	no says "$T/log" 'refus.*limit\|limit.*refus'
}

@test "--when-full=wait serves in the order in which they came" {
	local n limit
	for limit in 1 3; do
		rm -f "$T"/*.up
		# One at a time, and each sends another number of bytes, which tells who it is.
		BACKEND_FLAGS="-n 20 -t 30 -a $T/go" backend 127.0.0.1:0 sink
		start tcp4 -- -c "$limit" --when-full=wait "$BACK"
		for n in {1..20}; do client "$n" "${ADDR[0]}" "send:1:$((n * 10))" shut eof; done
		touch "$T/go"
		finished "$BACKEND"
		for n in {1..20}; do echo "got $((n * 10))"; done >"$T/right"
		grep -h '^got ' "$T"/backend.* | diff "$T/right" -
		rm "$T"/backend.* "$T/go"
	done
}

@test "--when-full=wait counts the places of all listeners together" {
	BACKEND_FLAGS="-j -n 1000 -t 50" backend "$T/back" expect:1:100 send:2:100 sink
	start tcp4 tcp4 "unix:$T/front" -- -c 2 --when-full=wait "$BACK"
	guests a
	client b "$T/front" send:1:100 expect:2:100 "touch:$T/b.in" "until:$T/b.leave"
	wait_for test -e "$T/b.in"
	client c "${ADDR[1]}" send:1:100 expect:2:100 "touch:$T/c.in" "until:$T/c.leave"
	client d "$T/front" send:1:100 expect:2:100 "touch:$T/d.in" "until:$T/d.leave"
	client e "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/e.in" "until:$T/e.leave"
	calm "$PROXY" 1
	status
	[ "$NOW $TOTAL" = "2 2" ]
	touch "$T"/{a,b,c,d,e}.leave
	wait_for status_is TOTAL 5
	wait_for status_is NOW 0
	[ "$PEAK" = 2 ]
	for name in c d e; do test -e "$T/$name.in"; done
}

@test "a limit of places and a limit of descriptors at once: whichever is met, nobody is lost" {
	local limit
	for limit in {3..7}; do
		BACKEND_FLAGS="-j -n 30 -t 20" backend 127.0.0.1:0 expect:1:100 pause:10 send:2:100 eof
		scarce $((OWN + limit)) tcp4 -- -c 3 --when-full=wait "$BACK"
		clients 30 "${ADDR[0]}" send:1:100 expect:2:100 shut eof
		finished "$CLIENTS"
		status
		[ "$TOTAL $REFUSED $FAILED" = "30 0 0" ]
		stop
	done
}

@test "--when-full= with anything else is refused in one line that tells what is right" {
	local word
	for word in '' yes WAIT 'wait,' 'wait refuse'; do
		run_bg "$PROXYD" "--when-full=$word" 127.0.0.1:1 </dev/null >"$T/out" 2>"$T/log"
		no ends "$PID"
		[ "$(cat "$T/log")" = "Failed to parse --when-full= argument: $word (refuse or wait is wanted)" ]
	done
}
