#!/usr/bin/env bats
# Back-pressure: what a reader does not take waits in the kernel at its sender, and in two rings at most here.
#
# A reader takes a little, stops for 10 s while 1 GB waits behind it, and then gets all of it, byte for byte.  All cases
# run side by side, each with a daemon of its own (setup_file); each test then looks at one of them.
#
# On systemd-socket-proxyd 252 fail: none; it keeps the bytes in pipes, which are not its own memory.

load streams

STALL=10 # seconds
BYTES=$((1 << 30))

# Memory that is the daemon's own, in KB: its text and libraries are not counted.
rss_kb() { sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"; }

# run_case FRONT BACK SIDE: SIDE sends.  Before, a byte went each way, so that the daemon has what it always needs.
run_case() {
	local file=$D/$1.$2.$3 second
	play "$1" "$2" "$3" meet "until:$T/start" "send:1:$BYTES" shut eof -- \
		meet expect:1:1000 did go expectall:1
	met
	rss_kb "$PROXY" >"$file.rss"
	: >"$T/start"
	wait_for test -e "$T/did.$(other "$3").1"
	for ((second = 0; second < STALL; second++)); do
		sleep 1
		rss_kb "$PROXY" >>"$file.rss"
	done
	# Neither is through.
	if gone "$CLIENT" || gone "$SERVER"; then return 1; fi
	go
	finish
	echo "after the stall arrived $(said "$(other "$3")" got) bytes"
	[ "$(said "$(other "$3")" got)" = $((BYTES - 1000)) ]
	rss_kb "$PROXY" >>"$file.rss"
	freed
}

setup_file() {
	export D=$BATS_FILE_TMPDIR
	local case
	export LIMIT=60
	for case in 'tcp tcp client' 'tcp tcp server' 'tcp unix client' 'unix tcp server' 'unix unix client' 'unix unix server'; do
		# shellcheck disable=SC2086
		apart "$D/${case// /.}" run_case $case
	done
	joined
}

# check FRONT BACK SIDE: how that case went.  A ring of 16 KB may touch a page more than its size.
check() {
	local file=$D/$1.$2.$3 most=100 first highest
	cat "$file.say"
	[ -e "$file.ok" ]
	if is_sanitized; then most=1000; fi
	first=$(head -n 1 "$file.rss") highest=$(sort -n "$file.rss" | tail -n 1)
	echo "the daemon had $first KB, then at most $highest KB"
	[ $((highest - first)) -le $most ]
}

@test "TCP to TCP: 1 GB behind a server that does not read costs two rings, and arrives" { check tcp tcp client; }
@test "TCP to TCP: 1 GB behind a client that does not read costs two rings, and arrives" { check tcp tcp server; }
@test "TCP to unix: 1 GB behind a server that does not read costs two rings, and arrives" { check tcp unix client; }
@test "unix to TCP: 1 GB behind a client that does not read costs two rings, and arrives" { check unix tcp server; }
@test "unix to unix: 1 GB behind a server that does not read costs two rings, and arrives" { check unix unix client; }
@test "unix to unix: 1 GB behind a client that does not read costs two rings, and arrives" { check unix unix server; }
