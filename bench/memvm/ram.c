/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: RAM is one mapping, aligned to 2 MiB so that huge pages and chunks are whole, and
 * split into segments only by guest-physical address: 3 GiB to 4 GiB stays free for MMIO. The advice is
 * QEMU's: huge pages and no inheritance by forked helpers. The data pages start behind the table, which has
 * an entry for each of them.
 */
#include "bench/memvm/ram.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "bench/memvm/payload/abi.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define HOLE_START (3ull << 30)
#define HOLE_END   (4ull << 30)

static void layout(struct ram *ram)
{
    uint64_t npages = ram->bytes / ABI_PAGE_BYTES;
    uint64_t table_end = ABI_TABLE_OFF + npages * sizeof(struct abi_entry); /* a little more than it needs */
    uint64_t data_off = (table_end + ABI_DATA_ALIGN - 1) / ABI_DATA_ALIGN * ABI_DATA_ALIGN;
    uint64_t low = ram->bytes < HOLE_START ? ram->bytes : HOLE_START;

    ram->data_first = data_off / ABI_PAGE_BYTES;
    ram->data_pages = npages - ram->data_first;
    ram->nsegments = 1;
    ram->segment[0] = (struct ram_segment){.offset = 0, .gpa = 0, .bytes = low};
    if (ram->bytes > low) {
        ram->nsegments = 2;
        ram->segment[1] = (struct ram_segment){.offset = low, .gpa = HOLE_END, .bytes = ram->bytes - low};
    }
}

/* Advice is a wish, but a benchmark that did not get it measures something else: a failure is an error. */
static int advise(const struct ram *ram, int advice, const char *what)
{
    if (madvise(ram->base, ram->bytes, advice) == 0)
        return 0;
    int error = -errno;
    fprintf(stderr, "memvm: %s: %s\n", what, strerror(-error));
    return error;
}

static int advise_all(const struct ram *ram, const struct options *options)
{
    int error = 0;

    /* A kernel built without huge pages refuses the advice, and there is nothing to turn off in it. */
    if (options->thp)
        error = advise(ram, MADV_HUGEPAGE, "the kernel has no transparent huge pages (try --thp off)");
    else
        madvise(ram->base, ram->bytes, MADV_NOHUGEPAGE);
    if (!error && options->dontfork)
        error = advise(ram, MADV_DONTFORK, "MADV_DONTFORK");
    if (!error && options->mergeable)
        error = advise(ram, MADV_MERGEABLE, "the kernel has no KSM (CONFIG_KSM)");
    if (!error && options->prealloc)
        error = advise(ram, MADV_POPULATE_WRITE, "populating guest RAM (a smaller --mem?)");
    return error;
}

int ram_create(const struct options *options, struct ram *ret_ram)
{
    struct ram ram = {.bytes = options->mem_mib * OPTIONS_MEBIBYTE};
    int error;

    ram.map_bytes = ram.bytes + ABI_DATA_ALIGN;
    ram.map =
        mmap(NULL, ram.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram.map == MAP_FAILED) {
        error = -errno;
        fprintf(stderr, "memvm: %llu MiB of guest RAM: %s\n", (unsigned long long)options->mem_mib,
                strerror(-error));
        return error;
    }
    ram.base = (uint8_t *)(((uintptr_t)ram.map + ABI_DATA_ALIGN - 1) / ABI_DATA_ALIGN * ABI_DATA_ALIGN);
    layout(&ram);
    error = advise_all(&ram, options);
    if (error) {
        ram_destroy(&ram);
        return error;
    }
    *ret_ram = ram;
    return 0;
}

void ram_destroy(struct ram *ram)
{
    munmap(ram->map, ram->map_bytes);
}
