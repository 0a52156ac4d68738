# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Components, libraries, programs.

# component NAME, directory: SRC_name, OBJ_name (without the files that have a main()), MAIN_name, AR_name
SRC_engine := $(wildcard memd/engine/*.c)
SRC_balloon := $(wildcard balloon-driver/device/*.c)
SRC_backends := $(wildcard balloon-driver/backends/*.c)
SRC_common := $(wildcard memd/common/*.c)
SRC_daemon := $(wildcard memd/daemon/*.c)
SRC_ctl := $(wildcard memd/ctl/*.c)
SRC_agent := $(wildcard guest-agent/*.c)
SRC_preload := $(wildcard memd/preload/*.c)
SRC_memvm := $(wildcard bench/memvm/*.c balloon-driver/guest/*.c)
SRC_mkimage := $(wildcard bench/memvm/mkimage/*.c)
SRC_benchmark := $(wildcard bench/common/*.c)
SRC_dedup := $(wildcard bench/dedup/*.c)
SRC_guests := $(wildcard bench/qemu/*.c)
SRC_pager := $(wildcard bench/pager/*.c)
SRC_inflate := $(wildcard bench/balloon/*.c)
SRC_load := $(wildcard bench/balloon/guest/*.c)
SRC_policysim := $(wildcard bench/policy-sim/*.c)
SRC_examples := $(wildcard docs/examples/*.c)
COMPONENTS := engine balloon backends common daemon ctl agent preload memvm mkimage benchmark dedup guests pager inflate load policysim

TEST_DIRS := $(patsubst %/,%,$(sort $(dir $(wildcard tests/*/*.c))))
SRC_tests := $(foreach d,$(TEST_DIRS),$(wildcard $(d)/*.c))

HAVE_MAIN := $(shell grep -lE '^(int|void) main\>' /dev/null $(foreach c,$(COMPONENTS),$(SRC_$(c))) $(SRC_tests))

define component
MAIN_$(1) := $$(patsubst %.c,$$(B)/obj/%.o,$$(filter $$(HAVE_MAIN),$$(SRC_$(1))))
OBJ_$(1) := $$(patsubst %.c,$$(B)/obj/%.o,$$(filter-out $$(HAVE_MAIN),$$(SRC_$(1))))
AR_$(1) := $$(B)/obj/$(1).a
$$(AR_$(1)): $$(OBJ_$(1)) $$(B)/obj/list.$(1)
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@ && $$(AR) rcs $$@ $$(filter %.o,$$^)
# the list of objects is a prerequisite, so that a deleted source leaves the archive too
$$(B)/obj/list.$(1): FORCE
	@mkdir -p $$(@D)
	@echo '$$(OBJ_$(1))' | cmp -s - $$@ || echo '$$(OBJ_$(1))' >$$@
endef
$(foreach c,$(COMPONENTS),$(eval $(call component,$(c))))

.PHONY: FORCE
FORCE:

# ---- objects

$(OBJ_engine) $(OBJ_balloon) $(OBJ_common): OBJ_FLAGS := $(PIC)
$(MAIN_load): OBJ_FLAGS := -fno-tree-vectorize
$(OBJ_agent) $(MAIN_agent): OBJ_FLAGS := -Os -ffunction-sections -fdata-sections
$(OBJ_preload): OBJ_FLAGS := $(PIC) -fvisibility=hidden
$(B)/obj/%.o: %.c $(B)/obj/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(OBJ_FLAGS) -MMD -MP -c -o $@ $<

$(B)/obj/memd/common/hash_avx2.o: CFLAGS_ALL += -mavx2

# read what guests write meanwhile, see there
ifeq ($(SAN),thread)
UNWATCHED := $(patsubst %,$(B)/obj/memd/%.o,engine/bytes common/hash common/hash_avx2)
$(UNWATCHED): CFLAGS_ALL += -fno-sanitize=thread -DMEMD_UNWATCHED -fno-tree-loop-distribute-patterns
endif

# changed flags or another compiler rebuild everything
FLAGS_NOW := $(shell $(CC) -dumpfullversion -dumpversion 2>/dev/null) $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL)
$(B)/obj/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' >$@

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

# ---- libmemd: what is exported is memd_*, in the shared library and in the archive

SONAME := libmemd.so.0
$(B)/libmemd.so.$(VERSION): $(AR_engine) $(AR_balloon) $(AR_common) mk/libmemd.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(LDFLAGS_ALL) $(if $(SAN),,-Wl$(,)-z$(,)defs) -Wl,-soname,$(SONAME) \
		-Wl,--version-script=mk/libmemd.map -o $@ \
		-Wl,--whole-archive $(AR_engine) $(AR_balloon) $(AR_common) -Wl,--no-whole-archive $(call libs_of,engine common)

$(B)/$(SONAME) $(B)/libmemd.so: $(B)/libmemd.so.$(VERSION)
	$(Q)ln -sf $(<F) $@

$(B)/libmemd.a: $(AR_engine) $(AR_balloon) $(AR_common)
	$(call say,AR,$@)
	$(Q)$(LD) -r -o $(B)/obj/libmemd.o --whole-archive $^
	$(Q)$(OBJCOPY) -w --keep-global-symbol='memd_*' $(B)/obj/libmemd.o
	$(Q)rm -f $@ && $(AR) rcs $@ $(B)/obj/libmemd.o

# ---- libmemd-preload: the engine behind hooks. What the engine calls by these names is in memd/preload/wrap.c.
# Not built with sanitizers: theirs has to be the first library of a program, and has hooks of its own.

WRAPPED := mmap munmap mremap madvise mprotect malloc calloc realloc free pthread_create \
	numa_available numa_num_configured_nodes \
	open socket eventfd memfd_create pipe2 recvmsg ioctl syscall close
ifeq ($(SAN),)
$(B)/libmemd-preload.so: $(AR_preload) $(AR_engine) $(AR_common) mk/preload.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(LDFLAGS_ALL) -Wl$(,)-z$(,)defs $(WRAPPED:%=-Wl$(,)--wrap=%) -o $@ \
		-Wl,--whole-archive $(AR_preload) -Wl,--no-whole-archive $(AR_engine) $(AR_common) -Wl,--version-script=mk/preload.map $(call libs_of,engine common)
PRELOAD := $(B)/libmemd-preload.so
endif

, := ,
LIBRARIES := $(B)/libmemd.a $(B)/libmemd.so $(B)/$(SONAME) $(PRELOAD)

# ---- programs: program PATH, component, archives, library components

define program
ifneq ($$(MAIN_$(2)),)
PROGRAMS += $(1)
endif
$(1): $$(MAIN_$(2)) $$(AR_$(2)) $(3)
	$$(call say,LD,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(LDFLAGS_ALL) -o $$@ $$(MAIN_$(2)) $$(AR_$(2)) $(3) $$(call libs_of,$(4)) -lm
endef
$(eval $(call program,$(B)/memd,daemon,$(AR_backends) $(AR_common),daemon backends))
$(eval $(call program,$(B)/memctl,ctl,,ctl))
$(eval $(call program,$(B)/memvm,memvm,$(B)/libmemd.a,engine))
$(eval $(call program,$(B)/mkimage,mkimage,,))
$(eval $(call program,$(B)/bench/dedup,dedup,$(AR_benchmark) $(AR_mkimage) $(B)/libmemd.a,engine))
$(eval $(call program,$(B)/bench/qemu,guests,$(AR_benchmark),))
$(eval $(call program,$(B)/bench/pager,pager,$(AR_benchmark) $(AR_mkimage) $(B)/libmemd.a,engine))
$(eval $(call program,$(B)/bench/balloon,inflate,$(AR_benchmark) $(B)/libmemd.a,engine))
$(eval $(call program,$(B)/bench/policy-sim,policysim,$(AR_daemon) $(AR_backends),daemon))

# not with the archive: there are the hooks
PROGRAMS += $(B)/memd-run
$(B)/memd-run: $(MAIN_preload)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^

# one file that runs in any guest; with sanitizers it cannot be static
PROGRAMS += $(B)/memd-agent
$(B)/memd-agent: $(MAIN_agent) $(AR_agent) $(AR_common)
	$(call say,LD,$@)
	$(Q)$(CC) $(if $(SAN),,-static) $(LDFLAGS_ALL) -Wl,--gc-sections -o $@ $^

# the same: what guests of bench/balloon do
PROGRAMS += $(B)/bench/guest/load
$(B)/bench/guest/load: $(MAIN_load)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(if $(SAN),,-static) $(LDFLAGS_ALL) -o $@ $^

# short names: make memd, make memvm, ...
.PHONY: memd memctl memd-agent memvm mkimage libmemd
memd memctl memd-agent memvm mkimage: %: $(B)/%
libmemd: $(LIBRARIES)

# ---- the guest payload of memvm

-include bench/memvm/payload/payload.mk
$(B)/obj/bench/memvm/payload_guest.o: CPPFLAGS_ALL += $(PAYLOAD_CPPFLAGS)
$(B)/obj/bench/memvm/payload_guest.o: $(PAYLOAD_BIN)

# ---- examples: as an embedder would build them, installed headers and libmemd only

EXAMPLES := $(patsubst docs/examples/%.c,$(B)/examples/%,$(SRC_examples))
$(B)/examples/%: docs/examples/%.c $(B)/libmemd.a include/memd/memd.h $(B)/obj/flags
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -D_GNU_SOURCE -Iinclude $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $< $(B)/libmemd.a $(call libs_of,engine)
