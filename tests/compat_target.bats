# Section "Target" of what a drop-in has to match.

load compat

# serves SOCKET TARGET [PROGRAM...]: each program, both by default, forwards from SOCKET to TARGET.
serves() {
	local programs=("${@:3}") program
	if [ $# -lt 3 ]; then programs=("${PROGRAMS[@]}"); fi
	for program in "${programs[@]}"; do
		PROXYD=$program start "$1" -- "$2" || return 1
		talk "${ADDR[0]}" || { echo "$program $2" >&2; cat "$T/log" >&2; return 1; }
		stop || return 1
	done
}

# refuses TEXT TARGET: ours ends at once with one line that begins with TEXT, and the same with sockets to serve.
refuses() {
	fails "$1" "$PROXYD" "$2" || return 1
	fails "$1" "$B/activate" tcp4 -- "$PROXYD" "$2" || return 1
	[[ $ERR != *$'\n'* ]] || { echo "more than one line: $ERR" >&2; return 1; }
}

# names ADDRESS...: what localhost stands for, in the /etc/hosts of the programs that alone starts.
names() { printf '%s localhost\n' "$@" >"$T/hosts"; }

# named PROGRAM: sets NAMED to a program that runs PROGRAM with names' /etc/hosts.
named() {
	NAMED=$T/named
	wrapper named <<-EOT
		exec "$B/alone" -m "$T/hosts=/etc/hosts" "$1" "\$@"
	EOT
}

# apart PROGRAM ADDR: makes $T/apart, which runs PROGRAM in a network of its own, with a backend at ADDR.
apart() {
	names 127.0.0.1
	wrapper backend <<-EOT
		"$B/peer" -t 20 listen $2 expect:1:1000 send:2:1000 closed </dev/null >"$T/listening" 2>"$T/peer.err" 3>&- &
		until grep -qs listening "$T/listening"; do sleep 0.02; done
		exec "$1" "\$@"
	EOT
	wrapper apart <<-EOT
		rm -f "$T/listening"
		exec "$B/alone" -n -m "$T/hosts=/etc/hosts" "$T/backend" "\$@"
	EOT
}

# serves_apart BACKEND TARGET PROGRAM...
serves_apart() {
	local program
	for program in "${@:3}"; do
		apart "$program" "$1"
		serves "unix:$T/s" "$2" "$T/apart"
	done
}

port() { echo "${BACK##*:}"; }
threads() { local all=("/proc/$1/task/"*); echo "${#all[@]}"; }

@test "a target is HOST:PORT" {
	answer
	serves tcp4 "$BACK"
	serves tcp4 "localhost:$(port)"
}

@test "a target is [IPV6]:PORT" {
	answer '[::1]:0'
	serves tcp4 "$BACK" "$PROXYD"
}

@test "a target splits at its last colon" {
	answer '[::1]:0'
	serves tcp6 "::1:$(port)"
}

@test "a target is the path of a unix socket" {
	answer "$T/back"
	serves tcp4 "$T/back"
	serves "unix:$T/s" "$T/back"
}

@test "a target is an abstract name, whose address ends with the name" {
	answer "@proxyd-test.$$"
	serves tcp4 "$BACK"
	serves "abstract:proxyd-test-front.$$" "$BACK"
}

@test "a path of 107 bytes and an abstract name of 107 are not too long" {
	local path=$T/
	path+=$(bytes $((107 - ${#path})))
	answer "$path"
	serves tcp4 "$path"
	answer "@$(bytes $((106 - ${#$})))$$"
	serves tcp4 "$BACK"
}

@test "a path of 108 bytes and an abstract name of 108 are refused at start" {
	try "$PROXYD" "/$(bytes 107)"
	is "$RC" 1
	[[ $ERR == 'Failed to parse target: /a'*' is 108 bytes long; shorten it to the 107 that fit into a unix address' ]]
	try "$PROXYD" "@$(bytes 108)"
	is "$RC" 1
	[[ $ERR == 'Failed to parse target: @a'*' is 109 bytes long; shorten it to the 108 that fit into a unix address' ]]
}

@test "a target without a colon means port 80" {
	serves_apart 127.0.0.1:80 127.0.0.1 "${PROGRAMS[@]}"
	serves_apart 127.0.0.1:80 localhost "${PROGRAMS[@]}"
}

@test "an IPv6 address in brackets without a port means port 80" {
	serves_apart '[::1]:80' '[::1]' "$PROXYD"
}

@test "a port may be the name of a service" {
	serves_apart 127.0.0.1:80 localhost:http "${PROGRAMS[@]}"
	serves_apart 127.0.0.1:80 127.0.0.1:http "${PROGRAMS[@]}"
	serves_apart '[::1]:80' '[::1]:http' "$PROXYD"
	serves_apart '[::1]:80' '::1:http' "${PROGRAMS[@]}"
}

@test "a malformed target is refused at start with what to write instead, exit status 1" {
	refuses 'Failed to parse target: 8080 has no host, only a port; write 127.0.0.1:8080' 8080
	refuses 'Failed to parse target: 127.0.0.1: has an empty port;' 127.0.0.1:
	refuses 'Failed to parse target: localhost: has an empty port;' localhost:
	refuses 'Failed to parse target: [::1]: has an empty port;' '[::1]:'
	refuses 'Failed to parse target: 127.0.0.1:65536 has a port past the last;' 127.0.0.1:65536
	refuses 'Failed to parse target: localhost:99999999999999999999 has a port past the last;' \
		localhost:99999999999999999999
	refuses 'Failed to parse target: 127.0.0.1:0 has port 0,' 127.0.0.1:0
	refuses 'Failed to parse target: 127.0.0.1:no-such-service has a port that is no number and no known service;' \
		127.0.0.1:no-such-service
	refuses 'Failed to parse target: 127.0.0.1:-1 has a port that is no number' 127.0.0.1:-1
	refuses 'Failed to parse target: the target is empty;' ''
	refuses 'Failed to parse target: :8080 has no host before the colon;' :8080
	refuses 'Failed to parse target: @ has no name;' @
	refuses 'Failed to parse target: [::1 has a [ but no ];' '[::1'
	refuses 'Failed to parse target: [::1]x goes on after the ];' '[::1]x'
	refuses 'Failed to parse target: [127.0.0.1]:80 has brackets or colons around what is no IPv6 address;' \
		'[127.0.0.1]:80'
}

@test "every address of a name is tried: nobody serves the first, the last is 127.0.0.1" {
	answer
	names ::1 127.0.0.2 127.0.0.3 127.0.0.1
	named "$PROXYD"
	serves tcp4 "localhost:$(port)" "$NAMED"
}

@test "every address of a name is tried: only ::1 is served" {
	answer '[::1]:0'
	names 127.0.0.1 127.0.0.2 ::1
	named "$PROXYD"
	serves tcp4 "localhost:$(port)" "$NAMED"
}

@test "a name that nobody serves at any address is one failure for a connection" {
	answer
	kill "$BACKEND"
	wait_for gone "$BACKEND"
	names ::1 127.0.0.2 127.0.0.1
	named "$PROXYD"
	PROXYD=$NAMED start tcp4 -- "localhost:$(port)"
	turned_away 1
	turned_away 1
	wait_for logged 2 'Failed to connect to remote host: Connection refused'
}

@test "a name is looked up when a connection needs it, by a helper thread, and a numeric address never" {
	answer
	start tcp4 -- "$BACK"
	talk "${ADDR[0]}"
	is "$(threads "$PROXY")" 1
	stop
	start tcp4 -- "localhost:$(port)"
	wait_for says "/proc/$PROXY/comm" proxyd
	is "$(threads "$PROXY")" 1
	talk "${ADDR[0]}"
	is "$(threads "$PROXY")" 2
}

@test "a name that cannot be resolved is told for each connection, and the daemon lives on" {
	local program
	for program in "${PROGRAMS[@]}"; do
		# No part of a name is longer than 63 letters, which a resolver knows without asking.
		PROXYD=$program start tcp4 -- "$(bytes 64).invalid"
		turned_away 1
		turned_away 1
		wait_for logged 2 'Failed to resolve host: .'
		no gone "$PROXY"
		stop
	done
}

@test "a client of a name that cannot be resolved does not hold up the others" {
	start tcp4 -- "$(bytes 64).invalid:80"
	turned_away 20
	wait_for logged 20 'Failed to resolve host: .'
	no gone "$PROXY"
}

@test "fifty clients at once share one name" {
	BACKEND_FLAGS='-j -n 50' backend 127.0.0.1:0 expect:1:1000 send:2:1000 closed
	start "unix:$T/s" -- "localhost:$(port)"
	"$B/peer" -j -n 50 connect "$T/s" send:1:1000 expect:2:1000 close
	is "$(threads "$PROXY")" 2
	ends "$BACKEND"
}
