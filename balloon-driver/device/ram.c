/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: a sorted table of parts and a binary search. Sums are never formed before they are
 * known to fit: addresses come from the guest.
 */
#include "balloon-driver/device/ram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool part_ok(const struct memd_balloon_ram *part)
{
    uint64_t page_bytes = part->page_bytes ? part->page_bytes : MEMD_BALLOON_PAGE_BYTES;

    return part->hva && part->bytes && page_bytes >= MEMD_BALLOON_PAGE_BYTES &&
           (page_bytes & (page_bytes - 1)) == 0 && part->gpa % page_bytes == 0 &&
           part->bytes % page_bytes == 0 && part->gpa <= UINT64_MAX - part->bytes;
}

static int by_gpa(const void *a, const void *b)
{
    const struct ram_part *x = a, *y = b;

    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

static size_t taken_bytes(const struct ram_part *part)
{
    return (size_t)((part->bytes / MEMD_BALLOON_PAGE_BYTES + 63) / 64 * sizeof(uint64_t));
}

int ram_init(struct ram *ram, const struct memd_balloon_ram *parts, unsigned n)
{
    *ram = (struct ram){0};
    if (!parts || n == 0 || n > MEMD_BALLOON_RAM_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++) {
        if (!part_ok(&parts[i]))
            return -EINVAL;
        ram->part[i] = (struct ram_part){
            .gpa = parts[i].gpa,
            .bytes = parts[i].bytes,
            .hva = parts[i].hva,
            .page_bytes = parts[i].page_bytes ? parts[i].page_bytes : MEMD_BALLOON_PAGE_BYTES,
            .number = i,
        };
        ram->bytes += parts[i].bytes;
    }
    qsort(ram->part, n, sizeof ram->part[0], by_gpa);
    for (unsigned i = 1; i < n; i++) {
        if (ram->part[i].gpa < ram->part[i - 1].gpa + ram->part[i - 1].bytes)
            return -EINVAL;
    }
    ram->n = n;
    for (unsigned i = 0; i < n; i++) {
        struct ram_part *part = &ram->part[i];
        if (part->page_bytes == MEMD_BALLOON_PAGE_BYTES)
            continue;
        part->taken = calloc(1, taken_bytes(part));
        if (!part->taken) {
            ram_free(ram);
            return -ENOMEM;
        }
    }
    return 0;
}

void ram_free(struct ram *ram)
{
    for (unsigned i = 0; i < ram->n; i++)
        free(ram->part[i].taken);
    ram->n = 0;
}

void ram_forget_taken(struct ram *ram)
{
    for (unsigned i = 0; i < ram->n; i++) {
        if (ram->part[i].taken)
            memset(ram->part[i].taken, 0, taken_bytes(&ram->part[i]));
    }
}

struct ram_part *ram_find(struct ram *ram, uint64_t gpa)
{
    unsigned low = 0, high = ram->n;

    while (low < high) {
        unsigned middle = (low + high) / 2;
        struct ram_part *part = &ram->part[middle];
        if (gpa < part->gpa)
            high = middle;
        else if (gpa - part->gpa < part->bytes)
            return part;
        else
            low = middle + 1;
    }
    return NULL;
}

void *ram_pointer(struct ram *ram, uint64_t gpa, uint64_t bytes)
{
    struct ram_part *part = ram_find(ram, gpa);

    if (!part || bytes > part->bytes - (gpa - part->gpa))
        return NULL;
    return part->hva + (gpa - part->gpa);
}
