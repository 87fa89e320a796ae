# A real server behind, a real service manager's activator in front: nginx on TCP and on a unix socket, the daemon
# under systemd-socket-activate (our own activator where there is no systemd), and curl.

load lib
load systemd

BIG=200M

# One nginx for all tests of this file; it answers on TCP and on a unix socket with different pages.
setup_file() {
	export D=$BATS_FILE_TMPDIR
	export T=$D
	# shellcheck disable=SC2034 # run_bg adds to it
	PIDS=()
	mkdir "$D/tcp" "$D/unix"
	echo 'page of tcp' >"$D/tcp/page"
	echo 'page of unix' >"$D/unix/page"
	pattern 1 $BIG >"$D/big"
	pattern 2 100K >"$D/small"
	sum <"$D/big" >"$D/big.sum"

	local tries
	for tries in 1 2 3 4 5; do
		BACK_tcp=$(free_port tcp4) BACK_unix=$D/nginx.sock
		export BACK_tcp BACK_unix
		nginx_conf >"$D/nginx.conf"
		run_bg "$NGINX" -e "$D/error.log" -p "$D/" -c "$D/nginx.conf" </dev/null >"$D/nginx.out" 2>&1
		# shellcheck disable=SC2153 # PID is run_bg's
		export NGINX_PID=$PID
		wait_for -q serves_or_ended || break
		gone "$NGINX_PID" || return 0
		says "$D/error.log" 'in use' || break
	done
	echo "nginx did not start, try $tries:" >&2
	cat "$D/nginx.out" "$D/error.log" >&2
	return 1
}

teardown_file() {
	[ -n "${NGINX_PID:-}" ] || return 0
	kill -TERM "$NGINX_PID"
	wait_for gone "$NGINX_PID" || kill -KILL "$NGINX_PID"
	! grep -e '\[crit\]' -e '\[alert\]' -e '\[emerg\]' "$D/error.log"
}

NGINX=$(PATH=$PATH:/usr/sbin command -v nginx || echo nginx)

pattern() { # SEED BYTES: a stream in which every 8 bytes tell their place
	rm -f "$D/pattern.out"
	run_bg "$B/peer" listen "$D/pattern" "send:$1:$2" >"$D/pattern.out"
	wait_for says "$D/pattern.out" listening
	socat -u -b 131072 "UNIX-CONNECT:$D/pattern" -
	ends "$PID"
}

sum() { sha256sum | cut -d ' ' -f 1; }
serves_or_ended() { [ -s "$D/nginx.pid" ] || gone "$NGINX_PID"; }

# Nothing outside of $D is written, so that any user may run it.
nginx_conf() {
	local module
	cat <<-EOT
		daemon off;
		master_process off;
		pid $D/nginx.pid;
		error_log $D/error.log;
		events { worker_connections 1024; }
		http {
			access_log off;
			sendfile on;
			client_max_body_size 0;
			client_header_timeout 600;
			client_body_temp_path $D/body;
	EOT
	for module in proxy fastcgi uwsgi scgi; do
		"$NGINX" -e "$D/error.log" -V 2>&1 | grep -q "without-http_${module}_module" || echo "${module}_temp_path $D/$module;"
	done
	nginx_server "$BACK_tcp" tcp
	nginx_server "unix:$BACK_unix" unix
	echo '}'
}

# A small page, a big file, something that takes a second however fast the machine is, and a place for uploads.
nginx_server() { # LISTEN NAME
	cat <<-EOT
		server {
			listen $1 backlog=1024;
			root $D/$2;
			location = /big { alias $D/big; }
			location = /slow { alias $D/small; limit_rate 70k; }
			location /up/ { dav_methods PUT; create_full_put_path on; }
		}
	EOT
}

# proxy SOCKET nginx's NAME: the daemon; a silent client, which begins to be one here, keeps it from leaving when idle.
proxy() {
	local activate=start
	! has_systemd || activate=start_systemd
	BACK=BACK_$2
	"$activate" "$1" -- --exit-idle-time=500ms "${!BACK}"
	case ${ADDR[0]} in
	/*) URL=http://localhost CURL=(--unix-socket "${ADDR[0]}") ;;
	*) URL=http://${ADDR[0]} CURL=() ;;
	esac
	run_bg "$B/peer" -t 120 connect "${ADDR[0]}" "until:$T/enough"
	HOLDER=$PID
}

fetch() { curl -q --noproxy '*' -sS --fail --globoff --max-time 60 "${CURL[@]}" "$@"; }

# All that people do with a proxy, through one kind of socket to one kind of target.
work() { # SOCKET NAME
	local up=$D/$2/up/big i
	proxy "$1" "$2"

	[ "$(fetch "$URL/page")" = "page of $2" ]

	[ "$(fetch "$URL/big" | sum)" = "$(cat "$D/big.sum")" ]

	fetch -T "$D/big" "$URL/up/big"
	[ "$(sum <"$up")" = "$(cat "$D/big.sum")" ]
	rm "$up"

	# One after the other they would take 100 s.
	mkdir "$T/got"
	(
		for ((i = 0; i < 100; i++)); do printf 'url = "%s"\noutput = "%s"\n' "$URL/slow" "$T/got/$i"; done
	) >"$T/urls"
	fetch --max-time 20 --parallel --parallel-immediate --parallel-max 100 --config "$T/urls" 2>"$T/curl.err" ||
		{ cat "$T/curl.err" "$T/log"; return 1; }
	for ((i = 0; i < 100; i++)); do cmp "$D/small" "$T/got/$i"; done

	kill -0 "$PROXY"
	touch "$T/enough"
	ends "$HOLDER"
	ends "$PROXY"
	! grep -e Failed -e refusing "$T/log"
}

@test "nginx on TCP, an IPv4 listener: a page, 200 MB down and up, 100 requests at once, idle exit" {
	work tcp4 tcp
}

@test "nginx on TCP, an IPv6 listener: a page, 200 MB down and up, 100 requests at once, idle exit" {
	work tcp6 tcp
}

@test "nginx on TCP, a unix listener: a page, 200 MB down and up, 100 requests at once, idle exit" {
	work "unix:$T/listen" tcp
}

@test "nginx on a unix socket, an IPv4 listener: a page, 200 MB down and up, 100 requests at once, idle exit" {
	work tcp4 unix
}

@test "nginx on a unix socket, an IPv6 listener: a page, 200 MB down and up, 100 requests at once, idle exit" {
	work tcp6 unix
}

@test "nginx on a unix socket, a unix listener: a page, 200 MB down and up, 100 requests at once, idle exit" {
	work "unix:$T/listen" unix
}
