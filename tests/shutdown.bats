#!/usr/bin/env bats
# The orderly end, and the line of numbers that SIGUSR1 asks for.
#
# On systemd-socket-proxyd 252 all of these fail: it knows none of these options, SIGTERM and SIGINT kill it without a word to
# the manager or in the log, and so does SIGUSR1.

load late

# manager: a service manager that writes down in $T/told what it is told.
manager() {
	run_bg socat -u "UNIX-RECV:$T/manager" "OPEN:$T/told,creat,append"
	export NOTIFY_SOCKET=$T/manager
	wait_for test -S "$T/manager"
}

# exits CODE WITHIN_MS [LAST_LINE]: the daemon does so, and soon enough.
exits() {
	local rc=0 began
	began=$(now_ms)
	ends "$PROXY" || rc=$?
	[ "$rc" = "$1" ] || { echo "exit status $rc, not $1" >&2; cat "$T/log" >&2; return 1; }
	between 0 $(($(now_ms) - began)) "$2"
	[ $# = 2 ] || [ "$(tail -n 1 "$T/log")" = "$3" ] || { cat "$T/log" >&2; return 1; }
}

# download NAME: a client that has had some of a long answer and will want the rest when $T/go exists.
LONG=32M
serve() { BACKEND_FLAGS="-j -n 100" backend 127.0.0.1:0 expect:1:100 send:2:$LONG eof; }
download() {
	client "$1" "${ADDR[0]}" send:1:100 expect:2:1M "touch:$T/$1.begun" "until:$T/go" expect:2:31M shut eof
	wait_for test -e "$T/$1.begun"
}

# listening [OPTION...]: the daemon with sockets of its own, $ADDR, and the backend as its target.
listening() {
	nowhere
	ADDR=("$NOWHERE" "$T/front")
	run_bg "${PROXYD:?}" "--listen=$NOWHERE" "--listen=$T/front" "$@" "$BACK" </dev/null >"$T/out" 2>"$T/log"
	PROXY=$PID
	wait_for says "$T/log" "^Listening on $T/front"
}

# refused ADDR: nobody listens there any more.
refused() {
	no "$B/peer" -t 2 connect "$1" 2>"$T/refused"
	grep -q 'ECONNREFUSED\|ENOENT' "$T/refused"
}

# ---- nothing to finish ----

@test "with nobody there SIGTERM and SIGINT end it at once, with 0 and a line" {
	local signal
	backend 127.0.0.1:0 echo
	for signal in TERM INT; do
		start tcp4 -- --shutdown-timeout=1min "$BACK"
		"$B/peer" connect "${ADDR[0]}" shut closed || :
		wait_for status_is NOW 0
		kill "-$signal" "$PROXY"
		exits 0 1000 'Stopped: 0 connections finished, 0 were cut.'
	done
}

@test "by default SIGTERM cuts who is there, resets both sides and is no failure" {
	manager
	BACKEND_FLAGS="-j -n 2" backend 127.0.0.1:0 expect:1:100 send:2:100 reset
	start tcp4 -- "$BACK"
	clients 2 "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/up" reset
	wait_for status_is FROM_TARGET 200
	kill "$PROXY"
	exits 0 1000 'Stopped: 0 connections finished, 2 were cut.'
	finished "$CLIENTS"
	finished "$BACKEND"
	says "$T/told" 'STOPPING=1$'
}

# ---- --shutdown-timeout= ----

@test "--shutdown-timeout= tells the manager at once, lets a running download finish and ends with 0" {
	manager
	serve
	start tcp4 -- --shutdown-timeout=1min "$BACK"
	download it
	kill "$PROXY"
	wait_for says "$T/told" 'STOPPING=1$'
	pause 300
	no gone "$PROXY"
	touch "$T/go"
	finished "$CLIENT"
	exits 0 1000 'Stopped: 1 connections finished, 0 were cut.'
	finished "$CLIENT"
}

@test "it resets what is left after that time, counts both, and ends with 1" {
	local began
	serve
	start tcp4 -- --shutdown-timeout=1200ms "$BACK"
	download quick
	client slow "${ADDR[0]}" send:1:50 "touch:$T/slow" reset
	client asleep "${ADDR[0]}" reset
	wait_for status_is NOW 3
	began=$(now_ms)
	kill "$PROXY"
	touch "$T/go"
	exits 1 2500 'Stopped: 1 connections finished, 2 were cut.'
	between 1200 $(($(now_ms) - began)) 2500
	finished "$CLIENT"
	[ "$(cat "$T"/{quick,slow,asleep}.err)" = '' ]
}

@test "SIGINT does the same" {
	serve
	start tcp4 -- --shutdown-timeout=700ms "$BACK"
	download quick
	client slow "${ADDR[0]}" send:1:50 "touch:$T/slow" reset
	wait_for status_is NOW 2
	kill -INT "$PROXY"
	touch "$T/go"
	exits 1 2000 'Stopped: 1 connections finished, 1 were cut.'
	finished "$CLIENT"
}

@test "a second SIGTERM or SIGINT cuts at once" {
	local first second
	for first in TERM INT; do
		for second in TERM INT; do
			BACKEND_FLAGS='' backend 127.0.0.1:0 expect:1:100 send:2:100 reset
			start tcp4 -- --shutdown-timeout=infinity "$BACK"
			client it "${ADDR[0]}" send:1:100 expect:2:100 reset
			wait_for status_is FROM_TARGET 100
			kill "-$first" "$PROXY"
			# It has been heard when nobody is let in any more, and this says so.
			wait_for status_is NOW 1
			no gone "$PROXY"
			kill "-$second" "$PROXY"
			exits 1 1000 'Stopped: 0 connections finished, 1 were cut.'
			finished "$CLIENT"
			finished "$BACKEND"
		done
	done
}

@test "a client who waits for its target is let finish, too, when the target comes" {
	nowhere
	start tcp4 -- --shutdown-timeout=20s --connect-retry=20s "$NOWHERE"
	client it "${ADDR[0]}" send:1:100 expect:2:100 shut eof
	wait_for status_is NOW 1
	kill "$PROXY"
	pause 300
	backend "$NOWHERE" expect:1:100 send:2:100 eof
	finished "$CLIENT"
	exits 0 1000 'Stopped: 1 connections finished, 0 were cut.'
}

@test "one that fails during the drain has not been cut" {
	nowhere
	start tcp4 -- --shutdown-timeout=20s --connect-retry=1s "$NOWHERE"
	client it "${ADDR[0]}" send:1:100 reset
	wait_for status_is NOW 1
	kill "$PROXY"
	exits 0 2500 'Stopped: 1 connections finished, 0 were cut.'
	finished "$CLIENT"
}

# ---- the door ----

@test "sockets of its own refuse new clients during the drain, and a socket file is removed" {
	serve
	listening --shutdown-timeout=1min
	download it
	kill "$PROXY"
	wait_for refused "$NOWHERE"
	refused "$T/front"
	no test -e "$T/front"
	touch "$T/go"
	finished "$CLIENT"
	exits 0 1000 'Stopped: 1 connections finished, 0 were cut.'
}

@test "its own and those passed in are told apart, also when descriptor 0 is one of the latter" {
	serve
	nowhere
	start -0 tcp4 -- --inetd "--listen=$NOWHERE" --shutdown-timeout=1min "$BACK"
	wait_for says "$T/log" '^Listening on'
	[ "$(cat "$T/log")" = "Listening on $NOWHERE, forwarding to $BACK." ]
	download it
	kill "$PROXY"
	wait_for refused "$NOWHERE"
	"$B/peer" connect "${ADDR[0]}" quiet:100
	touch "$T/go"
	finished "$CLIENT"
	exits 0 1000 'Stopped: 1 connections finished, 0 were cut.'
}

@test "clients of passed sockets wait in the backlog during the drain, and the next instance serves them" {
	serve
	# As a service manager does, this keeps the socket and starts the next one when the first is over.
	cat >"$T/twice" <<-EOT
		#!/usr/bin/env bash
		trap 'kill \$!' TERM
		for n in 1 2; do
			bash -c 'LISTEN_PID=\$\$ exec "\$@"' bash '$PROXYD' "\$@" &
			echo \$! >'$T/pid'
			mv '$T/pid' "$T/pid.\$n"
			wait \$!
			echo \$? >"$T/status.\$n"
		done
	EOT
	chmod +x "$T/twice"
	PROXYD=$T/twice start tcp4 "unix:$T/front" -- --shutdown-timeout=1min "$BACK"
	wait_for test -e "$T/pid.1"
	download it
	kill "$(cat "$T/pid.1")"
	client later "${ADDR[0]}" send:1:100 "touch:$T/later" expect:2:32M shut eof
	local later=$CLIENT
	client same "$T/front" send:1:100 quiet:200 expect:2:32M shut eof
	wait_for test -e "$T/later"
	pause 300
	no test -e "$T/status.1"
	touch "$T/go"
	wait_for test -e "$T/status.1"
	[ "$(cat "$T/status.1")" = 0 ]
	finished "$later"
	finished "$CLIENT"
	grep -qx 'Stopped: 1 connections finished, 0 were cut.' "$T/log"
	kill "$(cat "$T/pid.2")"
	wait_for says "$T/status.2" '^0$'
}

# ---- SIGUSR1 ----

@test "SIGUSR1 logs one line: connections now, at the peak and in total, bytes each way, refused, failed" {
	BACKEND_FLAGS="-j -n 100" backend "$T/back" expect:1:1000 send:2:70000 eof
	start tcp4 -- -c 3 "$BACK"
	# Three come; one goes; a fourth takes its place, and a fifth finds none.
	for n in 1 2 3 4; do
		client "$n" "${ADDR[0]}" send:1:1000 expect:2:70000 "touch:$T/$n.in" "until:$T/$n.leave" shut eof
		wait_for test -e "$T/$n.in"
		[ "$n" != 3 ] || { touch "$T/1.leave" && wait_for status_is NOW 2; }
	done
	"$B/peer" connect "${ADDR[0]}" closed
	status
	[ "$NOW $PEAK $TOTAL $FROM_CLIENTS $FROM_TARGET $REFUSED $FAILED" = "3 3 4 4000 280000 1 0" ]
	# Now the target is gone.
	touch "$T"/{2,3,4}.leave
	wait_for status_is NOW 0
	kill "$BACKEND"
	rm "$T/back"
	"$B/peer" connect "${ADDR[0]}" send:1:1 closed || :
	wait_for status_is FAILED 1
	[ "$NOW $PEAK $TOTAL $FROM_CLIENTS $FROM_TARGET $REFUSED $FAILED" = "0 3 5 4000 280000 1 1" ]
	[ "$(grep -c '^Status: ' "$T/log")" -ge 3 ]
	[ "$(grep -vc '^Status: ' "$T/log")" = 2 ]
}

@test "the numbers hold during a drain, and counted are bytes that were delivered" {
	BACKEND_FLAGS="-j -n 2" backend "$T/back" "until:$T/go" expect:1:64K send:2:10 eof
	start "unix:$T/front" -- --shutdown-timeout=1min "$BACK"
	client it "$T/front" send:1:64K expect:2:10 shut eof
	wait_for status_is FROM_CLIENTS 65536
	kill "$PROXY"
	wait_for status_is NOW 1
	[ "$FROM_TARGET" = 0 ]
	touch "$T/go"
	finished "$CLIENT"
	exits 0 1000 'Stopped: 1 connections finished, 0 were cut.'
}
