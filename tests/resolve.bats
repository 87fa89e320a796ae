# Names: a real name server and real answers, in a network and an /etc of each test's own, so that the machine's are
# neither used nor touched.

load lib

PATH=$PATH:/usr/sbin:/sbin

# world SECONDS: namespaces in which all the programs of the test will run, and in which a question to the name server
# is asked once and given up after SECONDS.
world() {
	mkdir "$T/etc" "$T/in"
	echo 'root:x:0:0:root:/:/bin/sh' >"$T/etc/passwd"
	echo 'root:x:0:' >"$T/etc/group"
	echo '127.0.0.1 localhost' >"$T/etc/hosts"
	printf 'nameserver 127.0.0.1\noptions timeout:%s attempts:1\n' "$1" >"$T/etc/resolv.conf"
	printf 'hosts: files dns\nservices: files\n' >"$T/etc/nsswitch.conf"
	cp /etc/services "$T/etc/"
	! [ -e /etc/ld.so.cache ] || cp /etc/ld.so.cache "$T/etc/"

	local own=(unshare -rmn) join=(-U --preserve-credentials)
	[ "$(id -u)" != 0 ] || own=(unshare -mn) join=()
	# nscd would answer from outside.
	# shellcheck disable=SC2016
	run_bg "${own[@]}" sh -c '
		ip link set lo up && mount --bind "$1/etc" /etc && { ! [ -d /run/nscd ] || mount -t tmpfs none /run/nscd; } &&
		touch "$1/ready" && exec sleep 600' - "$T" </dev/null >"$T/world.log" 2>&1
	local world=$PID
	wait_for -q ready_or_gone "$world" || :
	if ! [ -e "$T/ready" ]; then
		cat "$T/world.log"
		echo "${own[*]}: this test needs network and mount namespaces of its own. Run it as root, or allow them to" \
			"users: user.max_user_namespaces, kernel.unprivileged_userns_clone=1," \
			"kernel.apparmor_restrict_unprivileged_userns=0."
		return 1
	fi
	ENTER=(nsenter -t "$world" "${join[@]}" -m -n -r)
	local tool
	for tool in activate peer; do
		printf '#!/bin/sh\nexec %s -- "%s" "$@"\n' "${ENTER[*]}" "$B/$tool" >"$T/in/$tool"
		chmod 755 "$T/in/$tool"
	done
	B=$T/in
}

ready_or_gone() { [ -e "$T/ready" ] || gone "$1"; }

# name_server 'ADDRESS NAME'...: answers for these, and that all other names of .test do not exist; its pid is $DNS, its
# log $T/dns.
name_server() {
	printf '%s\n' "$@" >"$T/names"
	run_bg "${ENTER[@]}" dnsmasq --no-daemon --conf-file=/dev/null --user=root --group=root --no-hosts --no-resolv \
		--local=/test/ --addn-hosts="$T/names" --listen-address=127.0.0.1 --bind-interfaces --log-queries \
		</dev/null >"$T/dns" 2>&1
	DNS=$PID
	wait_for says_times 1 "$T/dns" '/names - ' || { cat "$T/dns"; return 1; }
}

# names 'ADDRESS NAME'...: from now on it answers for these.
names() {
	local times
	times=$(grep -c '/names - ' "$T/dns")
	printf '%s\n' "$@" >"$T/names"
	kill -HUP "$DNS"
	wait_for says_times $((times + 1)) "$T/dns" '/names - '
}

says_times() { [ "$(grep -c -- "$3" "$2")" = "$1" ]; } # TIMES FILE PATTERN

questions() { grep -c "query\[$1\] $2 " "$T/dns" || :; } # TYPE NAME

# halt_dns: it hears nothing from now on, as if the network were down; teardown can end it nevertheless.
halt_dns() {
	kill -STOP "$DNS"
	wait_for halted
}
halted() { state_is "$DNS" T; }
eval "lib_$(declare -f teardown)"
teardown() {
	[ -z "${DNS:-}" ] || kill -CONT "$DNS" 2>/dev/null || :
	lib_teardown
}

# proxy TARGET [OPTION...]: the daemon, with a TCP socket (${ADDR[0]}) and a unix socket (${ADDR[1]}).
proxy() { SYSTEMD_LOG_LEVEL=debug start tcp4 "unix:$T/listen" -- "$@"; }

# echoes ADDRESS: there, and for all the clients a test has.
echoes() { BACKEND_FLAGS='-j -n 100' backend "$1" echo; }

asks() { "$B/peer" -t 10 connect "${ADDR[0]}" send:1:10K expect:1:10K shut eof; }

# clients COUNT: so many have come to the daemon until now.
clients() { wait_for says_times "$1" "$T/log" '^New connection from'; }

descriptors() { find "/proc/$PROXY/fd" -mindepth 1 | wc -l; }
has_descriptors() { [ "$(descriptors)" = "$1" ]; }
lacks() { ! says "$1" "$2"; } # FILE PATTERN
lives() { ! gone "$1"; }

@test "each of a name's addresses is tried, whichever it is that answers" {
	local address
	world 20
	name_server '127.0.0.2 many.test' '127.0.0.3 many.test' '127.0.0.4 many.test' '::1 many.test'
	proxy many.test:80
	for address in 127.0.0.2 127.0.0.3 127.0.0.4 '[::1]'; do
		backend "$address:80" echo
		asks
		ends "$BACKEND"
	done
	lacks "$T/log" Failed
}

@test "a name's addresses are tried in their order" {
	world 20
	name_server '127.0.0.1 both.test' '::1 both.test' # by RFC 6724 ::1 goes first
	BACKEND_FLAGS='-n 2' backend 127.0.0.1:80 send:4:1K
	backend '[::1]:80' send:6:1K
	proxy both.test:80
	"$B/peer" connect "${ADDR[0]}" expect:6:1K eof
	ends "$BACKEND"
	"$B/peer" connect "${ADDR[0]}" expect:4:1K eof
}

@test "when none of a name's addresses answers, the client is closed and the daemon lives on" {
	world 20
	name_server '127.0.0.2 many.test' '127.0.0.3 many.test'
	proxy many.test:80
	"$B/peer" connect "${ADDR[0]}" closed
	says "$T/log" '^Failed to connect to remote host: Connection refused'
	echoes 127.0.0.3:80
	asks
}

@test "fifty clients who come while a name is looked up share one lookup" {
	world 20
	name_server '127.0.0.1 one.test'
	echoes 127.0.0.1:80
	proxy one.test:80
	halt_dns
	run_bg "$B/peer" -j -n 50 connect "${ADDR[0]}" send:1:1K expect:1:1K shut eof
	clients 50
	kill -CONT "$DNS"
	ends "$PID"
	[ "$(questions A one.test)" = 1 ]
	[ "$(questions AAAA one.test)" = 1 ]
}

@test "bytes flow and clients are accepted while a lookup hangs" {
	world 20
	name_server '127.0.0.1 one.test'
	echoes 127.0.0.1:80
	proxy one.test:80
	run_bg "$B/peer" connect "${ADDR[0]}" send:1:1K expect:1:1K "touch:$T/there" "until:$T/go" both:1:5M:1:5M shut eof
	local first=$PID
	wait_for test -e "$T/there"
	halt_dns
	run_bg "$B/peer" connect "${ADDR[0]}" send:1:1K expect:1:1K shut eof
	local second=$PID
	clients 2
	touch "$T/go"
	ends "$first"
	lives "$second"
	kill -CONT "$DNS"
	ends "$second"
}

# falls_back COMMAND...: which makes lookups fail once one was good.
falls_back() {
	world 1
	name_server '127.0.0.1 one.test'
	echoes 127.0.0.1:80
	proxy one.test:80
	asks
	lacks "$T/log" Failed
	"$@"
	asks
	says "$T/log" '^Failed to resolve host: .*one\.test.*using its last addresses'
	says_times 1 "$T/log" '^Failed to resolve host'
}

@test "without a name server the last good answer serves on, with a warning" {
	falls_back stop_dns
	name_server '127.0.0.1 one.test'
	asks
	says_times 1 "$T/log" '^Failed to resolve host'
}
stop_dns() {
	kill -TERM "$DNS"
	wait_for gone "$DNS"
}

@test "when the name server is silent the last good answer serves on, with a warning" {
	falls_back halt_dns
}

@test "when the name is gone the last good answer serves on, with a warning" {
	falls_back names '127.0.0.1 other.test'
}

@test "a name that was never known is told of, and the daemon lives on until it is" {
	world 20
	name_server '127.0.0.1 other.test'
	echoes 127.0.0.1:80
	proxy new.test:80
	"$B/peer" connect "${ADDR[0]}" closed
	says "$T/log" '^Failed to resolve host: .*new\.test'
	names '127.0.0.1 new.test'
	asks
}

@test "an answer that changes is followed" {
	world 20
	name_server '127.0.0.2 move.test'
	BACKEND_FLAGS='-n 2' backend 127.0.0.2:80 send:2:1K
	BACKEND_FLAGS='-n 2' backend 127.0.0.3:80 send:3:1K
	proxy move.test:80
	"$B/peer" connect "${ADDR[0]}" expect:2:1K eof
	names '127.0.0.3 move.test'
	"$B/peer" connect "${ADDR[0]}" expect:3:1K eof
	names '127.0.0.2 move.test'
	"$B/peer" connect "${ADDR[0]}" expect:2:1K eof
}

@test "clients who leave during the lookup leave nothing behind, and the others are served" {
	local before
	world 20
	name_server '127.0.0.1 one.test'
	echoes 127.0.0.1:80
	proxy one.test:80
	asks
	before=$(descriptors)
	halt_dns
	run_bg "$B/peer" -t 20 connect "${ADDR[0]}" send:1:1K expect:1:1K shut eof
	local other=$PID
	clients 2
	"$B/peer" connect "${ADDR[0]}" rst
	"$B/peer" connect "${ADDR[0]}" send:1:1K rst
	"$B/peer" connect "${ADDR[0]}" close
	"$B/peer" connect "${ADDR[1]}" close
	"$B/peer" connect "${ADDR[1]}" send:1:1K close
	clients 7
	kill -CONT "$DNS"
	ends "$other"
	wait_for has_descriptors "$before"
	asks
	lacks "$T/log" Failed
}

@test "what a client sent before it finished sending waits for the lookup and is answered" {
	world 20
	name_server '127.0.0.1 one.test'
	backend 127.0.0.1:80 expectall:1 send:2:1M
	proxy one.test:80
	halt_dns
	run_bg "$B/peer" connect "${ADDR[0]}" send:1:1K shut expectall:2
	clients 1
	kill -CONT "$DNS"
	ends "$PID"
	ends "$BACKEND"
}

@test "SIGTERM during a lookup ends it at once" {
	world 20 # ends waits for half of that
	name_server '127.0.0.1 one.test'
	proxy one.test:80
	halt_dns
	run_bg "$B/peer" connect "${ADDR[0]}" closed
	clients 1
	kill -TERM "$PROXY"
	ends "$PROXY"
	ends "$PID"
}

@test "the idle exit does not wait for a lookup for which nobody waits any more" {
	world 20
	name_server '127.0.0.1 one.test'
	proxy one.test:80 --exit-idle-time=300ms
	halt_dns
	"$B/peer" connect "${ADDR[1]}" close
	ends "$PROXY"
	lacks "$T/log" Failed
}

@test "a numeric target is never looked up, nor is a helper thread started" {
	local target
	world 20
	name_server '127.0.0.1 one.test'
	echoes 127.0.0.1:80
	echoes '[::1]:80'
	: >"$T/etc/hosts"
	for target in 127.0.0.1:80 127.0.0.1:http '[::1]:80' '::1:http' 127.0.0.1 '[::1]'; do
		echo "proxyd $target"
		proxy "$target"
		asks
		[ "$(find "/proc/$PROXY/task" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ]
		lacks "$T/log" Failed
	done
	lacks "$T/dns" 'query\['
}

@test "a numeric target needs no name server" {
	world 20
	: >"$T/etc/hosts"
	: >"$T/etc/resolv.conf"
	echoes 127.0.0.1:80
	proxy 127.0.0.1:80
	asks
}

@test "a name in /etc/hosts needs no name server, and a service name stands for its port" {
	world 20
	name_server '127.0.0.9 near'
	echo '127.0.0.5 near' >"$T/etc/hosts"
	echoes 127.0.0.5:80
	proxy near:http
	asks
	proxy near # port 80
	asks
	lacks "$T/dns" 'query\['
}
