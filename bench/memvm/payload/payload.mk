# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Builds memvm's guest payload: $(PAYLOAD_BIN), which bench/memvm/payload_guest.c takes in with .incbin.
# Wants: B (build directory), CC, OBJCOPY, Q and say (mk/config.mk). The object of payload_guest.c needs
# $(PAYLOAD_CPPFLAGS) and depends on $(PAYLOAD_BIN). Sanitizers must not touch the payload: it has no C library
# under it.

OBJCOPY ?= objcopy
PAYLOAD_BIN := $(B)/memvm-payload.bin
PAYLOAD_CPPFLAGS := -DMEMVM_PAYLOAD_BIN='"$(PAYLOAD_BIN)"'
PAYLOAD_SRC := $(wildcard bench/memvm/payload/*.c balloon-driver/guest/*.c)
PAYLOAD_CFLAGS := -std=gnu11 -O2 -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror -I. \
	-ffreestanding -fno-builtin -fno-pic -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
	-fcf-protection=none -fno-delete-null-pointer-checks -mno-red-zone -mgeneral-regs-only

$(B)/memvm-payload.elf: $(PAYLOAD_SRC) bench/memvm/payload/payload.ld \
	$(wildcard bench/memvm/payload/*.h balloon-driver/guest/*.h)
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(PAYLOAD_CFLAGS) -nostdlib -static -Wl,--build-id=none \
		-Wl,-T,bench/memvm/payload/payload.ld -o $@ $(PAYLOAD_SRC)

$(PAYLOAD_BIN): $(B)/memvm-payload.elf
	$(Q)$(OBJCOPY) -O binary -j .payload $< $@
