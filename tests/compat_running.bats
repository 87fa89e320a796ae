# Sections "Running", "Log" and "Notify and watchdog" of what a drop-in has to match.

load compat

# clients N OP...: N at once at the daemon's first socket.
clients() { "$B/peer" -j -n "$1" connect "${ADDR[0]}" "${@:2}"; }

# idle [N]: the daemon has N connections, 0 by default.
idle() {
	local open=("/proc/$PROXY/fd/"*)
	[ ${#open[@]} -eq $((RESTING + 2 * ${1:-0})) ]
}

# at_rest: what idle compares with; the daemon has just begun to serve its first socket, and done so.
at_rest() {
	local open before=
	wait_for "$B/peer" connect "${ADDR[0]}" send:1:100 expect:1:100
	until open=("/proc/$PROXY/fd/"*) && [ "${#open[@]}" = "$before" ]; do
		before=${#open[@]}
		sleep 0.1
	done
	RESTING=$before
}

# since MS: milliseconds since now_ms was that.
since() { echo $(($(now_ms) - $1)); }

# sink [ADDR]: a service manager that writes into $T/notified what it is told at $T/notify, or at ADDR.
sink() {
	local place=${1:-$T/notify}
	case $place in
	@*) run_bg socat -u "ABSTRACT-RECV:${place#@}" - </dev/null >"$T/notified"
		wait_for grep -qF "$place" /proc/net/unix ;;
	*) run_bg socat -u "UNIX-RECV:$place" - </dev/null >"$T/notified"
		wait_for test -S "$place" ;;
	esac
	SINK=$PID
}

# fed N: the watchdog was, N times at least.
fed() { [ "$(grep -o WATCHDOG=1 "$T/notified" | wc -l)" -ge "$1" ]; }

# shows YES|NO TEXT: whether the log has such a line.
shows() {
	local shown=NO
	if says "$T/log" "$2"; then shown=YES; fi
	[ "$shown" = "$1" ] || { echo "$2 should be shown: $1, log:" >&2; cat "$T/log" >&2; return 1; }
}

yes_from() { if [ "$1" -ge "$2" ]; then echo YES; else echo NO; fi; }

# soft_limit: of the daemon's descriptors.
soft_limit() { sed -n 's/^Max open files *\([^ ]*\).*/\1/p' "/proc/$PROXY/limits"; }

# let_in: a client is told that the target is not there, and not that there are too many clients.
let_in() {
	: >"$T/log"
	turned_away 1
	says "$T/log" '^Failed to connect' && ! says "$T/log" '^Hit connection limit'
}

# at_most TEXT MS [N]: the log has such lines: N, 1 by default, and one more for each second since now_ms was MS.
at_most() {
	local lines
	lines=$(grep -c "^$1" "$T/log")
	echo "$lines times: $1"
	[ "$lines" -ge 1 ]
	[ "$lines" -le $((${3:-1} + $(since "$2") / 1000)) ]
}

# ---- Running: failures ----

@test "a target that nobody serves is told, and the daemon serves when it comes" {
	local program
	for program in "${PROGRAMS[@]}"; do
		rm -f "$T/back"
		PROXYD=$program start tcp4 -- "$T/back"
		turned_away 1
		wait_for log_has 'Failed to connect to remote host: No such file or directory'
		answer "$T/back"
		talk "${ADDR[0]}"
		kill -KILL "$BACKEND"
		wait_for gone "$BACKEND"
		turned_away 1
		wait_for log_has 'Failed to connect to remote host: Connection refused'
		answer "$T/back"
		talk "${ADDR[0]}"
		stop
	done
}

@test "running out of descriptors is told, not more than once a second, and the clients it cannot serve yet wait" {
	local begin
	begin=$(now_ms)
	BACKEND_FLAGS='-j -n 40' backend 127.0.0.1:0 echo
	start -r 40 tcp4 -- "$BACK"
	run_bg clients 40 send:1:1000 expect:1:1000 "until:$T/go"
	local crowd=$PID
	wait_for log_has 'Failed to accept() socket:'
	touch "$T/go"
	ends "$crowd"
	ends "$BACKEND"
	at_most 'Failed to accept() socket:' "$begin"
	no gone "$PROXY"
}

@test "half-close is passed on to the target: a client that ended its request gets the whole reply" {
	backend 127.0.0.1:0 expectall:1 send:2:500K close
	start tcp4 -- "$BACK"
	run clients 1 send:1:100K shut expectall:2
	is "$output" "got $((500 * 1024))"
	ends "$BACKEND"
}

@test "half-close is passed on to the client: a target that ended its reply gets the whole request" {
	backend 127.0.0.1:0 send:2:100K shut expectall:1
	start tcp4 -- "$BACK"
	clients 1 expectall:2 send:1:500K close
	ends "$BACKEND"
	grep -q "^got $((500 * 1024))$" "$T"/backend.*
}

@test "a reset is passed on as a reset, in both directions" {
	backend 127.0.0.1:0 expect:1:100 send:2:100 "until:$T/go" rst
	start tcp4 -- "$BACK"
	clients 1 send:1:100 expect:2:100 "touch:$T/go" reset
	stop
	backend 127.0.0.1:0 expect:1:100 send:2:100 reset
	start tcp4 -- "$BACK"
	clients 1 send:1:100 expect:2:100 rst
	ends "$BACKEND"
}

# ---- Running: the limit ----

@test "a limit of 1 admits one client, and another when that one is gone" {
	BACKEND_FLAGS='-j -n 9' backend 127.0.0.1:0 echo
	start tcp4 -- -c 1 "$BACK"
	at_rest
	hold 1 "${ADDR[0]}"
	turned_away 1
	wait_for logged 1 'Hit connection limit, refusing connection.'
	touch "$T/go"
	wait_for idle
	clients 1 send:1:1000 expect:1:1000
}

@test "a limit of 3 admits exactly 3, however many come, warns once a second, and recovers" {
	BACKEND_FLAGS='-j -n 20' backend 127.0.0.1:0 echo
	start tcp4 -- -c 3 "$BACK"
	at_rest
	local round begin
	for round in 1 2; do
		hold 3 "${ADDR[0]}"
		begin=$(now_ms)
		turned_away 20
		wait_for says "$T/log" '^Hit connection limit, refusing connection.$'
		at_most 'Hit connection limit' "$begin" "$round"
		idle 3
		touch "$T/go"
		wait_for idle
		rm "$T/go"
	done
}

@test "a connection whose target cannot be reached does not count for ever" {
	local i
	start tcp4 -- -c 2 /nonexistent
	turned_away 20
	for i in 1 2 3 4 5; do turned_away 1; done
	wait_for let_in
}

# ---- Running: idle exit ----

@test "with --exit-idle-time=0 a client that waits when the daemon starts is served, then it exits with 0" {
	local program
	for program in "${PROGRAMS[@]}"; do
		answer
		wrapper late <<-EOT
			until [ -e "$T/run" ]; do sleep 0.02; done
			exec "$program" "\$@"
		EOT
		rm -f "$T/run" "$T/there"
		PROXYD=$T/late start tcp4 -- --exit-idle-time=0 "$BACK"
		run_bg "$B/peer" connect "${ADDR[0]}" "touch:$T/there" send:1:1000 expect:2:1000
		wait_for test -e "$T/there"
		touch "$T/run"
		ends "$PID"
		ends "$PROXY"
	done
}

@test "with --exit-idle-time=0 all clients that wait when the daemon starts are served" {
	BACKEND_FLAGS='-j -n 30' backend 127.0.0.1:0 expect:1:1000 send:2:1000 closed
	wrapper late <<-EOT
		until [ -e "$T/run" ]; do sleep 0.02; done
		exec "$PROXYD" "\$@"
	EOT
	PROXYD=$T/late start tcp4 "unix:$T/s" -- --exit-idle-time=0 "$BACK"
	local i crowd=()
	for i in {1..30}; do
		run_bg "$B/peer" connect "${ADDR[$((i % 2))]}" "touch:$T/there.$i" send:1:1000 expect:2:1000
		crowd+=("$PID")
	done
	for i in {1..30}; do wait_for test -e "$T/there.$i"; done
	touch "$T/run"
	ends "$PROXY"
	for i in "${crowd[@]}"; do ends "$i"; done
}

@test "a client that came while the idle time ran out is served first" {
	answer
	start tcp4 -- --exit-idle-time=500ms "$BACK"
	# Stopped, it sees the client and the end of the time together; and waking, it is interrupted before it sees either.
	kill -STOP "$PROXY"
	run_bg "$B/peer" connect "${ADDR[0]}" "touch:$T/there" send:1:1000 expect:2:1000
	wait_for test -e "$T/there"
	sleep 0.6
	kill -CONT "$PROXY"
	ends "$PID"
	ends "$PROXY"
}

@test "idle exit counts from the end of the last connection; an open, silent one holds it off; the status is 0" {
	local program begin
	BACKEND_FLAGS='-j -n 9' backend 127.0.0.1:0 echo
	for program in "${PROGRAMS[@]}"; do
		PROXYD=$program start tcp4 -- --exit-idle-time=400ms "$BACK"
		clients 1 send:1:100 expect:1:100 quiet:700 send:1:100 expect:1:100
		begin=$(now_ms)
		no gone "$PROXY"
		ends "$PROXY"
		begin=$(since "$begin")
		echo "exit after $begin ms" >&2
		[ "$begin" -ge 300 ]
	done
}

@test "each connection begins the idle time anew" {
	local begin
	answer
	start tcp4 -- --exit-idle-time=900ms "$BACK"
	talk "${ADDR[0]}"
	sleep 0.5
	talk "${ADDR[0]}"
	sleep 0.5
	begin=$(now_ms)
	talk "${ADDR[0]}"
	ends "$PROXY"
	[ "$(since "$begin")" -ge 900 ]
}

@test "idle exit is armed at start, though nobody ever connects" {
	local begin
	start tcp4 "unix:$T/s" -- --exit-idle-time=0 127.0.0.1:1
	ends "$PROXY"
	begin=$(now_ms)
	start tcp4 "unix:$T/s" -- --exit-idle-time=300ms 127.0.0.1:1
	ends "$PROXY"
	[ "$(since "$begin")" -ge 300 ]
}

# ---- Running: signals ----

@test "SIGTERM and SIGINT end it in order: STOPPING=1, connections closed, status 0" {
	local signal
	sink
	BACKEND_FLAGS='-j -n 9' backend 127.0.0.1:0 echo
	for signal in TERM INT; do
		: >"$T/notified"
		NOTIFY_SOCKET=$T/notify start tcp4 -- "$BACK"
		run_bg "$B/peer" connect "${ADDR[0]}" send:1:100 expect:1:100 "touch:$T/up" closed
		local client=$PID
		wait_for test -e "$T/up"
		rm "$T/up"
		no says "$T/notified" STOPPING=1
		kill -$signal "$PROXY"
		ends "$PROXY"
		ends "$client"
		wait_for says "$T/notified" STOPPING=1
	done
}

@test "SIGPIPE does not kill it, neither sent nor from clients that left" {
	local i
	answer
	start tcp4 "unix:$T/s" -- "$BACK"
	for i in 1 2 3 4 5; do
		clients 1 send:1:1000 rst
		"$B/peer" connect "$T/s" send:1:1000 close
	done
	kill -PIPE "$PROXY"
	talk "${ADDR[0]}"
	talk "$T/s"
	no gone "$PROXY"
}

# ---- Running: the limit of descriptors ----

@test "the soft limit of descriptors is raised to what the connections need" {
	answer
	wrapper low <<-EOT
		ulimit -S -n 64
		exec "$PROXYD" "\$@"
	EOT
	PROXYD=$T/low start tcp4 -- -c 200 "$BACK"
	talk "${ADDR[0]}"
	[ "$(soft_limit)" -ge 401 ]
	[ "$(soft_limit)" -lt 500 ]
	no says "$T/log" NOFILE
	stop
	PROXYD=$T/low start tcp4 -- -c 2 "$BACK"
	talk "${ADDR[0]}"
	is "$(soft_limit)" 64
}

@test "a hard limit of descriptors that is too low is told once, with the limit in force" {
	answer
	start -r 50 tcp4 -- -c 100 "$BACK"
	talk "${ADDR[0]}"
	talk "${ADDR[0]}"
	is "$(grep -c NOFILE "$T/log")" 1
	grep NOFILE "$T/log" | grep -w 50 | grep -q -- --connections-max=100
	stop
	start -r 50 tcp4 -- -c 4294967295 "$BACK"
	talk "${ADDR[0]}"
	is "$(grep -c NOFILE "$T/log")" 1
}

# ---- Log ----

@test "without a journal the log has no prefix" {
	local stream
	: >"$T/log"
	for stream in none 1:2 "$(stat -c %d:%i "$ROOT/Makefile")" x '' "$(stat -c %d: "$T/log")" "$(stat -c %d:%ix "$T/log")"; do
		if [ "$stream" = none ]; then unset JOURNAL_STREAM; else export JOURNAL_STREAM=$stream; fi
		start tcp4 -- -c 1 /nonexistent
		turned_away 1
		wait_for says "$T/log" '^Failed to connect'
		stop
		no says "$T/log" '^<'
	done
}

@test "where stderr is the journal each line has its priority" {
	: >"$T/log"
	JOURNAL_STREAM=$(stat -c %d:%i "$T/log") SYSTEMD_LOG_LEVEL=debug \
		start -r 60 tcp4 -- --listen=127.0.0.1:0 /nonexistent
	turned_away 1
	wait_for says "$T/log" '^<3>Failed to connect to remote host: No such file'
	stop
	says "$T/log" '^<4>.*NOFILE'
	says "$T/log" '^<6>Listening on 127'
	says "$T/log" '^<7>New connection from 127'
	no grep -v '^<[0-7]>[^<]' "$T/log"
}

@test "SYSTEMD_LOG_LEVEL sets the level, by word or number" {
	local words=(emerg alert crit err warning notice info debug) i level
	for i in {0..7}; do
		for level in "$i" "${words[i]}"; do
			SYSTEMD_LOG_LEVEL=$level start -r 60 tcp4 -- --listen=127.0.0.1:0 /nonexistent
			turned_away 1
			stop
			echo "level $level"
			shows "$(yes_from "$i" 3)" '^Failed to connect'
			shows "$(yes_from "$i" 4)" NOFILE
			shows "$(yes_from "$i" 6)" '^Listening on'
			shows "$(yes_from "$i" 7)" '^New connection from'
		done
	done
}

@test "the level is info by default, and a bad one warns and is ignored" {
	local level
	for level in none loud 8 -1 77 INFO; do
		if [ "$level" = none ]; then unset SYSTEMD_LOG_LEVEL; else export SYSTEMD_LOG_LEVEL=$level; fi
		start tcp4 -- --listen=127.0.0.1:0 /nonexistent
		turned_away 1
		stop
		shows YES '^Listening on'
		shows NO '^New connection from'
		if [ "$level" = none ]; then
			shows NO SYSTEMD_LOG_LEVEL
		else
			shows YES "^SYSTEMD_LOG_LEVEL=$level is not a level"
			is "$(grep -c SYSTEMD_LOG_LEVEL "$T/log")" 1
		fi
	done
}

@test "at debug the log names each client" {
	local program
	answer
	for program in "${PROGRAMS[@]}"; do
		SYSTEMD_LOG_LEVEL=debug PROXYD=$program start tcp4 tcp6 "unix:$T/s" -- "$BACK"
		talk "${ADDR[0]}"
		talk "${ADDR[1]}"
		run_bg "$B/peer" connect "$T/s" send:1:1000 expect:2:1000
		ends "$PID"
		stop
		grep -qE '^New connection from 127\.0\.0\.1:[1-9][0-9]*$' "$T/log"
		grep -qE '^New connection from \[::1\]:[1-9][0-9]*$' "$T/log"
		grep -qxF "New connection from PID $PID/UID $(id -u)" "$T/log"
	done
}

# ---- Notify and watchdog ----

@test "the service manager is told READY=1 with a STATUS= once clients are served, and STOPPING=1 at the end" {
	answer
	sink
	NOTIFY_SOCKET=$T/notify start tcp4 -- "$BACK"
	wait_for says "$T/notified" '^STATUS=.'
	is "$(head -1 "$T/notified")" READY=1
	no says "$T/notified" STOPPING=1
	talk "${ADDR[0]}"
	stop
	wait_for says "$T/notified" STOPPING=1
	no says "$T/notified" ERRNO=
	no says "$T/notified" WATCHDOG=1
}

@test "an idle exit is told with STOPPING=1" {
	sink
	NOTIFY_SOCKET=$T/notify start tcp4 -- --exit-idle-time=0 127.0.0.1:1
	ends "$PROXY"
	wait_for says "$T/notified" STOPPING=1
	is "$(head -1 "$T/notified")" READY=1
}

@test "the service manager may have an abstract name" {
	answer
	sink "@proxyd-test-notify.$$"
	NOTIFY_SOCKET=@proxyd-test-notify.$$ start tcp4 -- "$BACK"
	wait_for says "$T/notified" '^READY=1$'
	stop
	wait_for says "$T/notified" STOPPING=1
}

@test "a failed start is told with ERRNO=, and never READY=1" {
	sink
	NOTIFY_SOCKET=$T/notify fails "Didn't get any sockets passed in." "$PROXYD" 127.0.0.1:1
	wait_for says "$T/notified" '^ERRNO=[1-9]'
	: >"$T/notified"
	NOTIFY_SOCKET=$T/notify fails 'Failed to receive sockets from parent.' \
		"$B/activate" -c x tcp4 -- "$PROXYD" 127.0.0.1:1
	wait_for says "$T/notified" ERRNO=22
	NOTIFY_SOCKET=$T/notify fails 'Passed in socket is not a stream socket.' \
		"$B/activate" udp -- "$PROXYD" 127.0.0.1:1
	wait_for says "$T/notified" ERRNO=91
	no says "$T/notified" READY=1
}

@test "a service manager that is absent, dead, no socket or no sensible name is no reason to stop" {
	local name
	backend "$T/dead" echo
	kill -KILL "$BACKEND"
	wait_for gone "$BACKEND"
	: >"$T/file"
	answer
	for name in "$T/absent" "$T/dead" "$T/file" "@absent.$$" "/$(bytes 200)" "@$(bytes 200)" "/$(bytes 107)" notify '' / @; do
		NOTIFY_SOCKET=$name WATCHDOG_USEC=10000 start tcp4 -- "$BACK"
		talk "${ADDR[0]}"
		kill "$PROXY"
		ends "$PROXY"
	done
}

@test "a service manager that does not read does not hold the daemon up" {
	answer
	sink
	NOTIFY_SOCKET=$T/notify WATCHDOG_USEC=4000 start tcp4 -- "$BACK"
	wait_for fed 3
	kill -STOP "$SINK"
	# More than its queue holds, which is 10 messages, or what net.unix.max_dgram_qlen says.
	clients 1 quiet:300 send:1:1000 expect:2:1000
	talk "${ADDR[0]}"
	kill "$PROXY"
	ends "$PROXY"
	kill -CONT "$SINK"
}

@test "the watchdog is fed at half its period" {
	local program begin spent
	wrapper own <<-EOT
		WATCHDOG_PID=\$\$ exec "$PROXYD" "\$@"
	EOT
	for program in "$PROXYD" "$T/own"; do
		sink
		NOTIFY_SOCKET=$T/notify WATCHDOG_USEC=300000 PROXYD=$program start tcp4 -- 127.0.0.1:1
		wait_for fed 1
		begin=$(now_ms)
		wait_for fed 6
		spent=$(since "$begin")
		echo "five times in $spent ms" >&2
		[ "$spent" -ge 450 ]
		[ "$spent" -lt 1400 ]
		stop
		kill "$SINK"
		wait_for gone "$SINK"
	done
}

@test "where it was started without 0, 1 and 2, no line of the log gets into a connection" {
	local limit
	# So few descriptors that it has something to say; with one or the other the spare one is lent to a target.
	for limit in 15 16; do
		BACKEND_FLAGS='-j -n 20' backend 127.0.0.1:0 expect:1:1000 pause:50 send:2:1000 eof
		rm -f "$T/addr"
		run_bg "$B/activate" -f "$T/addr" -r "$limit" tcp4 -- \
			sh -c 'exec <&- >&- 2>&-; exec "$0" "$@"' "$PROXYD" "$BACK" 2>"$T/log"
		wait_for test -e "$T/addr"
		mapfile -t ADDR <"$T/addr"
		run_bg "$B/peer" -j -n 20 -t 20 connect "${ADDR[0]}" send:1:1000 expect:2:1000 shut eof
		ends "$PID"
		ends "$BACKEND"
	done
}

@test "the watchdog of another process, or one without a sensible period, is not fed" {
	local usec
	sink
	WATCHDOG_USEC=100000 WATCHDOG_PID=1 NOTIFY_SOCKET=$T/notify start tcp4 -- 127.0.0.1:1
	WATCHDOG_USEC=100000 WATCHDOG_PID=x NOTIFY_SOCKET=$T/notify start tcp4 -- 127.0.0.1:1
	for usec in '' 0 x 100000x -100000 18446744073709551615 99999999999999999999999; do
		WATCHDOG_USEC=$usec NOTIFY_SOCKET=$T/notify start tcp4 -- 127.0.0.1:1
	done
	BACKEND_FLAGS='-j -n 9' backend 127.0.0.1:0 echo
	NOTIFY_SOCKET=$T/notify start tcp4 -- "$BACK"
	clients 1 quiet:400 send:1:100 expect:1:100
	is "$(grep -o READY=1 "$T/notified" | wc -l)" 10
	no says "$T/notified" WATCHDOG
}
