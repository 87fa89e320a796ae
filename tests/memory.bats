#!/usr/bin/env bats
# Memory and other things of the kernel's that run out: a call that fails costs the connection that made it, and no other.
#
# tests/tools/faults.c, preloaded, makes chosen calls fail.  That works with a dynamic daemon without sanitizers, so one is
# built here, whatever variant is under test otherwise; with its own getaddrinfo, because glibc's may crash without memory.
#
# On systemd-socket-proxyd 252 all but 4 and 5 fail: any one call that fails for want of memory, or an epoll_ctl(2) that
# does, ends the whole daemon with all its connections ("Failed to run event loop: Cannot allocate memory").  It starts its
# threads before it serves, and ends when it cannot (8).

load late

setup_file() {
	local cc
	read -r -a cc <<<"${CC:-cc}"
	cc+=(-std=c11 -D_GNU_SOURCE -pthread -O1 -g)
	spied "$BATS_FILE_TMPDIR/proxyd" "${cc[@]}"
	"${cc[@]}" -D_LARGEFILE64_SOURCE -shared -fPIC -o "$BATS_FILE_TMPDIR/faults.so" "$ROOT/tests/tools/faults.c" -ldl
}

# faulty FAULTS SOCKET... -- ARG...: start, with these calls failing from $T/arm on, which is there now unless ARM is empty;
# $T/hits tells each.
faulty() {
	local faults=$1 real=$BATS_FILE_TMPDIR/proxyd arm="FAULTS_ARM='$T/arm'"
	shift
	[ -z "${REFERENCE:-}" ] || real=$REF
	[ -n "${ARM-yes}" ] || arm=''
	rm -f "$T/hits" "$T/arm"
	echo 127.0.0.1 >"$T/hosts"
	cat >"$T/faulty" <<-EOT
		#!/bin/sh
		exec env LD_PRELOAD='$BATS_FILE_TMPDIR/faults.so' FAULTS='$faults' FAULTS_LOG='$T/hits' \\
			$arm SPY_HOSTS='$T/hosts' '$real' "\$@"
	EOT
	chmod +x "$T/faulty"
	PROXYD=$T/faulty start "$@" || return 1
	wait_for serving "$PROXY" "$real"
	touch "$T/arm"
}
# It sleeps, or is gone: in any case its start is over.
serving() { gone "$1" || { [ "/proc/$1/exe" -ef "$2" ] && state_is "$1" S; }; }

# hits: how many calls failed.
hits() { if [ -e "$T/hits" ]; then wc -l <"$T/hits"; else echo 0; fi; }

# lost AT_MOST: no more than so many clients were not served, and the daemon serves one more.
lost() {
	local n
	n=$(grep -c '^peer: ' "$T/clients" || :)
	if [ "$n" -gt "$1" ] || ! "$B/peer" -t 5 connect "$ADDR" "${TALK[@]}"; then
		echo "$n clients were lost, or the one after them:" >&2
		cat "$T/hits" "$T/log" "$T/clients" >&2
		return 1
	fi
}

# More than the buffers on the way hold, while nobody reads: so all rings are in use at once.
TALK=(both:1:400K:1:400K shut eof)
many() { BACKEND_FLAGS="-j -n 1000 -t 50" backend "$T/back" "until:$T/go" echo; }
# Or just a few words.
few() { TALK=(send:1:100 expect:1:100 shut eof) && BACKEND_FLAGS="-j -n 1000 -t 50" backend 127.0.0.1:0 echo; }

# sweep CALL ERROR CLIENTS FIRST SOCKET... -- ARG...: lets the n-th CALL fail, for each n there is, which must be FIRST at
# least, while CLIENTS are served at once.
sweep() {
	local call=$1 error=$2 count=$3 first=$4 n=1
	shift 4
	while :; do
		rm -f "$T/go"
		faulty "$call:$error:$n" "$@"
		clients "$count" "$ADDR" "${TALK[@]}"
		if [ "${TALK[0]}" != send:1:100 ]; then pause 30; fi
		touch "$T/go"
		wait_for gone "$CLIENTS"
		[ "$(hits)" -gt 0 ] || break
		lost 1
		stop
		n=$((n + 1))
	done
	stop
	between "$first" $((n - 1)) 1000
}

@test "memory that runs out at any one call costs at most that connection" {
	many
	sweep malloc ENOMEM 6 10 tcp4 -- "$BACK"
}

@test "so it is while a name is looked up" {
	few
	sweep malloc ENOMEM 1 4 tcp4 -- "localhost:${BACK##*:}"
}

@test "memory that is gone for good costs each connection, in one line, but not the daemon" {
	few
	faulty malloc:ENOMEM:1+ tcp4 -- "$BACK"
	clients 10 "${ADDR[0]}" closed
	finished "$CLIENTS"
	[ "$(wc -l <"$T/log")" = 10 ]
	[ "$(grep -c 'Failed to allocate a connection' "$T/log")" = 10 ]
	calm "$PROXY" 1
	stop
}

@test "a client that could not be let in for want of memory does not keep the daemon from its idle exit" {
	few
	faulty malloc:ENOMEM:1+ tcp4 -- --exit-idle-time=700ms "$BACK"
	clients 3 "${ADDR[0]}" closed
	finished "$CLIENTS"
	ends "$PROXY"
}

@test "memory that fails while the daemon starts ends it with a line that says so" {
	local n=0
	few
	while :; do
		n=$((n + 1))
		ARM='' faulty "malloc:ENOMEM:$n" tcp4 -- "$BACK"
		[ "$(hits)" -gt 0 ] || break
		# What failed may not have mattered.
		"$B/peer" -t 5 connect "${ADDR[0]}" "${TALK[@]}" 2>"$T/peer" && continue
		gone "$PROXY" || continue
		no ends "$PROXY"
		says "$T/log" 'Cannot allocate memory\|Out of memory\|out of memory' || { echo "$n: says nothing" >&2; return 1; }
	done
	between 2 "$n" 50
}

@test "a socket that cannot be made for want of memory costs at most that connection" {
	few
	sweep socket ENOBUFS 4 4 tcp4 -- "$BACK"
	sweep accept4 ENOMEM 4 4 tcp4 -- "$BACK"
}

@test "so does one that cannot be watched" {
	few
	sweep epoll_ctl ENOMEM 3 9 tcp4 -- "$BACK"
}

@test "a listener that cannot be watched again for want of memory is not lost" {
	few
	sweep epoll_ctl ENOSPC 2 6 tcp4 -- -c 1 --when-full=wait "$BACK"
}

@test "a thread that cannot be started costs at most that connection" {
	few
	faulty pthread_create:EAGAIN:1-2 tcp4 -- "localhost:${BACK##*:}"
	"$B/peer" connect "${ADDR[0]}" closed
	"$B/peer" connect "${ADDR[0]}" closed
	"$B/peer" connect "${ADDR[0]}" "${TALK[@]}"
	[ "$(grep -c '^Failed to resolve host: .* (localhost:[0-9]*)$' "$T/log")" = 2 ]
	[ "$(hits)" = 2 ]
	stop
	# What else the thread takes is opened at the start, and only for a name.
	ARM='' faulty eventfd:EMFILE:1 tcp4 -- "localhost:${BACK##*:}"
	no ends "$PROXY"
	says "$T/log" '^Failed to set up the event loop: .*\(open files\|descriptors\)'
	ARM='' faulty eventfd:EMFILE:1 tcp4 -- "$BACK"
	"$B/peer" connect "${ADDR[0]}" "${TALK[@]}"
	[ "$(hits)" = 0 ]
}

@test "when everything fails now and then, no place and no descriptor is lost" {
	local before lost
	few
	faulty malloc:ENOMEM:%7,socket:ENOBUFS:%13,epoll_ctl:ENOMEM:%29,accept4:ENOBUFS:%101 tcp4 -- -c 1000 "$BACK"
	before=$(descriptors "$PROXY")
	clients 300 "${ADDR[0]}" "${TALK[@]}"
	wait_for gone "$CLIENTS"
	lost=$(grep -c '^peer: ' "$T/clients" || :)
	between 1 "$lost" "$(hits)"
	wait_for status_is NOW 0
	between $((300 - lost)) "$TOTAL" 300
	[ "$(descriptors "$PROXY")" = "$before" ]
	calm "$PROXY" 1
}
