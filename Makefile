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

.PHONY: all demo bench-dedup lint format deps clean help

all: $(LIBRARIES) $(PROGRAMS) $(EXAMPLES)

demo:
	$(Q)tools/deps.sh build
	$(Q)$(MAKE) --no-print-directory $(JOBS) all
	$(Q)bench/demo/demo.sh --build-dir $(B) $(DEMO_ARGS)

bench-dedup:
	$(Q)tools/deps.sh build
	$(Q)$(MAKE) --no-print-directory $(JOBS) all
	$(Q)mkdir -p $(B)/bench
	$(Q)$(B)/bench/dedup $(BENCH_ARGS)

lint:
	$(Q)tools/deps.sh build test lint
	$(Q)tests/lint/lint.sh --build-dir $(B) $(LINT_ARGS)

format:
	$(Q)clang-format -i $$(git ls-files -co --exclude-standard '*.c' '*.h')

deps:
	$(Q)tools/deps.sh build test lint

# of a directory given with B= only what is memd's is taken away
clean:
ifeq ($(B),build)
	$(Q)rm -rf build
else ifneq ($(wildcard $(B)/obj/flags),)
	$(Q)rm -rf $(addprefix $(B)/,obj bench examples tests asan tsan clang)
	$(Q)rm -f $(LIBRARIES) $(B)/libmemd.so.$(VERSION) $(PROGRAMS) $(PAYLOAD_BIN:.bin=.*) $(addprefix $(B)/,demo.json lint-summary)
	$(Q)rmdir --ignore-fail-on-non-empty $(B)
endif

help:
	@sed -n 's/^#: //p' Makefile mk/*.mk

#: make [all]          libmemd (.a, .so), memd, memctl, memvm, mkimage, the benchmark and the examples
#: make demo           build, then run eight guests under memd and watch their memory shrink (under 90 s)
#: make check          all tests, scaled to a quarter of an hour
#: make check-long     the same tests at full counts
#: make check-asan     the tests under AddressSanitizer and UBSan
#: make check-tsan     the tests under ThreadSanitizer
#: make bench-dedup    memd and the kernel's KSM side by side; build/bench/dedup.json
#: make lint           formatting, static analysis, header and layering checks
#: make format         clang-format over all C files
#: make deps           check for the Debian packages needed; as root, install those missing
#: make install        into DESTDIR and PREFIX (/usr/local); `make uninstall` takes it away
#: make clean          remove what was built
#:
#: Variables: V=1 (show commands), SAN=address|thread (instrumented tree), CC=clang, B=DIR (build directory),
#:            TESTS="name ..." (run only tests whose name contains one of these), MEMD_TEST_SCALE=0.1
