# shellcheck shell=bash
# shellcheck disable=SC2153 # PROXYD is no misspelt PROXY
# Starts the daemon the way a user would try it: under the real systemd-socket-activate.  To be loaded after lib.bash.

has_systemd() { command -v systemd-socket-activate >/dev/null; }

# free_port tcp4|tcp6: an address whose port the kernel chose and nobody has now.
free_port() {
	rm -f "$T/free"
	"$B/activate" -f "$T/free" "$1" -- true 3>&-
	cat "$T/free"
}

# start_systemd [-FLAG...] SOCKET... -- ARG...: as start of lib.bash for tcp4, tcp6 and unix:/path, FLAGs being those of
# systemd-socket-activate.  It becomes the daemon when the first client comes, so $PROXY is the daemon's pid, unless
# it is to start one for each client (-a).
start_systemd() {
	local flags=() sockets=() listen socket tries
	while [ "$1" != -- ]; do
		case $1 in -*) flags+=("$1") ;; *) sockets+=("$1") ;; esac
		shift
	done
	shift
	# Between the choice of a port and its use somebody else may take it.
	for tries in 1 2 3 4 5; do
		ADDR=() listen=()
		for socket in "${sockets[@]}"; do
			case $socket in
			unix:*) ADDR+=("${socket#unix:}") ;;
			*) ADDR+=("$(free_port "$socket")") ;;
			esac
			listen+=(-l "${ADDR[-1]}")
		done
		run_bg systemd-socket-activate "${flags[@]}" "${listen[@]}" -E ASAN_OPTIONS -E UBSAN_OPTIONS \
			-- "$PROXYD" "$@" </dev/null >"$T/out" 2>"$T/log"
		PROXY=$PID
		wait_for -q listens_or_ended "${#sockets[@]}" || break
		! gone "$PROXY" || says "$T/log" 'Address already in use' || break
		gone "$PROXY" || return 0
	done
	echo "systemd-socket-activate did not start, try $tries:" >&2
	cat "$T/log" >&2
	return 1
}

listens_or_ended() { [ "$(grep -c '^Listening on ' "$T/log")" -ge "$1" ] || gone "$PROXY"; }
