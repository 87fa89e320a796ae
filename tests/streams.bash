# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153
# What the tests of bytes and endings share: a daemon between two scripted peers.
#
#   play FRONT BACK SIDE OP... -- OP...
#
# starts a server at a BACK socket (tcp, unix), the daemon, which listens at a FRONT socket and forwards to it, and a
# client.  The first OPs are run on SIDE (client, server), those behind -- on the other one.  To those of peer.c come
#
#   meet    a byte each way, so that the connection stands; then a mark for $(met)
#   go      waits for $(go)
#   did     leaves a mark for $(acted); after: waits for the other side's
#
# finish then waits for both, each of which has a deadline of its own and tells where it was.

load lib

LINKS=0
LIMIT=${LIMIT:-15} # seconds for a peer

name() { case $1 in tcp) echo TCP ;; *) echo unix ;; esac }
other() { case $1 in client) echo server ;; *) echo client ;; esac }

# serve BACK OP...: a server, its address in $BACK, its pid in $SERVER, what it says in $T/server.$LINKS.
serve() {
	local address=127.0.0.1:0 out
	LINKS=$((LINKS + 1))
	out=$T/server.$LINKS
	[ "$1" = tcp ] || address=$T/back.$LINKS
	shift
	# shellcheck disable=SC2086
	run_bg "$B/peer" -t "$LIMIT" ${SERVER_FLAGS:-} listen "$address" "$@" >"$out" 2>"$out.err"
	SERVER=$PID
	wait_for says "$out" '^listening ' || { cat "$out.err" >&2; return 1; }
	BACK=$(sed -n 's/^listening //p' "$out")
}

# proxy FRONT ARG...: a daemon for that server, where to reach it in $FRONT, its sockets while nobody is there in $REST.
proxy() {
	local socket=tcp4
	[ "$1" = tcp ] || socket=unix:$T/front.$LINKS
	shift
	# systemd starts its services so.
	[ -z "${REFERENCE:-}" ] || trap '' PIPE
	start "$socket" -- "$@" "$BACK"
	trap - PIPE
	# Another daemon may follow: this one's log must not be overwritten.
	mv "$T/log" "$T/log.$LINKS"
	FRONT=${ADDR[0]}
	wait_for is_resting || { cat "$T/log.$LINKS" >&2; return 1; }
	REST=$(sockets "$PROXY")
}

is_resting() { [ "$(readlink "/proc/$PROXY/exe")" != "$(readlink -f "$B/activate")" ] && state_is "$PROXY" S; }

# sockets PID: how many it has open.
sockets() { readlink "/proc/$1/fd"/* | grep -c '^socket:' || :; }

# has_sockets N: so many more than at rest.
has_sockets() { [ "$(sockets "$PROXY")" = $((REST + $1)) ]; }

# freed: the daemon has let go of every connection.
freed() {
	wait_for has_sockets 0 || { echo "the daemon still has $(($(sockets "$PROXY") - REST)) sockets of connections" >&2; return 1; }
}

# client OP...: at $FRONT; its pid in $CLIENT, what it says in $T/client.$LINKS.
client() {
	run_bg "$B/peer" -t "$LIMIT" connect "$FRONT" "$@" >"$T/client.$LINKS" 2>"$T/client.$LINKS.err"
	CLIENT=$PID
}

# Like gone, without a process: where many poll, process ids would come round soon and mean others.
ended() {
	local stat
	kill -0 "$1" 2>/dev/null && read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
	stat=${stat##*) }
	[ "${stat%% *}" = Z ]
}

# finish: both peers end as scripted.  When one fails, the other need not wait for its deadline.
finish() {
	local first=$CLIENT last=$SERVER rc=0
	until ended "$CLIENT" || ended "$SERVER"; do sleep 0.02; done
	if ! ended "$CLIENT"; then first=$SERVER last=$CLIENT; fi
	wait "$first" || { rc=1; kill "$last" 2>/dev/null || :; }
	wait "$last" || rc=1
	if [ $rc != 0 ]; then
		echo "client $LINKS: $(cat "$T/client.$LINKS.err")" >&2
		echo "server $LINKS: $(cat "$T/server.$LINKS.err")" >&2
	fi
	return $rc
}

# said SIDE WORD: the number that it printed after the word.
said() { sed -n "s/^$2 //p" "$T/$1.$LINKS"; }

# script SIDE OP...: $OPS, with our own ops as peer knows them.
script() {
	local side=$1 op
	shift
	OPS=()
	for op; do
		case $op in
		meet)
			if [ "$side" = client ]; then OPS+=(both:1001:1:1002:1); else OPS+=(both:1002:1:1001:1); fi
			OPS+=("touch:$T/met.$side.$LINKS")
			;;
		go) OPS+=("until:$T/go.$LINKS") ;;
		did) OPS+=("touch:$T/did.$side.$LINKS") ;;
		after) OPS+=("until:$T/did.$(other "$side").$LINKS") ;;
		*) OPS+=("$op") ;;
		esac
	done
}

play() {
	local front=$1 back=$2 side=$3 first=()
	shift 3
	while [ "$1" != -- ]; do first+=("$1"); shift; done
	shift
	LINKS=$((LINKS + 1))
	if [ "$side" = client ]; then script server "$@"; else script server "${first[@]}"; fi
	LINKS=$((LINKS - 1))
	serve "$back" "${OPS[@]}"
	proxy "$front"
	if [ "$side" = client ]; then script client "${first[@]}"; else script client "$@"; fi
	client "${OPS[@]}"
}

met() { wait_for test -e "$T/met.client.$LINKS" -a -e "$T/met.server.$LINKS"; }
go() { : >"$T/go.$LINKS"; }
acted() { wait_for test -e "$T/did.client.$LINKS" -a -e "$T/did.server.$LINKS"; }

# halt, then resume: what happens to the daemon's sockets meanwhile comes to it in one batch.
halt() {
	kill -STOP "$PROXY"
	wait_for is_halted
}
is_halted() { state_is "$PROXY" T; }
resume() { kill -CONT "$PROXY"; }

# Is the daemon built with AddressSanitizer?
is_sanitized() { grep -qa __asan_init "$PROXYD"; }

# apart DIR COMMAND...: in a process of its own, whose $T is DIR; what it says is in DIR.say.  At its end there is a file
# DIR.end, and DIR.ok too if it succeeded.  joined waits for all of them.
APART=()
apart() {
	(
		set -e
		T=$1 PIDS=()
		mkdir "$T"
		trap 'RC=$?; : >"$T.end"; teardown && [ $RC = 0 ] && : >"$T.ok"' EXIT
		shift
		"$@"
	) 3>&- </dev/null >"$1.say" 2>&1 &
	APART+=($!)
}

joined() {
	local pid
	for pid in "${APART[@]}"; do wait "$pid" || :; done
	APART=()
}
