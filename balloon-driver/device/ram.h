/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest RAM as the balloon device sees it: parts, sorted by address. Fixed once the device exists. */
#ifndef BALLOON_DEVICE_RAM_H
#define BALLOON_DEVICE_RAM_H

#include <stdbool.h>
#include <stdint.h>

#include "memd/balloon.h"

struct ram_part {
    uint64_t gpa, bytes;
    uint8_t *hva;
    uint64_t page_bytes;
    unsigned number; /* the embedder's */
    uint64_t *taken; /* a bit for each 4 KiB page in the balloon; NULL if page_bytes is 4096. Under `work`. */
};

struct ram {
    unsigned n;
    struct ram_part part[MEMD_BALLOON_RAM_MAX];
    uint64_t bytes;
};

/* 0; -EINVAL; -ENOMEM. */
int ram_init(struct ram *ram, const struct memd_balloon_ram *parts, unsigned n);
void ram_free(struct ram *ram);
/* No page is in the balloon any more. */
void ram_forget_taken(struct ram *ram);

/* The part that holds this address; NULL: none. */
struct ram_part *ram_find(struct ram *ram, uint64_t gpa);
/* A pointer to [gpa, gpa+bytes) if that lies in one part, else NULL. */
void *ram_pointer(struct ram *ram, uint64_t gpa, uint64_t bytes);

#endif
