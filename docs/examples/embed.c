/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * embed: the smallest program that puts its memory under memd.
 *
 * It stands for a VMM: it maps "guest RAM", hands it to an engine, fills it so that every page equals another
 * or is zero, waits, and prints what became of it; then it checks every byte and takes the memory back. With
 * a memd daemon running (MEMD_RUN_DIR, or /run/memd) duplicates are merged; without one, zero pages are still
 * dropped.
 *
 * Build: cc embed.c $(pkg-config --cflags --libs memd)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memd/memd.h>

#define GUEST_BYTES    (64ul << 20)
#define WAIT_S_MAX     15
#define CLOSE_MS       5000
#define CONTENTS       256 /* different pages, each many times over */
#define ZERO_EVERY_NTH 2

static unsigned char byte_of_page(size_t page)
{
    return page % ZERO_EVERY_NTH == 0 ? 0 : (unsigned char)(1 + page % (CONTENTS - 1));
}

static void guest_fill(unsigned char *ram)
{
    for (size_t page = 0; page < GUEST_BYTES / MEMD_PAGE_BYTES; page++)
        memset(ram + page * MEMD_PAGE_BYTES, byte_of_page(page), MEMD_PAGE_BYTES);
}

static size_t guest_count_wrong(const unsigned char *ram)
{
    size_t wrong = 0;
    for (size_t i = 0; i < GUEST_BYTES; i++)
        wrong += ram[i] != byte_of_page(i / MEMD_PAGE_BYTES);
    return wrong;
}

static int fail(const char *what, int error)
{
    fprintf(stderr, "embed: %s: %s\n", what, strerror(-error));
    return EXIT_FAILURE;
}

int main(void)
{
    /* a mapping aligned to a huge page, as VMMs do for guest RAM */
    unsigned char *map = mmap(NULL, GUEST_BYTES + MEMD_CHUNK_BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        perror("embed: mmap");
        return EXIT_FAILURE;
    }
    unsigned char *ram = map + (-(uintptr_t)map & (MEMD_CHUNK_BYTES - 1));

    struct memd *memd;
    struct memd_options options = {.size = sizeof options, .name = "embed-example"};
    int r = memd_open(&options, &memd);
    if (r < 0)
        return fail("memd_open", r);

    uint32_t region;
    struct memd_region_desc desc = {
        .size = sizeof desc, .hva = ram, .bytes = GUEST_BYTES, .node = -1, .name = "ram"};
    r = memd_region_add(memd, &desc, &region);
    if (r < 0)
        return fail("memd_region_add", r);

    guest_fill(ram);

    struct memd_stats stats = {.size = sizeof stats};
    for (int s = 0; s < WAIT_S_MAX; s++) {
        sleep(1);
        r = memd_stats(memd, &stats);
        if (r < 0)
            return fail("memd_stats", r);
        printf("%2d s: %s, zero %" PRIu64 ", merged %" PRIu64 " of %lu pages\n", s + 1,
               stats.connected ? "connected" : "no daemon", stats.zero_pages, stats.merged_pages,
               GUEST_BYTES / MEMD_PAGE_BYTES);
        if ((stats.zero_pages + stats.merged_pages) * MEMD_PAGE_BYTES >= GUEST_BYTES / 100 * 99)
            break;
    }

    size_t wrong = guest_count_wrong(ram);
    printf("%zu bytes differ from what was written\n", wrong);

    r = memd_close(memd, CLOSE_MS); /* everything is plain private memory again */
    if (r < 0)
        return fail("memd_close", r);
    munmap(map, GUEST_BYTES + MEMD_CHUNK_BYTES);
    return wrong ? EXIT_FAILURE : EXIT_SUCCESS;
}
