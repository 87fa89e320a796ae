#!/usr/bin/env bats
# Random connection scripts, checked byte for byte (tests/torture, tests/tools/torture.c): sends, pauses, stalls,
# half-closes, resets and abrupt closes on either side, over TCP and unix sockets in all four combinations, from a fixed
# seed.  make torture SEED=n TIME=s goes on for as long as asked.
#
# On systemd-socket-proxyd 252 fails the first, after a few scripts; the second needs an option of ours.

load lib

# torture N OPTION...: N scripts, with proxyd's OPTIONs.
torture() {
	TMPDIR=$T "$ROOT/tests/torture" -s 20140101 -n "$1" -- "${@:2}" 3>&- >"$T/said"
	grep "^$1 scripts, " "$T/said"
}

@test "10,000 random scripts over TCP and unix sockets: no byte is lost, no end is missed, nothing hangs" { torture 10000; }

@test "2,000 random scripts with buffers of 4 KB: no byte is lost, no end is missed, nothing hangs" {
	torture 2000 --buffer-size=4K
}
