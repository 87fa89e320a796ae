# --listen=: sockets of the daemon's own.

# shellcheck disable=SC2153 # PROXYD is no misspelt PROXY
load lib

# listen [--listen=...]... [OPTION...] TARGET: the daemon without an activator, log in $T/log, $PROXY its pid; $ADDR[n]
# are the addresses of which the log says that it listens there.
listen() {
	run_bg "$PROXYD" "$@" </dev/null >"$T/out" 2>"$T/log"
	PROXY=$PID
	heard "$(printf '%s\n' "$@" | grep -c -e '^--listen' -e '^-l')"
}

# heard COUNT: waits for so many addresses in the log.
heard() {
	wait_for -q listens_or_ended "$1" || :
	mapfile -t ADDR < <(sed -n 's/^Listening on \(.*\), forwarding to .*\.$/\1/p' "$T/log")
	[ "${#ADDR[@]}" -ge "$1" ] || { cat "$T/log" >&2; return 1; }
}

listens_or_ended() { [ "$(grep -c '^Listening on ' "$T/log")" -ge "$1" ] || gone "$PROXY"; }

# refuses PATTERN ARG...: start, by the program in AS if there is one, fails with status 1, nothing on stdout and one line
# that matches.
AS=()
refuses() {
	local pattern=$1
	shift
	run_bg "${AS[@]}" "$PROXYD" "$@" </dev/null >"$T/refused.out" 2>"$T/refused"
	local rc=0
	ends "$PID" || rc=$?
	cat "$T/refused"
	[ "$rc" = 1 ]
	[ ! -s "$T/refused.out" ]
	[ "$(wc -l <"$T/refused")" = 1 ]
	grep -qE -- "$pattern" "$T/refused"
}

# serves ADDRESS...: each leads to the target.
serves() {
	local address
	for address in "$@"; do "$B/peer" -t 10 connect "$address" send:1:10K expect:1:10K shut eof; done
}

# An echo for all the clients a test has, its address in $BACK.
echoes() { BACKEND_FLAGS='-j -n 100' backend 127.0.0.1:0 echo; }

port_of() { echo "${1##*:}"; }

# listen_service PREFIX: listens at PREFIX and the name of some service whose port is free, which is put into $PORT.
listen_service() {
	local name port
	while read -r name port; do
		[ "$port" -ge 1024 ] || continue
		PORT=$port
		! listen --listen="$1$name" "$BACK" 2>/dev/null || return 0
		says "$T/log" 'in use' || break
	done < <(sed -nE 's/^([a-z][a-z0-9-]*)[ \t]+([0-9]+)\/tcp.*/\1 \2/p' /etc/services)
	cat "$T/log"
	return 1
}

@test "every spelling of an address is served, and the option may be repeated" {
	local name=@${T##*/}
	echoes
	listen --listen=127.0.0.1:0 --listen '[::1]:0' -l "$T/a" -l"$T/b" --listen="$name" "$BACK"
	[ "${#ADDR[@]}" = 5 ]
	[[ ${ADDR[0]} =~ ^127\.0\.0\.1:[1-9][0-9]*$ ]]
	[[ ${ADDR[1]} =~ ^\[::1\]:[1-9][0-9]*$ ]]
	[ "${ADDR[2]}" = "$T/a" ]
	[ "${ADDR[3]}" = "$T/b" ]
	[ "${ADDR[4]}" = "$name" ]
	serves "${ADDR[@]}"
}

@test "a port alone is served over IPv4 and IPv6" {
	echoes
	listen --listen=0 "$BACK"
	[[ ${ADDR[0]} =~ ^\[::\]:[1-9][0-9]*$ ]]
	serves "127.0.0.1:$(port_of "${ADDR[0]}")" "[::1]:$(port_of "${ADDR[0]}")"
}

@test "a service name stands for its port" {
	echoes
	listen_service 127.0.0.1:
	[ "${ADDR[0]}" = "127.0.0.1:$PORT" ]
	serves "${ADDR[0]}"
}

@test "a service name alone stands for its port at all addresses" {
	echoes
	listen_service ''
	[ "${ADDR[0]}" = "[::]:$PORT" ]
	serves "127.0.0.1:$PORT" "[::1]:$PORT"
}

@test "passed sockets are served beside those listened on" {
	local passed
	echoes
	start tcp4 "unix:$T/passed" -- --listen=127.0.0.1:0 --listen="$T/own" "$BACK"
	passed=("${ADDR[@]}")
	heard 2
	[ "${#ADDR[@]}" = 2 ]
	serves "${passed[@]}" "${ADDR[@]}"
}

@test "a socket file that nobody serves is replaced" {
	echoes
	"$B/activate" "unix:$T/stale" -- true
	[ -S "$T/stale" ]
	listen --listen="$T/stale" "$BACK"
	serves "$T/stale"
}

@test "a socket file that somebody serves is refused, and he goes on serving it" {
	echoes
	listen --listen="$T/live" "$BACK"
	refuses "Failed to listen on $T/live: Address (already )?in use; .*another address" --listen="$T/live" "$BACK"
	serves "$T/live"
}

@test "an abstract name that somebody serves is refused, and he goes on serving it" {
	local name=@${T##*/}
	echoes
	listen --listen="$name" "$BACK"
	refuses "Failed to listen on $name: Address (already )?in use; .*another address" --listen="$name" "$BACK"
	serves "$name"
}

@test "what is at the path and is no socket is left alone and refused" {
	local what in=$T/in # a directory of their own, because teardown reads the files in $T
	mkdir -p "$in/directory"
	echo precious >"$in/file"
	mkfifo "$in/fifo"
	ln -s nowhere "$in/link"
	for what in file directory fifo link; do
		refuses "Failed to listen on $in/$what: .*left alone: choose another path" --listen="$in/$what" 127.0.0.1:9
	done
	[ "$(cat "$in/file")" = precious ]
	[ -d "$in/directory" ] && [ -p "$in/fifo" ] && [ "$(readlink "$in/link")" = nowhere ]
}

@test "a path in a directory that is missing is refused, and the directory is asked for" {
	refuses "Failed to listen on $T/no/socket: No such file or directory; make the directory" --listen="$T/no/socket" 127.0.0.1:9
}

@test "a path in a directory that may not be written is refused, and nothing is said about ports" {
	mkdir -m 500 "$T/closed"
	[ "$(id -u)" != 0 ] || AS=(setpriv --bounding-set=-dac_override)
	refuses "Failed to listen on $T/closed/socket: Permission denied; " --listen="$T/closed/socket" 127.0.0.1:9
	[ "$(grep -ci port "$T/refused")" = 0 ]
}

@test "a port in use is refused, and he who uses it goes on" {
	echoes
	listen --listen=127.0.0.1:0 "$BACK"
	refuses "Failed to listen on ${ADDR[0]}: Address (already )?in use; .*another address" --listen="${ADDR[0]}" "$BACK"
	serves "${ADDR[0]}"
}

@test "a privileged port is refused to who has no right to it" {
	[ "$(id -u)" != 0 ] || AS=(setpriv --bounding-set=-net_bind_service)
	if [ "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" -gt 1 ]; then
		refuses 'Failed to listen on 127.0.0.1:1: Permission denied; .*a port from 1024 on' --listen=127.0.0.1:1 127.0.0.1:9
	else # no port is privileged here, as in many containers
		listen --listen=127.0.0.1:1 127.0.0.1:9
	fi
}

@test "an address that this machine does not have is refused" {
	refuses 'Failed to listen on 192.0.2.1:0: .*; this machine has no such address' --listen=192.0.2.1:0 127.0.0.1:9
	refuses 'Failed to listen on \[2001:db8::1\]:0: .*; this machine has no such address' --listen='[2001:db8::1]:0' 127.0.0.1:9
}

@test "a host name is refused, and an address is asked for" {
	refuses 'localhost:0 .*no numeric address; write one' --listen=localhost:0 127.0.0.1:9
}

@test "the socket file is removed at an orderly end" {
	local signal
	for signal in TERM INT; do
		listen --listen="$T/socket" 127.0.0.1:9
		[ -S "$T/socket" ]
		kill "-$signal" "$PROXY"
		ends "$PROXY"
		[ ! -e "$T/socket" ]
	done
}

@test "the socket file is removed at an idle exit" {
	listen --listen="$T/socket" --exit-idle-time=200ms 127.0.0.1:9
	ends "$PROXY"
	[ ! -e "$T/socket" ]
}

@test "a start that fails takes its socket files away again" {
	refuses "Failed to listen on $T/no/socket" --listen="$T/first" --listen="$T/no/socket" 127.0.0.1:9
	[ ! -e "$T/first" ]
}

@test "the socket file of somebody who took the path over is not removed" {
	local first
	echoes
	listen --listen="$T/socket" "$BACK"
	first=$PROXY
	rm "$T/socket"
	listen --listen="$T/socket" "$BACK"
	kill -TERM "$first"
	ends "$first"
	serves "$T/socket"
}

@test "it starts at once on the port where it just ended" {
	local address
	BACKEND_FLAGS='-j -n 2' backend 127.0.0.1:0 send:1:1K "until:$T/enough"
	# An address of its own, so that nobody is given the port meanwhile.
	listen --listen="127.1.$((RANDOM % 256)).$((RANDOM % 256)):0" "$BACK"
	address=${ADDR[0]}
	# One connection the target ends first, and so does the daemon towards the client: its port is left in TIME-WAIT.
	touch "$T/enough"
	"$B/peer" connect "$address" expect:1:1K eof
	wait_for in_time_wait "$(port_of "$address")"
	# And one is still there.
	rm "$T/enough"
	run_bg "$B/peer" connect "$address" expect:1:1K "touch:$T/served" closed
	wait_for test -e "$T/served"
	kill -TERM "$PROXY"
	ends "$PROXY"

	echoes
	listen --listen="$address" "$BACK"
	[ "${ADDR[0]}" = "$address" ]
	serves "$address"
}

in_time_wait() { ss -Htan "sport = :$1" | grep -q '^TIME-WAIT'; }

@test "its backlog is 4096, or what the kernel allows" {
	local max
	max=$(cat /proc/sys/net/core/somaxconn)
	[ "$max" -lt 4096 ] || max=4096
	listen --listen=127.0.0.1:0 --listen="$T/socket" 127.0.0.1:9
	[ "$(ss -Hltn "sport = :$(port_of "${ADDR[0]}")" | awk '{ print $3 }')" = "$max" ]
	[ "$(ss -Hlxn "src = $T/socket" | awk '{ print $4 }')" = "$max" ]
}
