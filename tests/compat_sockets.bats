# Section "Sockets passed in" of what a drop-in has to match.  The environment is read by listenfds.c, which
# tests/unit/listenfds_test.c tests alone; here is what a user sees of it.

load compat

NONE="Didn't get any sockets passed in."
BROKEN='Failed to receive sockets from parent.'
WRONG='Passed in socket is not a stream socket.'
NOBODY=127.0.0.1:1

# activated TEXT ARG...: both programs, started by activate with ARGs, end with 1 and say TEXT.
activated() {
	local program
	for program in "${PROGRAMS[@]}"; do
		fails "$1" "$B/activate" "${@:2}" -- "$program" $NOBODY || return 1
	done
}

# serves ARG...: both programs, started by activate with ARGs, serve every socket.
serves() {
	local program place
	for program in "${PROGRAMS[@]}"; do
		PROXYD=$program start "$@" -- "$BACK" || return 1
		for place in "${ADDR[@]}"; do
			talk "$place" || { echo "$program, activate $*, $place" >&2; cat "$T/log" >&2; return 1; }
		done
		stop || return 1
	done
}

# many N SOCKET: N times SOCKET in the array SOCKETS.
many() {
	local i
	SOCKETS=()
	for ((i = 0; i < $1; i++)); do SOCKETS+=("${2//%/$i}"); done
}

# flags FD: of the daemon's descriptor, as open(2) writes them, in octal.
flags() {
	local key value
	while read -r key value; do
		if [ "$key" = flags: ]; then echo "$value"; fi
	done <"/proc/$PROXY/fdinfo/$1"
}

@test "without LISTEN_PID, with another process's or without LISTEN_FDS no sockets were passed in" {
	both_fail "$NONE" $NOBODY
	activated "$NONE" -p none tcp4
	activated "$NONE" -p none -c abc tcp4
	activated "$NONE" -p 1 tcp4
	activated "$NONE" -p 2147483647 tcp4
	activated "$NONE" -p 1 -c abc tcp4
	activated "$NONE" -c none tcp4
	activated "$NONE" -p none -c none tcp4
}

@test "a malformed LISTEN_PID is an error" {
	local pid
	for pid in x '' 0 -1 1x '1 ' 2147483648 4294967297 99999999999999999999999; do
		activated "$BROKEN" -p "$pid" tcp4
	done
}

@test "a malformed LISTEN_FDS is an error" {
	local count
	for count in 0 -1 -0 abc '' '1 ' 1x 1.0 2147483644 2147483645 2147483647 4294967297; do
		activated "$BROKEN" -c "$count" tcp4
	done
}

@test "a count of sockets may be written in all the ways of a number" {
	local count
	answer
	for count in 1 ' 1' 0x1 +1 01 0b1 0o1; do
		serves -c "$count" tcp4
	done
}

@test "a process id may be written in all the ways of a number" {
	local program way
	answer
	for program in "${PROGRAMS[@]}"; do
		for way in ' %d' '+%d' '0x%x' '0%o'; do
			wrapper way <<-EOT
				printf -v LISTEN_PID '$way' \$\$
				export LISTEN_PID
				exec "$program" "\$@"
			EOT
			PROXYD=$T/way start tcp4 -- "$BACK"
			talk "${ADDR[0]}"
			stop
		done
	done
}

@test "a descriptor that is not open is an error" {
	# The reference opens its own descriptors first, which then pass for the first ones that are missing.
	activated "$BROKEN" -c 200 tcp4
	fails "$BROKEN" "$B/activate" closed -- "$PROXYD" $NOBODY
	fails "$BROKEN" "$B/activate" -c 2 tcp4 -- "$PROXYD" $NOBODY
	fails "$BROKEN" "$B/activate" tcp4 closed tcp6 -- "$PROXYD" $NOBODY
	fails "$BROKEN" "$B/activate" closed tcp4 -- "$PROXYD" $NOBODY
}

@test "a socket that is not a listening stream socket is an error" {
	local kind
	for kind in udp tcp-unbound file connected "seqpacket:$T/seqpacket"; do
		activated "$WRONG" "$kind"
	done
}

@test "a socket that is not a listening stream socket is an error among good ones too" {
	local kind
	for kind in udp tcp-unbound file connected "seqpacket:$T/seqpacket"; do
		activated "$WRONG" "$kind" tcp4
		activated "$WRONG" tcp4 "$kind"
		activated "$WRONG" tcp4 "$kind" "unix:$T/good"
	done
}

@test "sockets of IPv4, IPv6 and unix serve the one target together" {
	answer
	serves tcp4 tcp6 "unix:$T/s" "abstract:proxyd-test.$$"
}

@test "sixty sockets at once are served" {
	answer
	many 20 tcp4
	local all=("${SOCKETS[@]}")
	many 20 tcp6
	all+=("${SOCKETS[@]}")
	many 20 "unix:$T/s%"
	all+=("${SOCKETS[@]}")
	serves "${all[@]}"
}

@test "sockets become close-on-exec and non-blocking" {
	local program fd
	answer
	for program in "${PROGRAMS[@]}"; do
		PROXYD=$program start tcp4 tcp6 "unix:$T/s" -- "$BACK"
		talk "${ADDR[2]}"
		for fd in 3 4 5; do
			is "$(($(flags $fd) & 02004000))" $((02004000))
		done
		stop
	done
}

@test "every descriptor of a daemon at work is close-on-exec" {
	local fd
	BACKEND_FLAGS='-j -n 3' backend 127.0.0.1:0 echo
	start tcp4 "unix:$T/s" -- "localhost:${BACK##*:}"
	hold 2 "${ADDR[0]}"
	hold 1 "$T/s"
	for fd in "/proc/$PROXY/fd/"*; do
		fd=${fd##*/}
		if [ "$fd" -gt 2 ]; then is "$fd: $(($(flags "$fd") & 02000000))" "$fd: $((02000000))"; fi
	done
}

@test "LISTEN_FDNAMES is taken, and ignored if the count is wrong" {
	answer
	serves -n web:admin tcp4 "unix:$T/s"
	serves -n web tcp4 "unix:$T/s"
	serves -n a:b:c tcp4 "unix:$T/s"
	serves -n '' tcp4
	serves -n : tcp4
}

@test "LISTEN_PIDFDID that is ours is taken, and a malformed one is an error" {
	local id
	answer
	start -i self tcp4 -- "$BACK"
	talk "${ADDR[0]}"
	for id in x '' -1 +1 '1 ' 1x 99999999999999999999999; do
		fails "$BROKEN" "$B/activate" -i "$id" tcp4 -- "$PROXYD" $NOBODY
	done
}

@test "LISTEN_PIDFDID is looked at after LISTEN_PID matched, and before the count" {
	fails "$NONE" "$B/activate" -p 1 -i x tcp4 -- "$PROXYD" $NOBODY
	fails "$NONE" "$B/activate" -p none -i x tcp4 -- "$PROXYD" $NOBODY
	fails "$BROKEN" "$B/activate" -p x -i self tcp4 -- "$PROXYD" $NOBODY
	fails "$BROKEN" "$B/activate" -c none -i x tcp4 -- "$PROXYD" $NOBODY
}

@test "without sockets the message goes on with how to get some" {
	try "$PROXYD" $NOBODY
	is "$RC" 1
	[[ $ERR == "$NONE Start it from a socket unit"*" proxyd --listen=8080 $NOBODY" ]]
}
