# make              ./proxyd
# make demo         shows its main job on loopback
# make check        installs what the tests need, then runs every test; SAN=1: under ASan and UBSan; CC=clang, CC=musl-gcc
# make torture      random connections, checked byte for byte; SEED=n TIME=seconds
# make bench        the same work through proxyd and its peers: a table, bench.tsv, bench.svg; QUICK=1: within 3 minutes
# make static       ./proxyd-static: static, stripped, against musl
# make install      honours DESTDIR, PREFIX and the GNU directory variables; make uninstall

VERSION = 0.1.0

CFLAGS ?= -O2 -g
WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Werror
FLAGS = -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 -pthread $(WARNINGS) $(CFLAGS) $(if $(SAN),$(SANITIZE))
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# Where the compiler's own libc is musl, as on Alpine, there is no musl-gcc and no need of one.
MUSL_CC ?= $(shell command -v musl-gcc || echo $(CC))
STATIC_FLAGS = -static -Os -s -flto -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables \
	-Wl,--gc-sections,-z,noseparate-code,--build-id=none

PREFIX ?= /usr/local
prefix ?= $(PREFIX)
exec_prefix ?= $(prefix)
bindir ?= $(exec_prefix)/bin
datarootdir ?= $(prefix)/share
mandir ?= $(datarootdir)/man
man8dir ?= $(mandir)/man8
bashcompletiondir ?= $(datarootdir)/bash-completion/completions
zshcompletiondir ?= $(datarootdir)/zsh/site-functions
INSTALL ?= install

LEAVES = ring wheel span addr
DAEMON = log notify listenfds listen loop resolve forward connect conn accept options proxyd
UNITS = ring wheel span addr listenfds forward
TOOLS = activate peer torture alone
PROGRAMS = $(UNITS:%=build/%_test) $(TOOLS:%=build/%) build/demo

proxyd: $(LEAVES:%=build/%.o) $(DAEMON:%=build/%.o)
	$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

build/%.o: %.c proxyd.h build/flags
	$(CC) $(FLAGS) -DPROXYD_VERSION='"$(VERSION)"' -c -o $@ $<

# Other flags than last time make everything anew.
build/flags: FORCE
	@mkdir -p build
	@echo '$(CC) $(FLAGS) $(LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(FLAGS) $(LDFLAGS)' >$@

build/%_test: tests/unit/%_test.c tests/unit/tap.h proxyd.h build/flags $(LEAVES:%=build/%.o) $(filter-out build/proxyd.o,$(DAEMON:%=build/%.o))
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(filter %.o,$^) $(LDLIBS)

build/%: tests/tools/%.c build/flags
	$(CC) $(FLAGS) $(LDFLAGS) -o $@ $< $(LDLIBS)

static: proxyd-static
proxyd-static: $(LEAVES:%=%.c) $(DAEMON:%=%.c) proxyd.h Makefile
	$(MUSL_CC) $(filter-out -g,$(FLAGS)) -DPROXYD_VERSION='"$(VERSION)"' $(LDFLAGS) $(STATIC_FLAGS) -o $@ $(filter %.c,$^) $(LDLIBS)

demo: proxyd build/demo
	@build/demo ./proxyd

# The tests' own programs are built by the script, after the tools they need are there.
check:
	@tests/run $(TESTS)
check-programs: proxyd $(PROGRAMS)

torture: check-programs
	@tests/torture $(if $(SEED),-s $(SEED)) $(if $(TIME),-t $(TIME))

build/load: $(wildcard tests/bench/*.c) tests/bench/load.h build/flags
	$(CC) $(FLAGS) $(LDFLAGS) -o $@ $(filter %.c,$^) $(LDLIBS)

bench:
	@tests/bench/run

install: proxyd
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(man8dir) $(DESTDIR)$(bashcompletiondir) $(DESTDIR)$(zshcompletiondir)
	$(INSTALL) -m 755 proxyd $(DESTDIR)$(bindir)/proxyd
	$(INSTALL) -m 644 proxyd.8 $(DESTDIR)$(man8dir)/proxyd.8
	$(INSTALL) -m 644 contrib/completion/proxyd.bash $(DESTDIR)$(bashcompletiondir)/proxyd
	$(INSTALL) -m 644 contrib/completion/_proxyd $(DESTDIR)$(zshcompletiondir)/_proxyd

uninstall:
	rm -f $(DESTDIR)$(bindir)/proxyd $(DESTDIR)$(man8dir)/proxyd.8
	rm -f $(DESTDIR)$(bashcompletiondir)/proxyd $(DESTDIR)$(zshcompletiondir)/_proxyd

clean:
	rm -rf build proxyd proxyd-static

FORCE:
.PHONY: static demo torture bench check check-programs install uninstall clean FORCE
