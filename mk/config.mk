# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Compiler, flags and libraries.
#
# pkg-config is asked when a library is first linked, not when make starts: `make deps` and `make help` work on
# a machine that has nothing installed yet.

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
LD ?= ld
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config
PREFIX ?= /usr/local

VERSION := $(shell sed -n 's/^\#define MEMD_VERSION  *"\(.*\)".*/\1/p' include/memd/memd.h 2>/dev/null)

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-7s %s\n' '$(1)' '$(2)'
endif

JOBS := $(if $(findstring j,$(firstword -$(MAKEFLAGS))),,-j$(shell nproc))

# ---- trees: plain, SAN=address, SAN=thread

SAN ?=
ifeq ($(SAN),)
B ?= build
SAN_FLAGS :=
HARDEN := -D_FORTIFY_SOURCE=2 -fstack-protector-strong
else ifeq ($(SAN),address)
B ?= build/asan
SAN_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else ifeq ($(SAN),thread)
B ?= build/tsan
SAN_FLAGS := -fsanitize=thread -fno-omit-frame-pointer
ifneq ($(shell $(CC) --version 2>/dev/null | grep -c clang),0)
else
SAN_FLAGS += -Wno-tsan
endif
else
$(error SAN must be address, thread or empty)
endif

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror
CPPFLAGS_ALL := -D_GNU_SOURCE -Iinclude -I. $(CPPFLAGS)
CFLAGS_ALL := -std=gnu11 -O2 -g $(WARN) $(HARDEN) $(SAN_FLAGS) -pthread $(CFLAGS)
LDFLAGS_ALL := -pthread $(SAN_FLAGS) -Wl,--as-needed -Wl,-z,relro,-z,now $(LDFLAGS)
PIC := -fPIC -fno-semantic-interposition

# ---- libraries, by component

PKGS_engine := libxxhash liblz4 libsodium liburing numa
PKGS_common := libxxhash
PKGS_backends := jansson
PKGS_daemon := liburcu-bp liburcu-cds libxxhash numa libmicrohttpd jansson inih
PKGS_ctl := libcurl jansson
PKGS_test := cmocka liburing

# pkg_libs MODULE...: linker flags, or one clear line if a module is not installed
pkg_libs = $(if $(strip $(1)),$(shell $(PKG_CONFIG) --libs $(sort $(1)) 2>/dev/null || echo MISSING),)
libs_of = $(strip $(foreach l,$(call pkg_libs,$(foreach c,$(1),$(PKGS_$(c)))),\
	$(if $(filter MISSING,$(l)),$(error libraries for $(1) are not installed: run `make deps`),$(l))))
