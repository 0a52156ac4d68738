# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Tests. tests/DIR/NAME.c with a main() is one program; files without one are helpers, linked into every
# program of their directory. A program is linked with the archives of the components whose headers it (or a
# helper of its directory) includes, and with memd/common. Shell tests are run where they lie.

.PHONY: check check-asan check-tsan check-long tests fuzz-balloon fuzz-agent

TEST_PROGRAMS :=

# test_uses COMPONENT, path pattern of its headers: the test sources that include one of them
USES_engine := $(if $(SRC_tests),$(shell grep -lE '"(memd/engine/|memd/memd\.h)' /dev/null $(SRC_tests)))
USES_balloon := $(if $(SRC_tests),$(shell grep -lE '"(balloon-driver/device/|memd/balloon\.h)' /dev/null $(SRC_tests)))
# the daemon's own users need them, too
USES_backends := $(if $(SRC_tests),$(shell grep -lE '"(memd/daemon/|balloon-driver/backends/)' /dev/null $(SRC_tests)))
USES_daemon := $(if $(SRC_tests),$(shell grep -lE '"memd/daemon/' /dev/null $(SRC_tests)))
USES_ctl := $(if $(SRC_tests),$(shell grep -lE '"memd/ctl/' /dev/null $(SRC_tests)))
USES_agent := $(if $(SRC_tests),$(shell grep -lE '"guest-agent/' /dev/null $(SRC_tests)))
USES_memvm := $(if $(SRC_tests),$(shell grep -lE '"bench/memvm/[a-z_]+\.h' /dev/null $(SRC_tests)))
USES_mkimage := $(if $(SRC_tests),$(shell grep -lE '"bench/memvm/mkimage/' /dev/null $(SRC_tests)))
USES_dedup := $(if $(SRC_tests),$(shell grep -lE '"bench/dedup/' /dev/null $(SRC_tests)))
USES_inflate := $(if $(SRC_tests),$(shell grep -lE '"bench/balloon/' /dev/null $(SRC_tests)))
USES_benchmark := $(if $(SRC_tests),$(shell grep -lE '"bench/common/' /dev/null $(SRC_tests)))
USES_test := $(if $(SRC_tests),$(shell grep -lE '<(cmocka|liburing)\.h>' /dev/null $(SRC_tests)))
USES_common := $(SRC_tests)

# test_program SOURCE, helper sources of its directory
define test_program
T_USES := $(strip $(foreach c,memvm mkimage dedup inflate benchmark ctl agent daemon backends engine balloon common test,$(if $(filter $(1) $(2),$(USES_$(c))),$(c))))
TEST_PROGRAMS += $(B)/$(1:.c=)
$(B)/$(1:.c=): T_USES := $$(T_USES)
$(B)/$(1:.c=): $(patsubst %.c,$(B)/obj/%.o,$(1) $(2)) $$(foreach c,$$(T_USES),$$(AR_$$(c)))
	$$(call say,LD,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS_ALL) -o $$@ $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group \
		$$(call libs_of,$$(T_USES)) -lm
endef
$(foreach d,$(TEST_DIRS),$(foreach s,$(filter $(HAVE_MAIN),$(wildcard $(d)/*.c)),\
	$(eval $(call test_program,$(s),$(filter-out $(HAVE_MAIN),$(wildcard $(d)/*.c))))))

tests: $(TEST_PROGRAMS)

RUN_TESTS = tests/run.sh --build-dir $(B)

check:
	$(Q)tools/deps.sh build test guest
	$(Q)$(MAKE) --no-print-directory $(JOBS) all tests
	$(Q)MEMD_TEST_SCALE=$${MEMD_TEST_SCALE:-0.1} $(RUN_TESTS) $(TESTS)

check-long:
	$(Q)tools/deps.sh build test guest
	$(Q)$(MAKE) --no-print-directory $(JOBS) all tests
	$(Q)MEMD_TEST_SCALE=1 $(RUN_TESTS) $(TESTS)

check-asan:
	$(Q)tools/deps.sh build test guest
	$(Q)$(MAKE) --no-print-directory $(JOBS) SAN=address B=$(B)/asan all tests
	$(Q)MEMD_TEST_SCALE=$${MEMD_TEST_SCALE:-0.02} tests/run.sh --build-dir $(B)/asan --san address $(TESTS)

check-tsan:
	$(Q)tools/deps.sh build test guest
	$(Q)$(MAKE) --no-print-directory $(JOBS) SAN=thread B=$(B)/tsan all tests
	$(Q)MEMD_TEST_SCALE=$${MEMD_TEST_SCALE:-0.02} tests/run.sh --build-dir $(B)/tsan --san thread $(TESTS)

# ---- libFuzzer over a target of tests/fuzz, for FUZZ_S seconds; what it finds is added to build/fuzz/corpus

FUZZ_S ?= 60
FUZZ_SRC_balloon := tests/fuzz/test_balloon.c $(SRC_balloon)
FUZZ_SRC_agent := tests/fuzz/test_agent.c guest-agent/talk.c memd/common/agent_codec.c memd/daemon/agent_peer.c

$(B)/fuzz/%: tests/fuzz/test_%.c FORCE
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)clang $(CPPFLAGS_ALL) -DFUZZ_LIBFUZZER -std=gnu11 -O1 -g $(WARN) -pthread \
		-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -o $@ $(FUZZ_SRC_$*)

fuzz-balloon fuzz-agent: fuzz-%: $(B)/fuzz/%
	@mkdir -p $(B)/fuzz/corpus/$*
	$(Q)$(B)/fuzz/$* -max_total_time=$(FUZZ_S) -max_len=4096 -artifact_prefix=$(B)/fuzz/ $(B)/fuzz/corpus/$* tests/fuzz/corpus/$*
