/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Frame files: what is taken, written, given back, and found again by a later daemon. */
#include "memd/daemon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE   WIRE_PAGE_BYTES
#define FRAMES 4096u

static char dir[64];
static int dir_fd;
static struct store_quota quota;
static struct store store;

static void open_store(void)
{
    assert_int_equal(store_open(dir_fd, 0, FRAMES * (uint64_t)PAGE, &quota, &store), 0);
}

static int start(void **state)
{
    (void)state;
    strcpy(dir, "/dev/shm/memd-store.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    quota = (struct store_quota){.frames_max = UINT32_MAX};
    open_store();
    return dir_fd < 0;
}

static int end(void **state)
{
    (void)state;
    store_close(&store);
    store_unlink(dir_fd, 0);
    close(dir_fd);
    assert_int_equal(quota.frames, 0);
    return rmdir(dir);
}

static void fill(uint8_t *page, int value)
{
    memset(page, value, PAGE);
}

static void write_frame(uint32_t index, int value)
{
    uint8_t page[PAGE];

    fill(page, value);
    assert_int_equal(store_write(&store, index, 1, page), 0);
    store.frames[index].state = FRAME_LIVE;
}

static void check_frame(uint32_t index, int value)
{
    uint8_t page[PAGE], want[PAGE];

    fill(want, value);
    assert_int_equal(store_read(&store, index, 1, page), 0);
    assert_memory_equal(page, want, PAGE);
}

static void frames_of_a_lease_follow_each_other(void **state)
{
    struct store_lease a = {0}, b = {0};
    (void)state;

    for (uint32_t i = 0; i < 2 * STORE_LEASE_FRAMES; i += STORE_LEASE_FRAMES) {
        uint32_t first_a = store_take(&store, &a), first_b = store_take(&store, &b);
        assert_int_not_equal(first_a, 0); /* frame 0 stands for none */
        for (uint32_t k = 1; k < STORE_LEASE_FRAMES; k++) {
            assert_int_equal(store_take(&store, &a), first_a + k);
            assert_int_equal(store_take(&store, &b), first_b + k);
        }
    }
    assert_int_equal(store.used, 4 * STORE_LEASE_FRAMES);
    assert_int_equal(quota.frames, store.used);
    assert_int_equal(store.frames[1].state, FRAME_RESERVED);
}

static void what_is_given_back_has_no_blocks(void **state)
{
    struct store_lease lease = {0};
    (void)state;

    assert_int_equal(store_block_bytes(&store), 0);
    for (int i = 1; i <= 300; i++)
        write_frame(store_take(&store, &lease), i);
    assert_int_equal(store_block_bytes(&store), 300 * PAGE);
    check_frame(1, 1);
    check_frame(200, 200);
    store_free(&store, 100, 101);
    assert_int_equal(store_block_bytes(&store), 199 * PAGE);
    check_frame(99, 99);
    check_frame(150, 0);
    check_frame(201, 201);
    store_free(&store, 1, 99);
    store_free(&store, 201, 100);
    assert_int_equal(store_block_bytes(&store), 0);
    assert_int_equal(store_metadata_bytes(&store), 0);
    /* nothing is used: it begins anew */
    lease = (struct store_lease){0};
    assert_int_equal(store_take(&store, &lease), 1);
}

/* Many gaps are filled before the file grows. */
static void gaps_are_used_again(void **state)
{
    struct store_lease lease = {0};
    (void)state;

    for (uint32_t i = 1; i < FRAMES; i++)
        assert_int_not_equal(store_take(&store, &lease), 0);
    assert_int_equal(store_take(&store, &lease), 0);
    assert_true(store.full);
    for (uint32_t i = 2; i < FRAMES; i += 2)
        store_free(&store, i, 1);
    assert_false(store.full);
    for (uint32_t i = 2; i < FRAMES; i += 2) {
        uint32_t taken = store_take(&store, &lease);
        assert_int_equal(taken % 2, 0);
        assert_in_range(taken, 2, FRAMES - 1);
    }
    assert_int_equal(store_take(&store, &lease), 0);
}

static void the_quota_is_kept(void **state)
{
    struct store_lease lease = {0};
    (void)state;

    quota.frames_max = 10;
    for (int i = 0; i < 10; i++)
        assert_int_not_equal(store_take(&store, &lease), 0);
    assert_int_equal(store_take(&store, &lease), 0);
    assert_true(store.full);
    store_free(&store, 3, 2);
    assert_false(store.full);
    assert_int_not_equal(store_take(&store, &lease), 0);
    assert_int_not_equal(store_take(&store, &lease), 0);
    assert_int_equal(store_take(&store, &lease), 0);
}

static void a_later_daemon_finds_the_frames(void **state)
{
    struct store_lease lease = {0};
    (void)state;

    for (int i = 0; i < 500; i++)
        write_frame(store_take(&store, &lease), i);
    store_free(&store, 50, 100);
    store_take(&store, &lease); /* reserved, not written: nobody was told of it */
    store_close(&store);
    assert_int_equal(quota.frames, 0);
    open_store();
    assert_int_equal(store.used, 400);
    assert_int_equal(quota.frames, 400);
    for (uint32_t i = 1; i <= 501; i++) {
        bool there = i <= 500 && (i < 50 || i >= 150);
        assert_int_equal(store.frames[i].state, there ? FRAME_UNHASHED : FRAME_FREE);
        assert_int_equal(store.frames[i].refs, 0);
    }
    check_frame(500, 499);
    lease = (struct store_lease){0};
    for (int i = 0; i < 101; i++) {
        uint32_t taken = store_take(&store, &lease);
        assert_true((taken >= 50 && taken < 150) || taken > 500);
    }
}

static void an_old_file_keeps_its_size(void **state)
{
    (void)state;
    store_close(&store);
    assert_int_equal(store_open(dir_fd, 0, 2 * FRAMES * (uint64_t)PAGE, &quota, &store), 0);
    assert_int_equal(store.nframes, FRAMES);
}

static void what_is_no_store_is_refused(void **state)
{
    struct store other;
    (void)state;

    int fd = openat(dir_fd, "node1.frames", O_WRONLY | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, PAGE + 1), 0);
    assert_int_equal(store_open(dir_fd, 1, PAGE, &quota, &other), -EINVAL);
    assert_int_equal(ftruncate(fd, (off_t)(STORE_BYTES_MAX + PAGE)), 0);
    assert_int_equal(store_open(dir_fd, 1, PAGE, &quota, &other), -EINVAL);
    close(fd);
    assert_int_equal(store_unlink(dir_fd, 1), 0);
    assert_int_equal(symlinkat("node0.frames", dir_fd, "node1.frames"), 0);
    assert_int_equal(store_open(dir_fd, 1, PAGE, &quota, &other), -ELOOP);
    assert_int_equal(store_open_readonly(dir_fd, 1), -ELOOP);
    assert_int_equal(store_unlink(dir_fd, 1), 0);
}

static void engines_cannot_write(void **state)
{
    struct stat st;
    char byte = 1;
    (void)state;

    int fd = store_open_readonly(dir_fd, 0);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &byte, 1), -1);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frames_of_a_lease_follow_each_other),
        TEST(what_is_given_back_has_no_blocks),
        TEST(gaps_are_used_again),
        TEST(the_quota_is_kept),
        TEST(a_later_daemon_finds_the_frames),
        TEST(an_old_file_keeps_its_size),
        TEST(what_is_no_store_is_refused),
        TEST(engines_cannot_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
