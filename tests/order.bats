#!/usr/bin/env bats
# Order: several things happen to a connection, or to many, between two turns of the daemon's loop.  The daemon is
# stopped (SIGSTOP) while they happen, so that they come to it in one event or one batch of events; then it goes on.
#
# A reset that follows an end of stream is none: TCP tells the reader of the end, and the writer of the rest (EPIPE).
#
# On systemd-socket-proxyd 252 fail: those with a reply after an end, those where both sides send and end, and those
# where a reset is to be passed on.

# shellcheck disable=SC2153
load streams

MANY=100 # more than the daemon takes at a time

# at_once FRONT BACK SIDE OP... -- OP...: as play, and what the OPs do between "go" and "did" comes in one batch.
at_once() {
	play "$@"
	met
	halt
	go
	acted
	resume
	finish || { echo "from $(name "$1") to $(name "$2"), by the $3" >&2; return 1; }
	freed
}

# on_all COMMAND...: with each FRONT BACK SIDE.
on_all() {
	local front back side
	for front in tcp unix; do
		for back in tcp unix; do
			for side in client server; do
				"$@" "$front" "$back" "$side"
			done
		done
	done
}

# The end that a reader at the other side sees of a reset, or of bytes left unread, by SIDE.
end_of() { # FRONT BACK SIDE
	local reader=$2
	[ "$3" = client ] || reader=$1
	if [ "$reader" = tcp ]; then echo reset; else echo closed; fi
}

data_and_end() {
	local n
	for n in 1 16384 40000; do
		at_once "$@" meet go "send:1:$n" shut did expect:2:100 eof -- meet go did "expect:1:$n" eof send:2:100
	done
}
@test "bytes and the end of the stream in one event: all bytes, the end, and then the reply" { on_all data_and_end; }

# A TCP socket that closes with nothing unread, and a unix socket: the same to the daemon as an end, at first.
data_and_close() { at_once "$@" meet go send:1:40000 close did -- meet go did expect:1:40000 eof; }
@test "bytes and a close in one event: all bytes, then the end" { on_all data_and_close; }

data_and_break() {
	local kind=$1
	[ "$3" = client ] || kind=$2
	if [ "$kind" = tcp ]; then
		at_once "$@" meet go send:1:40000 rst did -- meet go did expect:1:40000 "$(end_of "$@")"
	else
		at_once "$@" meet expect:2:1 go send:1:40000 close did -- \
			meet send:2:1000 go did expect:1:40000 "$(end_of "$@")"
	fi
}
@test "bytes and a reset in one event: all bytes, then the reset" { on_all data_and_break; }

end_and_reset() {
	local kind=$1
	[ "$3" = client ] || kind=$2
	[ "$kind" = tcp ] || return 0
	at_once "$@" meet go send:1:40000 shut rst did -- meet go did expect:1:40000 eof wreset
}
@test "bytes, the end and a reset in one event: all bytes, the end, and no more writing" { on_all end_and_reset; }

both_end() { at_once "$@" meet go send:1:40000 shut did expect:2:30000 eof -- meet go send:2:30000 shut did expect:1:40000 eof; }
@test "both sides send and end in one batch: each gets all of the other's" { on_all both_end; }

both_close() { at_once "$@" meet go close did -- meet go after close did; }
@test "both sides close in one batch: the connection is over" { on_all both_close; }

both_reset() { at_once "$@" meet go rst did -- meet go after rst did; }
@test "both sides reset in one batch, either first: the connection is over" { on_all both_reset; }

# Of the bytes that one side sent, those towards the one that reset are lost, and no others.
end_meets_reset() {
	local kind=$1
	[ "$3" = client ] || kind=$2
	[ "$kind" = tcp ] || return 0
	at_once "$@" meet go send:1:40000 rst did -- meet go after send:2:30000 shut did expect:1:40000 "$(end_of "$@")"
	at_once "$@" meet go after send:1:40000 rst did -- meet go send:2:30000 shut did expect:1:40000 "$(end_of "$@")"
}
@test "one side resets and the other sends and ends in one batch, either first: the other gets all, then the reset" {
	on_all end_meets_reset
}

# The daemon finds a client whose story is over already when it accepts it.
before_accept() { # FRONT BACK
	serve "$2" expect:1:40000 eof send:2:100
	proxy "$1"
	halt
	client send:1:40000 shut "touch:$T/ended.$LINKS" expect:2:100 eof
	wait_for test -e "$T/ended.$LINKS"
	resume
	finish || { echo "from $(name "$1") to $(name "$2")" >&2; return 1; }
	freed
}
@test "a client that sent and ended before it was accepted is served" {
	local front back
	for front in tcp unix; do
		for back in tcp unix; do before_accept "$front" "$back"; done
	done
}

@test "a client that sent and reset before it was accepted costs nobody anything" {
	# To the server it may be a connection that is reset, or none.
	SERVER_FLAGS='-j -n 2' serve tcp expect:1:5 send:2:5 closed
	proxy tcp
	halt
	client send:3:5 rst
	wait "$CLIENT"
	resume
	client send:1:5 expect:2:5
	wait "$CLIENT"
	freed
}

# all_end PID...: each as scripted.
all_end() {
	local pid rc=0
	for pid; do wait "$pid" || rc=1; done
	[ $rc = 0 ] || sort "$T/many.err" | uniq -c >&2
	return $rc
}

many_talk() { # FRONT BACK
	local i clients=()
	SERVER_FLAGS="-j -n $MANY" serve "$2" both:4:1:3:1 "until:$T/go" send:2:20000 shut expect:1:20000 eof
	proxy "$1"
	for ((i = 0; i < MANY; i++)); do
		run_bg "$B/peer" -t "$LIMIT" connect "$FRONT" both:3:1:4:1 "touch:$T/met.$i" "until:$T/go" \
			send:1:20000 shut "touch:$T/did.$i" expect:2:20000 eof 2>>"$T/many.err"
		clients+=("$PID")
	done
	wait_for all_marked met
	halt
	: >"$T/go"
	wait_for all_marked did
	resume
	all_end "${clients[@]}" "$SERVER" || { echo "from $(name "$1") to $(name "$2")" >&2; return 1; }
	freed
}

all_marked() { # WORD
	local i
	for ((i = 0; i < MANY; i++)); do [ -e "$T/$1.$i" ] || return 1; done
}

@test "TCP: 100 connections that send and end on both sides in one batch lose nothing" { many_talk tcp tcp; }
@test "unix: 100 connections that send and end on both sides in one batch lose nothing" { many_talk unix unix; }

# Descriptors and memory of those that die are used again for those that come, perhaps in the same batch.
many_die() { # FRONT BACK
	local i clients=()
	SERVER_FLAGS="-j -n $((MANY + 50))" serve "$2" both:4:1:3:1 "until:$T/go" rst
	proxy "$1"
	for ((i = 0; i < MANY; i++)); do
		run_bg "$B/peer" -t "$LIMIT" connect "$FRONT" both:3:1:4:1 "touch:$T/met.$i" "until:$T/go" \
			rst "touch:$T/did.$i" 2>>"$T/many.err"
		clients+=("$PID")
	done
	wait_for all_marked met
	halt
	: >"$T/go"
	wait_for all_marked did
	for ((i = 0; i < 50; i++)); do
		run_bg "$B/peer" -t "$LIMIT" connect "$FRONT" "touch:$T/new.$i" both:3:1:4:1 closed 2>>"$T/many.err"
		clients+=("$PID")
	done
	wait_for test -e "$T/new.49"
	resume
	all_end "${clients[@]}" "$SERVER" || { echo "from $(name "$1") to $(name "$2")" >&2; return 1; }
	freed
}

@test "TCP: 100 connections reset at both ends in one batch, and 50 new ones in the same batch are served" { many_die tcp tcp; }
@test "unix: 100 connections closed at both ends in one batch, and 50 new ones in the same batch are served" { many_die unix unix; }
