#!/usr/bin/env bats
# Half-closes: a side that has finished sending still gets all that the other has to say, however late.
#
# On systemd-socket-proxyd 252 fail: every test: it closes both directions as soon as one has ended and is
# empty, so the reply is lost.

# shellcheck disable=SC2034,SC2153
load streams

# Nothing, something, a ring, a byte more, and what no buffer holds.
SIZES=(0 1 16384 16385 100M)

# The client ends first.  The reply begins after a silence in which nothing, no end either, has come to it.
client_first() {
	local n
	for n in "${SIZES[@]}"; do
		play "$1" "$2" client "send:1:$n" shut quiet:50 did "expect:2:$n" eof -- \
			"expect:1:$n" eof after "send:2:$n"
		finish || { echo "with $n bytes" >&2; return 1; }
		freed
	done
}

# The same the other way round: a server that says its piece and then listens.
server_first() {
	local n
	for n in "${SIZES[@]}"; do
		play "$1" "$2" server "send:1:$n" shut quiet:50 did "expect:2:$n" eof -- \
			"expect:1:$n" eof after "send:2:$n"
		finish || { echo "with $n bytes" >&2; return 1; }
		freed
	done
}

# Both end before they have read all of the other's.  Of a stream that no buffer holds they leave a ring and a byte.
crossed() {
	local n=$((100 * 1024 * 1024)) most
	local small
	for small in "${SIZES[@]:0:4}"; do
		play "$1" "$2" client "send:1:$small" shut did after "expect:2:$small" eof -- \
			"send:2:$small" shut did after "expect:1:$small" eof
		finish || { echo "with $small bytes" >&2; return 1; }
		freed
	done
	most=$((n - 16385))
	play "$1" "$2" client "both:1:$n:2:$most" shut did after expect:2:16385 eof -- \
		"both:2:$n:1:$most" shut did after expect:1:16385 eof
	finish || { echo "with $n bytes" >&2; return 1; }
	freed
}

# Two seconds of silence after the client's end, and then one more in the midst of the reply.
late() {
	play "$1" "$2" client send:1:1 shut quiet:2000 did expect:2:16385 quiet:1000 "touch:$T/go.1" expect:2:100000 eof -- \
		expect:1:1 eof after send:2:16385 go send:2:100000
	finish
}

# Programs from everyday life: the sum of standard input is known only after its end.
sums() {
	local front=$1 n address=()
	case $2 in
	tcp)
		run_bg socat -d -d -t 30 TCP-LISTEN:0,bind=127.0.0.1,fork EXEC:sha256sum 2>"$T/socat"
		wait_for says "$T/socat" 'listening on'
		BACK=127.0.0.1:$(sed -n 's/.*listening on AF=2 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$T/socat")
		;;
	unix)
		run_bg socat -d -d -t 30 "UNIX-LISTEN:$T/back,fork" EXEC:sha256sum 2>"$T/socat"
		wait_for says "$T/socat" 'listening on'
		BACK=$T/back
		;;
	esac
	proxy "$front"
	case $FRONT in
	/*) address=(UNIX-CONNECT:"$FRONT") ;;
	*) address=(TCP:"$FRONT") ;;
	esac
	for n in "${SIZES[@]}"; do
		head -c "$n" /dev/zero | timeout 20 socat -t 20 - "${address[@]}" 3>&- >"$T/sum"
		head -c "$n" /dev/zero | sha256sum | diff - "$T/sum" || { echo "with $n bytes" >&2; return 1; }
	done
	printf x | timeout 20 socat -t 20 - "${address[@]}" 3>&- >"$T/sum"
	printf x | sha256sum | diff - "$T/sum"
}

@test "TCP to TCP: a client that ended its stream gets the whole reply" { client_first tcp tcp; }
@test "TCP to unix: a client that ended its stream gets the whole reply" { client_first tcp unix; }
@test "unix to TCP: a client that ended its stream gets the whole reply" { client_first unix tcp; }
@test "unix to unix: a client that ended its stream gets the whole reply" { client_first unix unix; }

@test "TCP to TCP: a server that ended its stream gets all that follows" { server_first tcp tcp; }
@test "TCP to unix: a server that ended its stream gets all that follows" { server_first tcp unix; }
@test "unix to TCP: a server that ended its stream gets all that follows" { server_first unix tcp; }
@test "unix to unix: a server that ended its stream gets all that follows" { server_first unix unix; }

@test "TCP to TCP: ends that cross lose nothing" { crossed tcp tcp; }
@test "TCP to unix: ends that cross lose nothing" { crossed tcp unix; }
@test "unix to TCP: ends that cross lose nothing" { crossed unix tcp; }
@test "unix to unix: ends that cross lose nothing" { crossed unix unix; }

@test "a reply may come in pieces, seconds after the client's end, over every pair of sockets" {
	local front back rc=0
	for front in tcp unix; do
		for back in tcp unix; do
			apart "$T/$front.$back" late "$front" "$back"
		done
	done
	joined
	for front in tcp unix; do
		for back in tcp unix; do
			[ -e "$T/$front.$back.ok" ] || { rc=1; echo "$(name $front) to $(name $back): $(cat "$T/$front.$back.say")" >&2; }
		done
	done
	[ $rc = 0 ]
}

@test "TCP to TCP: socat's client gets the sum that its server computes at the end" { sums tcp tcp; }
@test "TCP to unix: socat's client gets the sum that its server computes at the end" { sums tcp unix; }
@test "unix to TCP: socat's client gets the sum that its server computes at the end" { sums unix tcp; }
@test "unix to unix: socat's client gets the sum that its server computes at the end" { sums unix unix; }
