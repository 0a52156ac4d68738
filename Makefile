# SPDX-License-Identifier: LGPL-2.1-or-later
#
# memd's build. `make help` lists the targets.
#
# Sources are found by directory: a new .c file in a component's directory is built without a change here. Every
# component becomes an archive of all its objects but the ones with a main(); programs and tests link the
# archives they use. A component that does not build stops only what uses it.
#
#   mk/config.mk    compiler, flags, libraries
#   mk/build.mk     rules and components
#   mk/tests.mk     test programs and `check*`
#   mk/install.mk   install, uninstall
#   tools/packages.txt   the Debian packages all this needs

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

include mk/config.mk
ifeq ($(realpath $(B)),$(CURDIR))
$(error B names where to build, which cannot be the source directory)
endif
include mk/build.mk
include mk/tests.mk
include mk/install.mk

.PHONY: all demo bench-dedup bench-qemu bench-pager bench-balloon lint format deps clean help

all: $(LIBRARIES) $(PROGRAMS) $(EXAMPLES)

# without the packages of the Linux guests it does without them
demo:
	$(Q)tools/deps.sh build
	$(Q)tools/deps.sh guest || :
	$(Q)$(MAKE) --no-print-directory $(JOBS) all $(B)/tests/qemu/talk
	$(Q)bench/demo/demo.sh --build-dir $(B) $(DEMO_ARGS)

bench-dedup:
	$(Q)tools/deps.sh build
	$(Q)$(MAKE) --no-print-directory $(JOBS) all
	$(Q)mkdir -p $(B)/bench
	$(Q)$(B)/bench/dedup $(BENCH_ARGS)

bench-qemu:
	$(Q)tools/deps.sh build guest
	$(Q)$(MAKE) --no-print-directory $(JOBS) all $(B)/tests/qemu/talk
	$(Q)mkdir -p $(B)/bench
	$(Q)$(B)/bench/qemu $(BENCH_ARGS)

bench-pager:
	$(Q)tools/deps.sh build
	$(Q)$(MAKE) --no-print-directory $(JOBS) all
	$(Q)mkdir -p $(B)/bench
	$(Q)$(B)/bench/pager $(BENCH_ARGS)

bench-balloon:
	$(Q)tools/deps.sh build guest
	$(Q)$(MAKE) --no-print-directory $(JOBS) all $(B)/tests/qemu/talk
	$(Q)mkdir -p $(B)/bench
	$(Q)$(B)/bench/balloon $(BENCH_ARGS)

lint:
	$(Q)tools/deps.sh build test guest lint
	$(Q)tests/lint/lint.sh --build-dir $(B) $(LINT_ARGS)

format:
	$(Q)clang-format -i $$(git ls-files -co --exclude-standard '*.c' '*.h')

deps:
	$(Q)tools/deps.sh build test guest lint

# of a directory given with B= only what is memd's is taken away
clean:
ifeq ($(B),build)
	$(Q)rm -rf build
else ifneq ($(wildcard $(B)/obj/flags),)
	$(Q)rm -rf $(addprefix $(B)/,obj bench examples tests asan tsan clang fuzz qemu-guest demo-log)
	$(Q)rm -f $(LIBRARIES) $(B)/libmemd.so.$(VERSION) $(PROGRAMS) $(PAYLOAD_BIN:.bin=.*) $(addprefix $(B)/,demo.json lint-summary)
	$(Q)rmdir --ignore-fail-on-non-empty $(B)
endif

help:
	@sed -n 's/^#: //p' Makefile mk/*.mk

#: make [all]          libmemd (.a, .so), memd, memctl, memd-run, memd-agent, memvm, mkimage, the benchmarks and the
#:                     examples
#: make demo           build, then run Linux guests in QEMU and eight KVM guests under memd and watch their memory
#:                     shrink (under two minutes)
#: make check          all tests, scaled to a quarter of an hour
#: make check-long     the same tests at full counts
#: make check-asan     the tests under AddressSanitizer and UBSan
#: make check-tsan     the tests under ThreadSanitizer
#: make fuzz-balloon   the balloon device under libFuzzer, FUZZ_S=60 seconds (wants clang)
#: make fuzz-agent     both ends of the agent's protocol, the same way
#: make bench-dedup    memd and the kernel's KSM side by side; build/bench/dedup.json
#: make bench-qemu     the same on real Linux guests in QEMU; build/bench/qemu.json
#: make bench-pager    memd and the kernel's swap (zram, files) side by side; build/bench/pager.json
#: make bench-balloon  memory that guests give up: memd, QEMU's device, MOM's rules; build/bench/balloon.json
#: make lint           formatting, static analysis, header and layering checks
#: make format         clang-format over all C files
#: make deps           check for the Debian packages needed; as root, install those missing
#: make install        into DESTDIR and PREFIX (/usr/local); `make uninstall` takes it away
#: make clean          remove what was built
#:
#: Variables: V=1 (show commands), SAN=address|thread (instrumented tree), CC=clang, B=DIR (build directory),
#:            TESTS="name ..." (run only tests whose name contains one of these), MEMD_TEST_SCALE=0.1
