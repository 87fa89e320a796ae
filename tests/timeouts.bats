#!/usr/bin/env bats
# Connections that fall silent: --idle-timeout=, --half-close-timeout=, --keepalive=; and that none of them costs a stream
# anything.
#
# systemd-socket-proxyd 252 has none of these options and keeps a silent connection for ever.

load late

# ---- --idle-timeout= ----

@test "--idle-timeout= resets both sides when no byte moved for so long, and not before" {
	backend 127.0.0.1:0 expect:1:100 pause:300 send:2:100 reset "touch:$T/backend.end"
	start tcp4 -- --idle-timeout=700ms "$BACK"
	client it "${ADDR[0]}" pause:300 "touch:$T/last" send:1:100 expect:2:100 reset "touch:$T/end"
	after 990 "$T/last" "$T/end" 2000
	after 990 "$T/last" "$T/backend.end" 2000
	finished "$CLIENT"
	finished "$BACKEND"
	status
	[ "$NOW $TOTAL $FROM_CLIENTS $FROM_TARGET" = "0 1 100 100" ]
}

@test "it ends one that never said a word, and one that is stuck" {
	BACKEND_FLAGS="-j -n 2" backend 127.0.0.1:0 "until:$T/go" expectreset:1 "touch:$T/backend.end"
	start tcp4 -- --idle-timeout=700ms "$BACK"
	touch "$T/before"
	client silent "${ADDR[0]}" reset "touch:$T/silent"
	client stuck "${ADDR[0]}" fill:1 "touch:$T/full" wreset "touch:$T/stuck"
	after 690 "$T/before" "$T/silent" 1700
	# The last byte has moved 200 ms before a fill is over.
	after 100 "$T/full" "$T/stuck" 1500
	touch "$T/go"
	finished "$CLIENT"
	finished "$BACKEND"
}

@test "bytes in one direction keep it, either one" {
	local drops=() drips=()
	for _ in {1..8}; do
		drops+=(pause:200 send:1:10)
		drips+=(expect:1:10)
	done
	BACKEND_FLAGS=-j backend 127.0.0.1:0 "${drops[@]}" reset
	start tcp4 -- --idle-timeout=600ms "$BACK"
	client up "${ADDR[0]}" "${drips[@]}" reset
	aside up
	BACKEND_FLAGS=-j backend "$T/back" "${drips[@]}" closed
	start "unix:$T/front" -- --idle-timeout=600ms "$BACK"
	"$B/peer" connect "$T/front" "${drops[@]}" closed
	finished "$CLIENT"
	finished "$BACKEND"
}

@test "without it silence is borne" {
	backend 127.0.0.1:0 expect:1:100 quiet:1500 send:2:100 eof
	start tcp4 -- "$BACK"
	"$B/peer" connect "${ADDR[0]}" send:1:100 expect:2:100
	finished "$BACKEND"
}

# ---- --half-close-timeout= ----

@test "--half-close-timeout= resets both sides when one has ended and the other is silent for so long" {
	BACKEND_FLAGS="-j -n 2" backend 127.0.0.1:0 send:2:100 eof "until:$T/end" wreset
	start tcp4 -- --half-close-timeout=700ms "$BACK"
	client whole "${ADDR[0]}" expect:2:100 quiet:2000 "touch:$T/whole"
	client half "${ADDR[0]}" expect:2:100 pause:200 "touch:$T/half" shut reset "touch:$T/end"
	after 690 "$T/half" "$T/end" 1500
	wait_for test -e "$T/whole"
	finished "$BACKEND"
}

@test "it does so when a direction ended by a reset and the other side is stuck" {
	backend 127.0.0.1:0 "until:$T/go" expectclosed:1
	start tcp4 -- --half-close-timeout=700ms "$BACK"
	client it "${ADDR[0]}" fill:1 rst
	finished "$CLIENT"
	wait_for status_is NOW 0
	touch "$T/go"
	finished "$BACKEND"
}

@test "it does so when the target ended, too" {
	backend 127.0.0.1:0 send:2:100 "touch:$T/half" shut reset "touch:$T/end"
	start tcp4 -- --half-close-timeout=600ms "$BACK"
	client it "${ADDR[0]}" expect:2:100 eof "until:$T/end" wreset
	after 590 "$T/half" "$T/end" 1500
	finished "$CLIENT"
}

@test "it lets the other direction go on for as long as bytes move" {
	local drops=() drips=()
	for _ in {1..8}; do
		drops+=(pause:200 send:2:10)
		drips+=(expect:2:10)
	done
	backend 127.0.0.1:0 expect:1:100 eof "${drops[@]}"
	start tcp4 -- --half-close-timeout=600ms "$BACK"
	"$B/peer" connect "${ADDR[0]}" send:1:100 shut "${drips[@]}" eof
	finished "$BACKEND"
}

@test "of both timeouts the shorter one counts for a half-closed connection" {
	BACKEND_FLAGS="-j -n 3" backend 127.0.0.1:0 send:2:100 "until:$T/go"
	start tcp4 -- --half-close-timeout=400ms --idle-timeout=1200ms "$BACK"
	client whole "${ADDR[0]}" expect:2:100 "touch:$T/whole" send:1:10 reset "touch:$T/whole.end"
	client half "${ADDR[0]}" expect:2:100 pause:200 "touch:$T/half" shut reset "touch:$T/half.end"
	after 1190 "$T/whole" "$T/whole.end" 2000
	after 390 "$T/half" "$T/half.end" 1100
	aside first
	start tcp4 -- --half-close-timeout=1min --idle-timeout=400ms "$BACK"
	client late "${ADDR[0]}" expect:2:100 "touch:$T/late" shut reset "touch:$T/late.end"
	after 390 "$T/late" "$T/late.end" 1100
	touch "$T/go"
	finished "$BACKEND"
}

# ---- what it costs ----

@test "traffic costs no timer operation, whatever timeouts there are" {
	local before pings=()
	for _ in {1..1000}; do pings+=(send:1:10 expect:1:10); done
	backend 127.0.0.1:0 echo
	spying '' tcp4 -- --idle-timeout=10min --half-close-timeout=5min --connect-timeout=1min --keepalive=60 \
		--connect-retry=1min --exit-idle-time=10min "$BACK"
	client it "${ADDR[0]}" send:1:10 expect:1:10 "touch:$T/warm" "until:$T/go" "${pings[@]}" both:1:10M:1:10M \
		"touch:$T/done" "until:$T/end"
	wait_for test -e "$T/warm"
	before=$(grep -c wheel_ "$T/spy")
	touch "$T/go"
	patiently test -e "$T/done"
	between 1 "$(grep -c wheel_ "$T/spy")" "$before"
	touch "$T/end"
}

# ---- --keepalive= ----

# options: what the daemon set on each socket, a line each; the rest of the line is sorted.
options() {
	sed -n 's/.* setsockopt \([0-9]*\) \(SO_KEEPALIVE\|TCP_KEEP[A-Z]*\) /\1 \2=/p' "$T/spy" | sort -u |
		awk '{ all[$1] = all[$1] " " $2 } END { for (fd in all) print all[fd] }'
}

# probes PORT: the two connections at PORT for which the kernel has a keepalive timer running, and the ticks it has left.
probes() {
	awk -v port=":$(printf %04X "$1")$" '($2 ~ port || $3 ~ port) && $4 == "01" && $6 ~ /^02:/ { print substr($6, 4) }' \
		/proc/net/tcp
}

@test "--keepalive=IDLE:INTERVAL:COUNT probes both sides" {
	local ticks
	backend 127.0.0.1:0 expect:1:100 send:2:100 "until:$T/end"
	spying '' tcp4 -- --keepalive=2min:7s:5 "$BACK"
	client it "${ADDR[0]}" send:1:100 expect:2:100 "touch:$T/up" "until:$T/end"
	wait_for test -e "$T/up"
	[ "$(options)" = " SO_KEEPALIVE=1 TCP_KEEPCNT=5 TCP_KEEPIDLE=120 TCP_KEEPINTVL=7
 SO_KEEPALIVE=1 TCP_KEEPCNT=5 TCP_KEEPIDLE=120 TCP_KEEPINTVL=7" ]
	# The kernel counts down on the side of the clients and on that of the target, once each.
	for port in "${ADDR[0]##*:}" "${BACK##*:}"; do
		wait_for test "$(probes "$port" | wc -l)" = 1
		ticks=$(probes "$port")
		between $((110 * $(getconf CLK_TCK))) $((16#$ticks)) $((120 * $(getconf CLK_TCK)))
	done
	touch "$T/end"
}

@test "--keepalive=IDLE leaves the others at the kernel's, a part of a second counts as a whole one, the last one counts" {
	backend 127.0.0.1:0 expect:1:100 send:2:100
	spying '' tcp4 -- --keepalive=60:10:6 --keepalive=1500ms "$BACK"
	"$B/peer" connect "${ADDR[0]}" send:1:100 expect:2:100
	[ "$(options)" = " SO_KEEPALIVE=1 TCP_KEEPIDLE=2
 SO_KEEPALIVE=1 TCP_KEEPIDLE=2" ]
}

@test "by default nothing is probed, and a unix socket never is" {
	backend "$T/back" echo
	spying '' "unix:$T/front" tcp4 -- "$BACK"
	"$B/peer" connect "$T/front" send:1:100 expect:1:100
	[ "$(options)" = '' ]
	aside default
	backend "$T/back" expect:1:100 send:1:100
	spying '' tcp4 -- --keepalive=60:10:6 "$BACK"
	"$B/peer" connect "${ADDR[0]}" send:1:100 expect:1:100
	[ "$(options)" = " SO_KEEPALIVE=1 TCP_KEEPCNT=6 TCP_KEEPIDLE=60 TCP_KEEPINTVL=10" ]
}

# rejects TEXT OPTION: one line that begins so, and status 1.
rejects() {
	local rc=0
	run_bg "$PROXYD" "$2" 127.0.0.1:1 </dev/null >"$T/out" 2>"$T/log"
	ends "$PID" || rc=$?
	if [ "$rc" != 1 ] || [ "$(cat "$T/log")" != "$1" ]; then
		echo "$2: $rc: $(cat "$T/log")" >&2
		return 1
	fi
}

@test "a bad --keepalive= is refused in one line that tells what is right" {
	local word long
	long=$(printf '%150s' '')
	for word in '' 0 -1 x : 60: 60::5 :10 60:0 60:x 60:10: 60:10:0 60:10:128 60:10:x 60:10:5:1 32768 60:9h59min infinity \
		"60$long:x"; do
		rejects "Failed to parse --keepalive= argument: $word (IDLE[:INTERVAL[:COUNT]] is wanted, such as 2min:10s:6,\
 with spans from 1s to 32767s and a count from 1 to 127)" "--keepalive=$word"
	done
}

@test "bad spans are refused in one line that tells what is right, and so is a timeout of 0" {
	local option word
	for option in idle-timeout half-close-timeout connect-timeout connect-retry shutdown-timeout; do
		for word in '' x -1 5q; do
			rejects "Failed to parse --$option= argument: $word (a time span is wanted, such as 500ms, 30s, 1min 30s or\
 infinity)" "--$option=$word"
		done
	done
	for option in idle-timeout half-close-timeout connect-timeout; do
		rejects "Failed to parse --$option= argument: 0 (a time span above 0 is wanted)" "--$option=0"
	done
}
