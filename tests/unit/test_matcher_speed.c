/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a hash costs the daemon: CPU time and memory for a guest of 4 GiB whose pages nobody equals, which is
 * what most pages of most guests are. Hashes arrive in records of 256, pages in order.
 *
 * Times are printed; what fails the test are limits several times as high, for a machine that is busy.
 *
 * memd-test: san=no timeout=120
 */
#include "memd/daemon/matcher.h"
#include "tests/unit/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define PAGES     (1u << 20)
#define NS_MAX    400.0
#define BYTES_MAX 12.2
#define REWRITES  10u /* tenths of the guest rewritten */

static double cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static uint64_t hash_of(uint64_t n)
{
    n = (n + 1) * 0x9e3779b97f4a7c15ull;
    n ^= n >> 29;
    n *= 0xbf58476d1ce4e5b9ull;
    return (n ^ n >> 32) | 1;
}

/* Tell hashes of pages [page, page+count); returns the CPU time of the matcher alone. */
static double tell(struct world_vm *w, uint32_t page, uint32_t count, uint64_t first_hash)
{
    static _Alignas(64) uint8_t buf[sizeof(struct wire_rec_hashes) + WIRE_HASHES_MAX * sizeof(uint64_t)];
    struct wire_rec_hashes *rec = (void *)buf;
    double ns = 0;

    for (uint32_t at = page; at < page + count; at += rec->count) {
        uint32_t n = page + count - at < WIRE_HASHES_MAX ? page + count - at : WIRE_HASHES_MAX;
        *rec = (struct wire_rec_hashes){.page = at, .count = (uint16_t)n, .node = -1};
        for (uint32_t i = 0; i < n; i++) {
            rec->hash[i] = hash_of(first_hash + at + i);
            w->map->entry[at + i] = (uint64_t)wire_tag_of_hash(rec->hash[i]) << WIRE_PAGE_TAG_SHIFT;
        }
        double start = cpu_ns();
        matcher_hashes(w->region, rec);
        ns += cpu_ns() - start;
    }
    return ns;
}

static void report(const char *what, double ns, uint64_t n)
{
    print_message("%-44s %6.1f ns a page\n", what, ns / (double)n);
    assert_true(ns / (double)n < NS_MAX);
}

static void test_speed(void **state)
{
    struct world *world = world_open(1, true);
    struct index *index = &world->domain[0]->indexes[0];
    struct world_vm *a = world_vm(world, world->domain[0], PAGES, 0);

    (void)state;
    memset(a->map->entry, 0, PAGES * sizeof(uint64_t));
    report("first seen", tell(a, 0, PAGES, 0), PAGES);
    /* an entry knows 36 bits of a hash: a few pages of so many look equal, until their bytes are seen */
    assert_in_range(index->candidates.used, PAGES - 100, PAGES);
    double bytes = (double)index_bytes(index) / PAGES;
    print_message("%-44s %6.2f bytes a page\n", "memory", bytes);
    assert_true(bytes < BYTES_MAX);
    report("seen again, unchanged", tell(a, 0, PAGES, 0), PAGES);

    double ns = 0;
    for (uint32_t i = 0; i < REWRITES; i++)
        ns += tell(a, 0, PAGES / 10, (i + 2ull) * PAGES);
    report("rewritten over and over, a tenth of the guest", ns, REWRITES * (PAGES / 10));
    assert_true(index->candidates.used < PAGES * 1.5);
    bytes = (double)index_bytes(index) / PAGES;
    print_message("%-44s %6.2f bytes a page\n", "memory", bytes);

    /* frames there are: the filter in front of the index is not empty any more */
    struct frame *frames = calloc(PAGES / 8, sizeof *frames);
    for (uint32_t i = 0; i < PAGES / 8; i++) {
        frames[i].state = FRAME_LIMBO; /* found, but not to be had */
        assert_non_null(index_add(index, hash_of((1ull << 41) + i), &frames[i]));
    }
    report("seen again, beside 131072 frames", tell(a, PAGES / 2, PAGES / 2, 0), PAGES / 2);
    for (uint32_t i = 0; i < PAGES / 8; i++)
        index_remove(index, &frames[i]);
    free(frames);
    world_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_speed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
