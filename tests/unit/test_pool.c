/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The RAM pool: contents, sizes, memory given back, compaction; dropping from another thread. */
#include "memd/engine/pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
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
        cmocka_unit_test(compacts),
        cmocka_unit_test(dropped_elsewhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
