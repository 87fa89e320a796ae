# The socket is descriptor 0: inetd(8), socket units with StandardInput=socket, socat.

# shellcheck disable=SC2153 # PROXYD is no misspelt PROXY
load lib
load systemd

# start_inetd [-a] SOCKET -- ARG...: the daemon under systemd-socket-activate, or where there is none under our own
# activator, with the listening socket on 0, or with -a with that of one client.
start_inetd() {
	if has_systemd; then
		start_systemd --inetd "$@"
	elif [ "$1" = -a ]; then
		shift 2
		start -0 accepted "$@"
	else
		start -0 "$@"
	fi
}

asks() { "$B/peer" -t 10 connect "$1" send:1:100K shut expectall:2; }
answers() { BACKEND_FLAGS="-n $1" backend "${2:-127.0.0.1:0}" expectall:1 send:2:3M; }

# fails PID: it ends with status 1.
fails() {
	local rc=0
	ends "$1" || rc=$?
	[ "$rc" = 1 ]
}

# hands_all ARG...: a client's socket on 0, 1 and 2, as inetd does it.
hands_all() {
	printf '#!/bin/sh\nexec "%s" "$@" 1>&0 2>&0\n' "$PROXYD" >"$T/all"
	chmod 755 "$T/all"
	PROXYD=$T/all start -0 "$SOCKET" -- "$@"
}

@test "a listening socket is served until the idle exit" {
	answers 2
	start -0 tcp4 -- --exit-idle-time=300ms "$BACK"
	asks "${ADDR[0]}"
	asks "${ADDR[0]}"
	ends "$PROXY"
	ends "$BACKEND"
	[ ! -s "$T/log" ]
}

@test "a listening unix socket is served, and --inetd says the same" {
	answers 1
	start -0 "unix:$T/listen" -- --inetd --exit-idle-time=300ms "$BACK"
	asks "$T/listen"
	ends "$PROXY"
}

@test "a client's socket is served, the whole reply comes after a half-close, and then the process ends" {
	answers 1
	start -0 accepted -- "$BACK"
	asks "${ADDR[0]}"
	ends "$PROXY"
	[ ! -s "$T/log" ]
}

@test "a client's unix socket is served, the whole reply comes after a half-close, and then the process ends" {
	answers 1
	start -0 "accepted:$T/client" -- --inetd "$BACK"
	asks "$T/client"
	ends "$PROXY"
}

@test "a client who resets takes the process along" {
	backend 127.0.0.1:0 expect:1:1K closed
	start -0 accepted -- "$BACK"
	"$B/peer" connect "${ADDR[0]}" send:1:1K pause:50 rst
	ends "$PROXY"
	ends "$BACKEND"
}

@test "SIGTERM ends it while the client is there" {
	backend 127.0.0.1:0 expect:1:1K "touch:$T/served" closed
	start -0 accepted -- "$BACK"
	run_bg "$B/peer" connect "${ADDR[0]}" send:1:1K closed
	wait_for test -e "$T/served"
	kill -TERM "$PROXY"
	ends "$PROXY"
	ends "$PID"
}

@test "nothing but the target's bytes comes to a client who is on 0, 1 and 2" {
	local SOCKET
	for SOCKET in accepted "accepted:$T/client"; do
		answers 1
		SYSTEMD_LOG_LEVEL=debug hands_all "$BACK"
		asks "${ADDR[0]}"
		ends "$PROXY"
	done
}

@test "nothing comes to a client on 0, 1 and 2 whose target refuses" {
	local SOCKET
	for SOCKET in accepted "accepted:$T/client"; do
		hands_all "$T/nobody"
		"$B/peer" connect "${ADDR[0]}" closed
		ends "$PROXY"
	done
}

@test "nothing comes to a client on 0, 1 and 2 when the command line is wrong" {
	local args SOCKET=accepted
	for args in '' '-c 0 127.0.0.1:9' '--exit-idle-time=x 127.0.0.1:9' '--bogus 127.0.0.1:9' '-Z 127.0.0.1:9' 8080; do
		echo "proxyd $args"
		# shellcheck disable=SC2086
		hands_all $args
		"$B/peer" connect "${ADDR[0]}" closed
		fails "$PROXY"
	done
}

@test "systemd-socket-activate --inetd: the listening socket is served until the idle exit" {
	answers 2
	start_inetd tcp4 -- --exit-idle-time=300ms "$BACK"
	asks "${ADDR[0]}"
	asks "${ADDR[0]}"
	ends "$PROXY"
}

@test "systemd-socket-activate --inetd --accept: each client is served by a process that ends with it" {
	answers 1
	start_inetd -a tcp6 -- "$BACK"
	asks "${ADDR[0]}"
	if has_systemd; then
		wait_for says "$T/log" 'died with code 0'
	else
		ends "$PROXY"
	fi
}

@test "socat hands a client over on 0 and 1" {
	answers 1 "$T/back" # a colon would mean something to socat
	run_bg socat "UNIX-LISTEN:$T/listen" "EXEC:$PROXYD $BACK,nofork" </dev/null >"$T/out" 2>"$T/log"
	wait_for test -S "$T/listen"
	asks "$T/listen"
	ends "$PID"
}

@test "--inetd with a descriptor 0 that is no stream socket is refused" {
	run "$PROXYD" --inetd 127.0.0.1:9 </dev/null
	[ "$status" = 1 ]
	[[ $output == 'Passed in socket is not a stream socket.'* ]]
	start -0 udp -- --inetd 127.0.0.1:9
	fails "$PROXY"
	says "$T/log" '^Passed in socket is not a stream socket'
}
