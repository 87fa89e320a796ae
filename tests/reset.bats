#!/usr/bin/env bats
# Resets: who is cut off is told so, and is told by ECONNRESET, not by an end of stream, which would pass a half reply
# for a whole one.  What was sent before arrives before.
#
# A unix socket knows no reset: what its peer sees is an end of stream, or ECONNRESET where bytes were left unread.  So
# where a unix socket is told, either will do; where one tells, it leaves bytes unread, and that is passed on as a reset.
#
# On systemd-socket-proxyd 252 fail: those where a TCP side is to be told, which it closes in order; those with bytes
# owed, which it loses when both directions are full; a target that refuses; and those of a full backlog, where a client
# of a unix target is dropped at once, one that has left is held until the connect ends, and one that has ended its
# stream gets no reply.  What a client sent that closed is delivered to a TCP target.

# shellcheck disable=SC2153
load streams

# Within one window, so that the sender's kernel has nothing left to throw away.
SIZES=(1 16384 16385 50000)

# cut FRONT BACK SIDE END: SIDE breaks off after having sent something; END is what the other side reads after that.
cut_off() {
	local n
	for n in "${SIZES[@]}"; do
		play "$1" "$2" "$3" meet "send:1:$n" rst -- meet "expect:1:$n" "$4"
		finish || { echo "with $n bytes" >&2; return 1; }
		freed
	done
}

# The same by a unix socket that leaves bytes unread.
left_unread() {
	local n
	for n in "${SIZES[@]}"; do
		play "$1" "$2" "$3" meet expect:2:1 "send:1:$n" close -- meet send:2:1000 "expect:1:$n" "$4"
		finish || { echo "with $n bytes" >&2; return 1; }
		freed
	done
}

@test "TCP to TCP: a client's reset comes to the server as a reset, after what was sent" { cut_off tcp tcp client reset; }
@test "TCP to TCP: a server's reset comes to the client as a reset, after what was sent" { cut_off tcp tcp server reset; }
@test "TCP to unix: a client's reset ends the server's stream, after what was sent" { cut_off tcp unix client closed; }
@test "unix to TCP: a server's reset ends the client's stream, after what was sent" { cut_off unix tcp server closed; }

@test "unix to TCP: a client that leaves bytes unread is a reset to the server, after what was sent" {
	left_unread unix tcp client reset
}
@test "TCP to unix: a server that leaves bytes unread is a reset to the client, after what was sent" {
	left_unread tcp unix server reset
}
@test "unix to unix: a client that leaves bytes unread ends the server's stream, after what was sent" {
	left_unread unix unix client closed
}
@test "unix to unix: a server that leaves bytes unread ends the client's stream, after what was sent" {
	left_unread unix unix server closed
}

@test "a reset arrives at a side that has ended its own stream" {
	local side
	for side in client server; do
		play tcp tcp "$side" meet eof send:1:16385 rst -- meet shut expect:1:16385 reset
		finish || { echo "reset by the $side" >&2; return 1; }
		freed
	done
}

@test "a side that ended its stream and then resets is not written to any more" {
	local side
	for side in client server; do
		play tcp tcp "$side" meet send:1:16385 shut after rst -- meet expect:1:16385 eof did wreset
		finish || { echo "reset by the $side" >&2; return 1; }
		freed
	done
}

# What its own kernel still holds dies with whoever resets: twice its send buffer, and a segment on the way.
KEPT=$((256 * 1024))

# owed SIDE OP...: SIDE has filled every buffer on the way, then resets; the OPs are what the other does before it reads.
owed() {
	local side=$1 sent got
	shift
	play tcp tcp "$side" sndbuf:65536 meet fill:1 did after rst "touch:$T/rst" -- \
		rcvbuf:65536 meet "$@" did "until:$T/rst" expectreset:1
	finish || { echo "reset by the $side" >&2; return 1; }
	freed
	sent=$(said "$side" filled) got=$(said "$(other "$side")" got)
	echo "the $side sent $sent bytes, $got arrived" >&2
	[ "$got" -le "$sent" ]
	[ "$got" -ge $((sent - KEPT)) ]
	rm "$T/rst"
}

@test "bytes that are owed arrive before the client's reset" { owed client; }
@test "bytes that are owed arrive before the server's reset" { owed server; }
@test "with both directions full, bytes that are owed arrive before the client's reset" { owed client fill:2; }
@test "with both directions full, bytes that are owed arrive before the server's reset" { owed server fill:2; }

@test "a server that resets at once resets the client" {
	play tcp tcp server rst -- reset
	finish
	freed
}

@test "a target that refuses is a reset to the client" {
	serve tcp
	kill "$SERVER"
	wait_for gone "$SERVER"
	proxy tcp
	client reset
	wait "$CLIENT"
	freed
}

# full FRONT BACK: a daemon in front of a server whose backlog is full.  The two connections that it accepts once
# $T/accept exists have 5 bytes to say and get 5; $FILLER is the one that fills the backlog.
full() {
	SERVER_FLAGS="-b 0 -n 2 -a $T/accept" serve "$2" expect:1:5 send:2:5
	run_bg "$B/peer" connect "$BACK" "touch:$T/filled" send:1:5 expect:2:5
	FILLER=$PID
	wait_for test -e "$T/filled"
	proxy "$1"
}

# at_once COMMAND...: it succeeds within a second.
at_once() {
	local begun=${EPOCHREALTIME/[.,]/}
	wait_for "$@"
	[ $((${EPOCHREALTIME/[.,]/} - begun)) -lt 1000000 ]
}

# leave FRONT BACK SOCKETS END: a client comes and goes while the daemon waits for a server whose backlog is full, and
# holds SOCKETS sockets for the two.  The server never hears of it, and the next client is served.
leave() {
	full "$1" "$2"
	client "until:$T/leave" "$4"
	wait_for has_sockets "$3"
	: >"$T/leave"
	wait "$CLIENT"
	at_once has_sockets 0
	: >"$T/accept"
	wait "$FILLER"
	client send:1:5 expect:2:5 eof
	finish
	freed
}

@test "TCP to unix: a client that resets while the backlog is full is let go at once" { leave tcp unix 1 rst; }
@test "unix to unix: a client that leaves while the backlog is full is let go at once" { leave unix unix 1 close; }
@test "TCP to TCP: a client that resets while the backlog is full is let go at once" { leave tcp tcp 2 rst; }
@test "unix to TCP: a client that leaves while the backlog is full is let go at once" { leave unix tcp 2 close; }

# stay FRONT BACK SOCKETS OP...: a client has said all it has to say while the backlog is full; it is served.
stay() {
	local front=$1 back=$2 count=$3
	shift 3
	full "$front" "$back"
	client send:1:5 "$@"
	wait_for has_sockets "$count"
	: >"$T/accept"
	wait "$FILLER"
	finish
	freed
}

@test "TCP to unix: a client that ended its stream while the backlog was full is served" { stay tcp unix 1 shut expect:2:5 eof; }
@test "unix to unix: a client that ended its stream while the backlog was full is served" { stay unix unix 1 shut expect:2:5 eof; }
@test "TCP to TCP: a client that ended its stream while the backlog was full is served" { stay tcp tcp 2 shut expect:2:5 eof; }
@test "unix to TCP: a client that ended its stream while the backlog was full is served" { stay unix tcp 2 shut expect:2:5 eof; }
@test "TCP to unix: what a client sent that closed while the backlog was full is delivered" { stay tcp unix 1 close; }
@test "unix to unix: what a client sent that closed while the backlog was full is delivered" { stay unix unix 1 close; }
@test "TCP to TCP: what a client sent that closed while the backlog was full is delivered" { stay tcp tcp 2 close; }
@test "unix to TCP: what a client sent that closed while the backlog was full is delivered" { stay unix tcp 2 close; }

# The daemon has read the end by then, and still owes what came before it: its ring is larger than all of that.
@test "a server that ended its stream and then leaves bytes unread has ended it, however late the client reads" {
	backend "$T/back" expect:1:5 send:2:12M shut "touch:$T/shut" "until:$T/stalled" close
	start tcp4 -- --buffer-size=16M "$BACK"
	run_bg "$B/peer" -t 20 connect "${ADDR[0]}" rcvbuf:8192 send:1:5 send:3:5 "until:$T/left" expectall:2
	local client=$PID
	wait_for test -e "$T/shut"
	wait_for is_resting
	: >"$T/stalled"
	ends "$BACKEND"
	wait_for is_resting
	: >"$T/left"
	ends "$client"
}

# What was sent last waits in the kernel, and after the client's end of stream it is in epoll no longer.
@test "a client that leaves bytes unread after both sides have ended is let go" {
	backend "$T/back" expect:1:5 send:2:100K shut "until:$T/ended" close
	start tcp4 -- "$BACK"
	run_bg "$B/peer" -t 20 connect "${ADDR[0]}" rcvbuf:4096 send:1:5 send:3:5 \
		"until:$T/closed" shut "touch:$T/shut" "until:$T/left" close
	local client=$PID
	wait_for is_resting
	: >"$T/ended"
	ends "$BACKEND"
	: >"$T/closed"
	wait_for test -e "$T/shut"
	wait_for is_resting
	: >"$T/left"
	ends "$client"
	# The listener is all that is left.
	REST=1 freed
}
