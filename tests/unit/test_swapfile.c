/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The swap file by itself: records come back as they were; every byte of a cluster flipped in turn, moved and
 * stale records, a file cut short: never served; slots and space are used again; limits.
 */
#include "memd/engine/swapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define CLUSTER 65536
#define RECORDS 24u

struct bench {
    struct swapfile *file;
    int fd, wake;
    uint32_t slot[RECORDS];
    unsigned ended, failed;
};

static uint32_t size_of(uint32_t i)
{
    return i == 5 ? SWAP_CONTENT_MAX : 100 + i * 97;
}

static void content(uint32_t i, uint8_t *to)
{
    for (uint32_t k = 0; k < size_of(i); k++)
        to[k] = (uint8_t)(i * 31 + k * 7);
}

static void on_written(void *ctx, struct swap_owner owner, uint32_t slot, int error)
{
    struct bench *b = ctx;

    (void)owner, (void)slot;
    b->ended++;
    b->failed += error != 0;
}

static void settle(struct bench *b)
{
    uint64_t n;

    swapfile_flush(b->file);
    while (swapfile_reap(b->file, on_written, b)) {
        ssize_t ignored = read(b->wake, &n, sizeof n);
        (void)ignored;
    }
}

static int bench_open(void **state)
{
    static struct bench b;
    char path[] = "test_swapfile.XXXXXX";

    b = (struct bench){.fd = mkstemp(path), .wake = eventfd(0, EFD_CLOEXEC)};
    unlink(path);
    int fd = dup(b.fd);
    assert_true(b.fd >= 0 && fd >= 0 && b.wake >= 0);
    assert_int_equal(swapfile_open(fd, 4 * CLUSTER, b.wake, &b.file), 0);
    *state = &b;
    return 0;
}

static int bench_close(void **state)
{
    struct bench *b = *state;

    swapfile_close(b->file);
    close(b->fd);
    close(b->wake);
    return 0;
}

static void write_records(struct bench *b)
{
    uint8_t buf[SWAP_CONTENT_MAX], page[4096] = {0};

    for (uint32_t i = 0; i < RECORDS; i++) {
        content(i, buf);
        page[0] = (uint8_t)i;
        struct swap_owner owner = {.page = i};
        b->slot[i] = swapfile_add(b->file, owner, buf, size_of(i), swapfile_hash(b->file, page));
        assert_true(b->slot[i]);
    }
    settle(b);
}

static int read_record(struct bench *b, uint32_t i)
{
    uint8_t buf[SWAP_CONTENT_MAX], is[SWAP_CONTENT_MAX];
    struct swap_where w = swapfile_where(b->file, b->slot[i]);

    memset(is, 0xee, sizeof is);
    int err = swapfile_read(b->file, &w, is);
    content(i, buf);
    if (!err)
        assert_memory_equal(is, buf, size_of(i));
    else /* nothing of it is given out */
        assert_memory_not_equal(is, buf, size_of(i));
    return err;
}

static void round_trip(void **state)
{
    struct bench *b = *state;
    uint8_t page[4096] = {0};

    write_records(b);
    assert_int_equal(b->ended, RECORDS);
    assert_int_equal(b->failed, 0);
    for (uint32_t i = 0; i < RECORDS; i++) {
        page[0] = (uint8_t)i;
        assert_int_equal(read_record(b, i), 0);
        assert_true(swapfile_is_written(b->file, b->slot[i]));
        assert_true(swapfile_holds(b->file, b->slot[i], swapfile_hash(b->file, page)));
        page[4095] ^= 1;
        assert_false(swapfile_holds(b->file, b->slot[i], swapfile_hash(b->file, page)));
        page[4095] ^= 1;
    }
}

/* Whose record the byte at this offset belongs to; RECORDS: nobody's. */
static uint32_t record_at(struct bench *b, off_t at)
{
    for (uint32_t i = 0; i < RECORDS; i++) {
        struct swap_where w = swapfile_where(b->file, b->slot[i]);
        if ((uint64_t)at >= w.offset && (uint64_t)at < w.offset + w.bytes + 16)
            return i;
    }
    return RECORDS;
}

static void every_byte_flipped(void **state)
{
    struct bench *b = *state;
    unsigned hit = 0;
    uint8_t byte;

    write_records(b);
    for (off_t at = CLUSTER; at < 2 * CLUSTER; at++) {
        uint32_t i = record_at(b, at);
        if (i == RECORDS)
            continue;
        hit++;
        assert_int_equal(pread(b->fd, &byte, 1, at), 1);
        byte ^= 1 << at % 8;
        assert_int_equal(pwrite(b->fd, &byte, 1, at), 1);
        assert_int_equal(read_record(b, i), -EBADMSG);
        byte ^= 1 << at % 8;
        assert_int_equal(pwrite(b->fd, &byte, 1, at), 1);
    }
    assert_true(hit > 30000);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(read_record(b, i), 0);
}

/* Neighbours one after the other: fewer reads, and no less is noticed. */
static void many_at_a_time(void **state)
{
    struct bench *b = *state;
    uint64_t reads = swapfile_count(b->file).reads, clusters;
    uint8_t byte;

    write_records(b);
    clusters = swapfile_where(b->file, b->slot[RECORDS - 1]).slot / 256 -
               swapfile_where(b->file, b->slot[0]).slot / 256 + 1;
    swapfile_read_many(b->file, true);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(read_record(b, i), 0);
    reads = swapfile_count(b->file).reads - reads;
    assert_true(reads <= 2 * clusters && reads < RECORDS / 2);
    for (uint32_t i = RECORDS; i-- > 0;) /* in whatever order */
        assert_int_equal(read_record(b, i), 0);
    swapfile_read_many(b->file, false);

    off_t at = (off_t)swapfile_where(b->file, b->slot[2]).offset;
    assert_int_equal(pread(b->fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(b->fd, &byte, 1, at), 1);
    swapfile_read_many(b->file, true);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(read_record(b, i), i == 2 ? -EBADMSG : 0);
    swapfile_read_many(b->file, false);
    byte ^= 1;
    assert_int_equal(pwrite(b->fd, &byte, 1, at), 1);

    /* what is left of the file is enough for its beginning */
    struct swap_where last = swapfile_where(b->file, b->slot[RECORDS / 2]);
    off_t end = (off_t)((last.offset + 4095) & ~4095ull);
    assert_int_equal(ftruncate(b->fd, end), 0);
    swapfile_read_many(b->file, true);
    for (uint32_t i = 0; i < RECORDS; i++) {
        struct swap_where w = swapfile_where(b->file, b->slot[i]);
        assert_int_equal(read_record(b, i), (off_t)(w.offset + w.bytes + 16) <= end ? 0 : -EIO);
    }
    swapfile_read_many(b->file, false);
}

static void moved_and_stale(void **state)
{
    struct bench *b = *state;
    static uint8_t old[CLUSTER];

    write_records(b);
    assert_true(pread(b->fd, old, CLUSTER, CLUSTER) > 30000);
    /* somewhere else in the file */
    struct swap_where w = swapfile_where(b->file, b->slot[3]);
    uint8_t is[SWAP_CONTENT_MAX];
    assert_int_equal(pwrite(b->fd, old, CLUSTER, 2 * CLUSTER), CLUSTER);
    w.offset += CLUSTER;
    assert_int_equal(swapfile_read(b->file, &w, is), -EBADMSG);
    /* what was there before */
    for (uint32_t i = 0; i < RECORDS; i++)
        swapfile_free(b->file, b->slot[i]);
    write_records(b);
    assert_int_equal(b->slot[0], 256); /* the same cluster again */
    assert_int_equal(pwrite(b->fd, old, CLUSTER, CLUSTER), CLUSTER);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(read_record(b, i), -EBADMSG);
    assert_int_equal(ftruncate(b->fd, CLUSTER), 0);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(read_record(b, i), -EIO);
}

static void limits(void **state)
{
    struct bench *b = *state;
    uint8_t buf[SWAP_CONTENT_MAX] = {0};
    struct swap_owner owner = {0};
    struct swap_hash hash = {{0}};
    uint32_t slots[256], n = 0, slot;

    while ((slot = swapfile_add(b->file, owner, buf, sizeof buf, hash))) {
        slots[n++] = slot;
        settle(b);
    }
    assert_int_equal(n, 4); /* flushed one by one: a cluster each */
    assert_true(swapfile_full(b->file));
    assert_int_equal(swapfile_count(b->file).file_bytes, 4 * CLUSTER);
    swapfile_free(b->file, slots[1]);
    assert_false(swapfile_full(b->file));
    assert_true(swapfile_trim(b->file));
    assert_false(swapfile_trim(b->file));
    assert_int_equal(swapfile_count(b->file).file_bytes, 3 * CLUSTER);
    assert_true(swapfile_add(b->file, owner, buf, sizeof buf, hash));
    settle(b);
    assert_true(swapfile_full(b->file));
}

static void no_more_than_allowed(void **state)
{
    struct bench *b = *state;
    uint8_t buf[SWAP_CONTENT_MAX] = {0};
    struct swap_owner owner = {0};
    struct swap_hash hash = {{0}};
    uint64_t written = 0;

    assert_false(swapfile_spent(b->file));
    swapfile_allow(b->file, CLUSTER - 1);
    assert_true(swapfile_spent(b->file));
    assert_false(swapfile_full(b->file));
    assert_int_equal(swapfile_add(b->file, owner, buf, sizeof buf, hash), 0);
    /* what a cluster does not need may still be written */
    swapfile_allow(b->file, CLUSTER + 8192);
    assert_true(swapfile_add(b->file, owner, buf, sizeof buf, hash));
    assert_false(swapfile_spent(b->file)); /* the cluster that was begun goes on */
    assert_true(swapfile_add(b->file, owner, buf, 100, hash));
    settle(b);
    written = swapfile_count(b->file).written_bytes;
    assert_true(written == 8192);
    assert_false(swapfile_spent(b->file));
    assert_true(swapfile_add(b->file, owner, buf, 100, hash));
    settle(b);
    assert_true(swapfile_spent(b->file));
    assert_int_equal(swapfile_add(b->file, owner, buf, 100, hash), 0);
    swapfile_allow(b->file, UINT64_MAX);
    assert_true(swapfile_add(b->file, owner, buf, 100, hash));
    settle(b);
    assert_int_equal(b->failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(round_trip, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(every_byte_flipped, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(many_at_a_time, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(moved_and_stale, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(limits, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(no_more_than_allowed, bench_open, bench_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
