/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's image, taken in whole from the file payload/payload.mk builds, so that memvm is one file and
 * needs nothing beside it at run time.
 */
#include "bench/memvm/payload_guest.h"

#ifndef MEMVM_PAYLOAD_BIN
#define MEMVM_PAYLOAD_BIN "memvm-payload.bin" /* in one of the assembler's include directories */
#endif

__asm__(".pushsection .rodata\n"
        ".globl payload_guest, payload_guest_end\n"
        ".balign 16\n"
        "payload_guest:\n"
        ".incbin \"" MEMVM_PAYLOAD_BIN "\"\n"
        "payload_guest_end:\n"
        ".popsection\n");
