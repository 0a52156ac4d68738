/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The payload as the flat image the guest runs: bytes [payload_guest, payload_guest_end), for ABI_CODE_OFF.
 */
#ifndef MEMVM_PAYLOAD_GUEST_H
#define MEMVM_PAYLOAD_GUEST_H

#include <stdint.h>

extern const uint8_t payload_guest[], payload_guest_end[];

#endif
