#!/usr/bin/env bats
# What people get beside the daemon: the documents say what the program does, and make installs, builds and shows it.

load lib

# The program of this tree, whatever PROXYD says.
OURS=$ROOT/proxyd

# ---- what is said where, one word a line, sorted ----

help_options() { "$OURS" --help | grep -oE -- '^ *(-[a-z] )?--[a-z-]+' | options; }
man_options() { grep -E '^\.It Fl' "$ROOT/proxyd.8" | sed 's/Fl \([a-z-]\)/-\1/g' | options; }
parsed_options() {
	{
		parsed_names
		sed -n 's/.*getopt_long(argc, argv, "\([a-z:]*\)".*/\1/p' "$ROOT/options.c" | grep -o '[a-z]' | sed 's/^/-/'
	} | options
}
# parsed_names [required_argument]: what options.c reads, without the abbreviations that have a line of their own.
parsed_names() {
	sed -n "s/^\t{\"\([a-z-]*\)\", ${1:-[a-z]*_argument}.*/--\1/p" "$ROOT/options.c" | LC_ALL=C sort |
		awk 'NR > 1 && index($0, last) != 1 { print last } { last = $0 } END { print last }'
}
bash_options() {
	bash -c '. "$1" && COMP_WORDS=(proxyd -) COMP_CWORD=1 && _proxyd && printf "%s\n" "${COMPREPLY[@]}"' - \
		"$ROOT/contrib/completion/proxyd.bash" | options
}
zsh_options() { zsh_arguments | sed -n 's/^([^)]*)//; s/\[.*//p' | options; }
zsh_arguments() {
	# shellcheck disable=SC2016
	zsh -f -c 'fpath=($1) && _arguments() { print -rl -- "$@" } && autoload -U _proxyd && _proxyd' - \
		"$ROOT/contrib/completion"
}

# -o and --option, out of whatever surrounds them.
options() { grep -oE -- '(^|[^a-z-])--?[a-z][a-z-]*' | grep -oE -- '--?[a-z][a-z-]*$' | sort -u; }

# same COMMAND COMMAND: both say the same, and not nothing.
same() {
	"$1" >"$T/$1"
	"$2" >"$T/$2"
	[ -s "$T/$1" ]
	diff "$T/$1" "$T/$2"
}

# has FILE WORD...: each of them is in it.
has() {
	local file=$1 word rc=0
	shift
	for word; do
		grep -qF -e "$word" "$file" || { echo "$file does not mention $word" >&2; rc=1; }
	done
	return $rc
}

# ---- a tree of its own, so that the program under test stays as it is ----

tree() {
	mkdir "$T/src"
	cp -R "$ROOT"/*.[ch] "$ROOT/Makefile" "$ROOT/proxyd.8" "$ROOT/contrib" "$T/src"
	mkdir "$T/src/tests"
	cp -R "$ROOT/tests/tools" "$T/src/tests"
}

# make as a user calls it: nothing of what make check was called with.
fresh_make() {
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES -u CC -u CFLAGS -u LDFLAGS -u LDLIBS -u SAN -u TESTS \
		-u DESTDIR -u PREFIX \
		make -s -C "$T/src" "$@"
}

installed() { (cd "$1" && find . ! -type d | sort | while read -r f; do stat -c '%a %n' "$f"; done); }

# completes WORD...: what bash proposes for the last of them.
completes() {
	bash -c '. "$1" && shift && COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) && _proxyd && printf "%s\n" "${COMPREPLY[@]}"' - \
		"$ROOT/contrib/completion/proxyd.bash" "$@"
}

# ---- tests ----

@test "--help lists every option that is read, and no other" {
	same parsed_options help_options
}

@test "the man page describes every option of --help, and no other" {
	same help_options man_options
}

@test "completion for bash knows every option of --help, and no other" {
	same help_options bash_options
}

@test "completion for zsh knows every option of --help, and no other" {
	same help_options zsh_options
}

@test "an option takes an argument in the completions if it takes one in the program" {
	parsed_names required_argument | sed 's/$/=/' | sort >"$T/parsed"
	[ -s "$T/parsed" ]
	completes proxyd -- | grep '=$' | sort | diff "$T/parsed" -
	zsh_arguments | grep -oE -- '--[a-z-]+=' | sort | diff "$T/parsed" -
}

@test "every default that --help gives in brackets is in the man page" {
	"$OURS" --help | sed -n 's/^.*--\([a-z-]*\).*(\([^ )]*\))$/\1 \2/p' >"$T/defaults"
	[ "$(wc -l <"$T/defaults")" -ge 5 ]
	while read -r option default; do
		[ "$default" != off ] || continue
		# From the option to the next.
		sed -n "/^\.It Fl.*-$option/,/^\.It Fl/p" "$ROOT/proxyd.8" >"$T/entry"
		tr '\n' ' ' <"$T/entry" | sed 's/\.[A-Z][a-z] //g' >"$T/text"
		grep -qE -e "default is $default|$default +, the default" "$T/text" || { echo "$option: $default" >&2; return 1; }
	done <"$T/defaults"
}

@test "the man page names every variable of the environment that is read, and no other" {
	cat "$ROOT"/*.c | grep -oE 'getenv\("[A-Z_]+"\)' | grep -oE '[A-Z_]+' | sort -u >"$T/read"
	[ -s "$T/read" ]
	sed -n 's/^\.It Ev //p' "$ROOT/proxyd.8" | tr -d ' ' | tr ',' '\n' | sort -u | diff "$T/read" -
}

@test "the man page names every signal that is handled" {
	sed -n 's/.*sigaddset(&set, \(SIG[A-Z0-9]*\)).*/\1/p' "$ROOT/proxyd.c" >"$T/signals"
	[ -s "$T/signals" ]
	# shellcheck disable=SC2046
	has "$ROOT/proxyd.8" $(cat "$T/signals")
}

@test "mandoc finds nothing wrong with the man page" {
	run mandoc -T lint -W warning "$ROOT/proxyd.8"
	echo "$output"
	[ "$status" -eq 0 ]
	[ -z "$output" ]
}

@test "README opens with what it is and the two commands" {
	head -12 "$ROOT/README.md" >"$T/head"
	has "$T/head" 'make demo' 'make check' systemd-socket-proxyd
}

@test "README names every option, every source file, and nothing that is not there" {
	# shellcheck disable=SC2046
	has "$ROOT/README.md" $(help_options | grep -e --)
	local f
	for f in "$ROOT"/*.[ch]; do has "$ROOT/README.md" "\`$(basename "$f")\`"; done
	for f in $(grep -oE '^\| `[a-z][a-z_./-]+`' "$ROOT/README.md" | grep -oE '[a-z][a-z_./-]+'); do
		[ -e "$ROOT/$f" ] || [ -e "$ROOT/tests/$f" ] || { echo "README names $f" >&2; return 1; }
	done
}

@test "the units in README and in the man page are the same but for the path" {
	sed -n '/^    \[Socket\]/,/^Then/p' "$ROOT/README.md" | sed -n 's/^    //p' >"$T/readme"
	sed -n '/^\[Socket\]/,/^\.Ed/p' "$ROOT/proxyd.8" | grep -v -e '^#' -e '^\.Ed' >"$T/man"
	[ -s "$T/readme" ]
	sed 's,/usr/local/bin,/usr/bin,' "$T/readme" | grep . >"$T/a"
	grep . "$T/man" | diff "$T/a" -
}

@test "NEWS begins with the version that --version prints" {
	[ "$(head -1 "$ROOT/NEWS")" = "$("$OURS" --version)" ]
}

@test "completion for bash proposes files for a path, values for --when-full=, and nothing it cannot know" {
	mkdir "$T/a b"
	touch "$T/one.sock" "$T/two.sock"
	[ "$(completes proxyd "$T/on")" = "$T/one.sock" ]
	[ "$(completes proxyd "$T/a")" = "$T/a b" ]
	[ "$(completes proxyd --listen = "$T/tw")" = "$T/two.sock" ]
	[ "$(completes proxyd "--listen=$T/tw")" = "$T/two.sock" ]
	[ "$(completes proxyd --listen=80 -l "$T/tw")" = "$T/two.sock" ]
	[ "$(completes proxyd --when-full = | sort | xargs)" = 'refuse wait' ]
	[ "$(completes proxyd --when-full = w)" = wait ]
	[ "$(completes proxyd --when-full '')" = "$(completes proxyd --when-full=)" ]
	[ "$(completes proxyd --conn | sort | xargs)" = '--connect-retry= --connect-timeout= --connections-max=' ]
	[ -z "$(completes proxyd --exit-idle-time = "$T/on")" ]
	[ -z "$(completes proxyd -- --c)" ]
	[ -z "$(completes proxyd '')" ]
}

@test "make install puts down binary, man page and two completions, and make uninstall takes just these away" {
	tree
	mkdir -p "$T/root/usr/bin" "$T/root/usr/share/man/man8"
	touch "$T/root/usr/bin/other" "$T/root/usr/share/man/man8/proxyd2.8"
	installed "$T/root" >"$T/before"

	fresh_make install DESTDIR="$T/root" PREFIX=/usr
	installed "$T/root" | diff "$T/before" - | sed -n 's/^> //p' >"$T/new"
	diff - "$T/new" <<-EOT
	755 ./usr/bin/proxyd
	644 ./usr/share/bash-completion/completions/proxyd
	644 ./usr/share/man/man8/proxyd.8
	644 ./usr/share/zsh/site-functions/_proxyd
	EOT
	[ "$("$T/root/usr/bin/proxyd" --version)" = "$("$OURS" --version)" ]
	cmp "$ROOT/proxyd.8" "$T/root/usr/share/man/man8/proxyd.8"

	fresh_make uninstall DESTDIR="$T/root" PREFIX=/usr
	installed "$T/root" | diff "$T/before" -
}

@test "make install goes to /usr/local by default, and where the directory variables say" {
	tree
	fresh_make install DESTDIR="$T/a"
	installed "$T/a" | grep -q '^755 ./usr/local/bin/proxyd$'
	[ "$(installed "$T/a" | grep -c ' ./usr/local/')" -eq 4 ]

	fresh_make install DESTDIR="$T/b" prefix=/p bindir=/bin mandir=/man
	diff - <(installed "$T/b") <<-EOT
	755 ./bin/proxyd
	644 ./man/man8/proxyd.8
	644 ./p/share/bash-completion/completions/proxyd
	644 ./p/share/zsh/site-functions/_proxyd
	EOT
	fresh_make uninstall DESTDIR="$T/b" prefix=/p bindir=/bin mandir=/man
	[ -z "$(installed "$T/b")" ]

	fresh_make install DESTDIR="$T/c" exec_prefix=/e datarootdir=/d
	diff - <(installed "$T/c") <<-EOT
	644 ./d/bash-completion/completions/proxyd
	644 ./d/man/man8/proxyd.8
	644 ./d/zsh/site-functions/_proxyd
	755 ./e/bin/proxyd
	EOT
	fresh_make install DESTDIR="$T/d" man8dir=/8 bashcompletiondir=/bc zshcompletiondir=/zc
	[ -f "$T/d/8/proxyd.8" ] && [ -f "$T/d/bc/proxyd" ] && [ -f "$T/d/zc/_proxyd" ]
}

@test "make demo ends within 10 s and shows two requests, an idle exit and equal counts" {
	tree
	fresh_make proxyd build/demo
	local end=$((SECONDS + 10))
	# Without bats' descriptor, so that only the demo's own processes can hold the output open.
	fresh_make demo >"$T/demo" 2>&1 </dev/null 3>&-
	[ "$SECONDS" -le "$end" ]
	cat "$T/demo"
	has "$T/demo" 'GET /first ' 'you asked for /first.' 'GET /second ' 'you asked for /second.'
	[ "$(grep -c 'proxyd exited with status 0' "$T/demo")" -eq 2 ]
	[ "$(grep -c 'LISTEN_FDS=1 ./proxyd --exit-idle-time=1s 127.0.0.1:' "$T/demo")" -eq 2 ]
	[ "$(grep -cE ' ([0-9]+) bytes sent, +\1 received' "$T/demo")" -eq 2 ]
	[ "$(wc -l <"$T/demo")" -le 22 ]
	[ -z "$(grep -E '.{81}' "$T/demo")" ]
	local pid
	for pid in $(grep -oE 'process [0-9]+' "$T/demo" | grep -oE '[0-9]+'); do gone "$pid"; done
}

@test "the demo fails with one line when the program does not do its job" {
	printf '#!/bin/sh\nexit 3\n' >"$T/bad"
	chmod +x "$T/bad"
	local rc=0
	"$B/demo" "$T/bad" >"$T/demo" 2>"$T/error" 3>&- || rc=$?
	[ "$rc" -eq 1 ]
	[ "$(cat "$T/error")" = 'demo: proxyd exited with status 3 before there was a reply' ]
}

@test "make static gives a static, stripped binary of at most 100 KB that serves requests" {
	tree
	fresh_make static
	local program=$T/src/proxyd-static
	[ "$(wc -c <"$program")" -le $((100 * 1024)) ]
	readelf -lW "$program" >"$T/segments"
	has "$T/segments" LOAD
	[ -z "$(grep INTERP "$T/segments")" ]
	[ "$(readelf -SW "$program" | grep -c -e '\.symtab' -e '\.debug')" -eq 0 ]
	[ "$("$program" --version)" = "$("$OURS" --version)" ]
	"$B/demo" "$program" >"$T/demo" 3>&-
	has "$T/demo" 'you asked for /first.' 'you asked for /second.'
}

# What a file and the helpers it loads share looks unused, or never set, to a reader of one file (SC2034, SC2154).
@test "shellcheck finds nothing wrong with the shell scripts" {
	local scripts=("$ROOT"/tests/{run,install-tools,torture,bench/run,bench/install-peers} "$ROOT"/tests/*.bash
		"$ROOT"/tests/*.bats "$ROOT/contrib/completion/proxyd.bash" "$ROOT/.ci/run")
	shellcheck --severity=warning --exclude=SC2034,SC2154 "${scripts[@]}"
}
