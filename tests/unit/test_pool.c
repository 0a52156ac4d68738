/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The RAM pool: contents, sizes, memory given back, compaction; dropping from another thread. */
#include "memd/engine/pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OBJECTS 20000u

struct kept {
    uint32_t handle, bytes;
    uint8_t seed, refused;
};

static struct kept kept[OBJECTS];

static void content(uint8_t *to, const struct kept *k)
{
    for (uint32_t i = 0; i < k->bytes; i++)
        to[i] = (uint8_t)(k->seed + i * 7);
}

static void put(struct pool *p, uint32_t i, uint32_t bytes)
{
    uint8_t buf[POOL_OBJECT_MAX];

    kept[i] = (struct kept){.bytes = bytes, .seed = (uint8_t)(i * 31)};
    content(buf, &kept[i]);
    kept[i].handle = pool_put(p, buf, bytes, (struct pool_owner){.region = i % 64, .page = i});
    assert_true(kept[i].handle);
}

static void check(const struct pool *p, uint32_t i)
{
    uint8_t buf[POOL_OBJECT_MAX];
    uint32_t bytes;
    const void *is = pool_get(p, kept[i].handle, &bytes);

    content(buf, &kept[i]);
    assert_int_equal(bytes, kept[i].bytes);
    assert_memory_equal(is, buf, bytes);
}

static uint32_t size_of(uint32_t i)
{
    return 1 + i * 2654435761u % POOL_OBJECT_MAX;
}

static void keeps(void **state)
{
    struct pool *p = pool_open();
    uint64_t sum = 0;

    (void)state;
    for (uint32_t i = 0; i < OBJECTS; i++) {
        put(p, i, size_of(i));
        sum += size_of(i);
    }
    for (uint32_t i = 0; i < OBJECTS; i++)
        check(p, i);
    struct pool_counts n = pool_count(p);
    assert_int_equal(n.objects, OBJECTS);
    assert_true(n.used_bytes >= sum && n.used_bytes <= sum + OBJECTS * 72ull);
    assert_true(n.host_bytes >= n.used_bytes && n.host_bytes < n.used_bytes + n.used_bytes / 8 + (4u << 20));
    for (uint32_t i = 0; i < OBJECTS; i++)
        pool_free(p, kept[i].handle);
    n = pool_count(p);
    assert_int_equal(n.objects + n.used_bytes + n.host_bytes, 0);
    pool_close(p);
}

static uint64_t resident_kib(void)
{
    unsigned long long anon = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "re");

    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %llu", &anon) == 1)
            break;
    fclose(f);
    return anon;
}

/* Blocks that get empty are counted as long as the pool has them, and all go back, in whatever order they
 * came, beside those that stay in use. */
static void gathers(void **state)
{
    struct pool *p = pool_open();

    (void)state;
    pool_gather(NULL);
    pool_give_back(NULL);
    put(p, 0, POOL_OBJECT_MAX);
    pool_gather(p);
    pool_free(p, kept[0].handle);
    assert_true(pool_count(p).host_bytes);
    pool_give_back(p);
    assert_int_equal(pool_count(p).host_bytes, 0);
    for (uint32_t i = 0; i < OBJECTS; i++)
        put(p, i, size_of(i));
    struct pool_counts full = pool_count(p);
    uint64_t full_kib = resident_kib();
    pool_gather(p);
    for (uint32_t i = 0; i < OBJECTS; i++)
        if (i * 7 % OBJECTS >= OBJECTS / 64)
            pool_free(p, kept[i * 7 % OBJECTS].handle);
    struct pool_counts some = pool_count(p);
    pool_give_back(p);
    struct pool_counts few = pool_count(p);
    assert_int_equal(few.objects, OBJECTS / 64);
    assert_true(few.host_bytes <= some.host_bytes && some.host_bytes < few.host_bytes + (3u << 20));
    assert_true(few.host_bytes < full.host_bytes / 2);
    assert_true(full_kib - resident_kib() >= (full.host_bytes - few.host_bytes) / 1024 / 10 * 9);
    for (uint32_t i = 0; i < OBJECTS / 64; i++)
        check(p, i);
    for (uint32_t i = 0; i < OBJECTS / 64; i++)
        pool_free(p, kept[i].handle); /* at once again */
    assert_int_equal(pool_count(p).host_bytes, 0);
    for (uint32_t i = 0; i < OBJECTS; i++)
        put(p, i, size_of(i));
    for (uint32_t i = 0; i < OBJECTS; i++)
        check(p, i);
    pool_close(p);
}

static bool moved(void *ctx, struct pool_owner owner, uint32_t from, uint32_t to)
{
    (void)ctx;
    if (owner.page % 17 == 0 && !kept[owner.page].refused++) /* its owner has let go of it meanwhile */
        return false;
    assert_int_equal(kept[owner.page].handle, from);
    assert_int_equal(owner.region, owner.page % 64);
    kept[owner.page].handle = to;
    return true;
}

static void compacts(void **state)
{
    struct pool *p = pool_open();
    uint64_t left = 0;

    (void)state;
    for (uint32_t i = 0; i < OBJECTS; i++)
        put(p, i, size_of(i));
    for (uint32_t i = 0; i < OBJECTS; i++)
        if (i % 16)
            pool_free(p, kept[i].handle);
    assert_true(pool_sparse(p));
    while (pool_sparse(p) && pool_compact(p, 100, moved, NULL))
        ;
    struct pool_counts n = pool_count(p);
    assert_true(n.host_bytes < 3 * n.used_bytes);
    for (uint32_t i = 0; i < OBJECTS; i += 16) {
        check(p, i);
        left++;
    }
    assert_int_equal(n.objects, left);
    pool_close(p);
}

static _Atomic uint32_t given; /* objects before this may be dropped */

static void *drop_main(void *arg)
{
    for (uint32_t i = 0; i < OBJECTS;) {
        if (i == atomic_load(&given))
            continue;
        check(arg, i);
        pool_discard(arg, kept[i++].handle);
    }
    return NULL;
}

static void dropped_elsewhere(void **state)
{
    struct pool *p = pool_open();
    uint32_t freed = 0;
    pthread_t thread;

    (void)state;
    assert_false(pthread_create(&thread, NULL, drop_main, p));
    for (uint32_t i = 0; i < OBJECTS; i++) {
        put(p, i, size_of(i));
        atomic_store(&given, i + 1);
        if (i % 64 == 0)
            freed += pool_reap(p);
    }
    pthread_join(thread, NULL);
    freed += pool_reap(p);
    assert_int_equal(freed, OBJECTS);
    assert_int_equal(pool_count(p).host_bytes, 0);
    pool_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps),
        cmocka_unit_test(gathers),
        cmocka_unit_test(compacts),
        cmocka_unit_test(dropped_elsewhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
