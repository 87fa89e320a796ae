# Section "Arguments" of what a drop-in has to match.

load compat

NO_SOCKETS="Didn't get any sockets passed in."
BAD_LIMIT='Failed to parse --connections-max= argument:'
BAD_SPAN='Failed to parse --exit-idle-time= argument:'

# shows_help ARG...: in both programs: on stdout, nothing on stderr, exit status 0, and the options are in it.
shows_help() {
	local program
	for program in "${PROGRAMS[@]}"; do
		try "$program" "$@"
		if [ "$RC" != 0 ] || [ -n "$ERR" ] || [[ $OUT != *--connections-max=* ]]; then
			echo "$program $* exited with $RC: $ERR$OUT" >&2
			return 1
		fi
	done
}

# shows_version ARG...
shows_version() {
	local program
	for program in "${PROGRAMS[@]}"; do
		try "$program" "$@"
		if [ "$RC" != 0 ] || [ -n "$ERR" ] || [[ ! $OUT =~ ^(proxyd|systemd)\ [0-9] ]]; then
			echo "$program $* exited with $RC: $ERR$OUT" >&2
			return 1
		fi
	done
}

# getopt_fails WORD ARG...: what is wrong is told, and WORD is named.
getopt_fails() {
	local program
	for program in "${PROGRAMS[@]}"; do
		try "$program" "${@:2}"
		if [ "$RC" != 1 ] || [ -n "$OUT" ] || [[ $ERR != *"$1"* ]] || [[ $ERR == *$'\n'* ]]; then
			echo "$program ${*:2} exited with $RC: $ERR$OUT" >&2
			return 1
		fi
	done
}

@test "options and the target come in any order" {
	both_fail "$NO_SOCKETS" -c 5 --exit-idle-time=1 target
	both_fail "$NO_SOCKETS" target -c 5 --exit-idle-time=1
	both_fail "$NO_SOCKETS" -c 5 target --exit-idle-time=1
	both_fail "$BAD_LIMIT abc" target -c abc
}

@test "an option's argument is joined to it or the next word" {
	both_fail "$BAD_LIMIT abc" -cabc target
	both_fail "$BAD_LIMIT abc" -c abc target
	both_fail "$BAD_LIMIT abc" --connections-max=abc target
	both_fail "$BAD_LIMIT abc" --connections-max abc target
	both_fail "$BAD_LIMIT -h" -c -h
	both_fail "$BAD_SPAN abc" --exit-idle-time=abc target
	both_fail "$BAD_SPAN abc" --exit-idle-time abc target
	both_fail "$BAD_SPAN" --exit-idle-time= target
	both_fail "$BAD_SPAN -1" --exit-idle-time -1 target
}

@test "a long option may be abbreviated" {
	both_fail 'Not enough parameters.' --conn=5
	both_fail "$BAD_LIMIT abc" --conn=abc target
	both_fail "$BAD_LIMIT abc" --conn abc target
	both_fail "$BAD_SPAN abc" --exit=abc target
	shows_help --he
	shows_version --vers
}

@test "two dashes end the options" {
	both_fail "$NO_SOCKETS" -- -h
	both_fail "$NO_SOCKETS" -c 5 -- --version
	both_fail 'Too many parameters.' -- target -h
	both_fail 'Not enough parameters.' --
	both_fail 'Not enough parameters.' -c 5 --
}

@test "options act in the order they come" {
	shows_help -h -c abc
	shows_help -c 5 -h
	shows_help -hc abc
	shows_version --version --foo
	both_fail "$BAD_LIMIT abc" -c abc -h
	both_fail "$BAD_LIMIT abc" -c abc --exit-idle-time=abc -h
	both_fail "$BAD_SPAN abc" --exit-idle-time=abc -c abc --version
	both_fail 'Connection limit is too low.' -c 0 -c 5 -h
	both_fail "$NO_SOCKETS" -c 7 -c 5 target
}

@test "help goes to stdout, whatever surplus arguments follow" {
	shows_help -h
	shows_help --help
	shows_help -h one two three
	shows_help one two three --help
}

@test "the version goes to stdout, whatever surplus arguments follow" {
	shows_version --version
	shows_version --version one two three
	shows_version one two three --version
}

@test "a target is wanted, and only one" {
	both_fail 'Not enough parameters.'
	both_fail 'Not enough parameters.' -c 5
	both_fail 'Too many parameters.' one two
	both_fail 'Too many parameters.' 127.0.0.1:1 127.0.0.1:2 127.0.0.1:3
	both_fail 'Too many parameters.' one -c 5 two
}

@test "an option that does not exist, lacks its argument or takes none is told, exit status 1" {
	getopt_fails foo --foo target
	getopt_fails x -x target
	getopt_fails c -c
	getopt_fails connections-max --connections-max
	getopt_fails exit-idle-time target --exit-idle-time
	getopt_fails help --help=please
	getopt_fails version --version=2
}

@test "a connection limit is decimal, hexadecimal, octal or binary" {
	local n
	for n in 1 5 256 4294967295 0x10 0X10 0xffffffff 0o17 0O17 0b101 0B1 017 00001 037777777777 \
		+5 ' 5' $'\t5' ' +5' ' 0x5' +0x5 ' 0b11'; do
		both_fail "$NO_SOCKETS" -c "$n" target
		both_fail "$NO_SOCKETS" --connections-max="$n" target
	done
}

@test "a connection limit that is none, has a sign or is too much is refused" {
	local n
	for n in '' ' ' abc 5x 1.5 1e3 '5 ' '5 5' -1 -5 0x-1 0b-1 0o-1 + ++5 '+ 5' 0x 0o 0b 08 0o8 0b2 0xg 0x5x \
		4294967296 37777777777 0x100000000 040000000000 0b100000000000000000000000000000000 99999999999999999999999 \
		18446744073709551617 -4294967295 infinity 1K; do
		both_fail "$BAD_LIMIT $n" -c "$n" target
	done
}

@test "a connection limit of 0 is too low" {
	local n
	for n in 0 00 0x0 0b0 +0 -0 ' 0'; do
		both_fail 'Connection limit is too low.' -c "$n" target
	done
	both_fail 'Connection limit is too low.' --connections-max=0
}

@test "what is wrong names the remedy after the text that scripts look for" {
	fails 'Not enough parameters. Name the target:' "$PROXYD"
	fails 'Too many parameters. One target is wanted, and after one comes two.' "$PROXYD" one two
	fails "$BAD_LIMIT abc (a number from 1 to 4294967295 is wanted)" "$PROXYD" -c abc target
	fails "$BAD_SPAN abc (a time span is wanted, such as" "$PROXYD" --exit-idle-time=abc target
	fails "$NO_SOCKETS Start it from a socket unit" "$PROXYD" 127.0.0.1:80
	[[ $ERR == *--listen=* ]]
	fails 'Failed to parse target: 8080' "$PROXYD" --listen=80 8080
	[[ $ERR == *127.0.0.1:8080* ]]
}
