/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The registry of engines: written by one daemon, read by the next. */
#include "memd/daemon/registry.h"

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

static char dir[] = "registry.XXXXXX";
static int dir_fd;

static int open_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
    return dir_fd < 0;
}

static int close_dir(void **state)
{
    (void)state;
    int err = registry_destroy(dir_fd);
    close(dir_fd);
    return err || rmdir(dir);
}

struct found {
    unsigned n;
    struct registry_entry entry[4];
};

static int find(void *ctx, const struct registry_entry *entry)
{
    struct found *found = ctx;

    assert_true(found->n < 4);
    found->entry[found->n++] = *entry;
    return 0;
}

static struct found find_all(void)
{
    struct found found = {0};

    assert_int_equal(registry_each(dir_fd, find, &found), 0);
    return found;
}

static void put(const char *file)
{
    char path[300];

    snprintf(path, sizeof path, "%s/engines/%s", dir, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static void what_was_written_is_found(void **state)
{
    struct registry_entry a = {
        .pid = 77, .start = UINT64_MAX, .name = "a.b-c_9", .uid = 4000000000u, .merge_on = true};
    (void)state;

    assert_int_equal(find_all().n, 0);
    assert_int_equal(registry_write(dir_fd, &a), 0);
    assert_int_equal(registry_write(dir_fd, &a), 0);
    a.merge_on = false;
    assert_int_equal(registry_write(dir_fd, &a), 0);
    struct found found = find_all();
    assert_int_equal(found.n, 1);
    assert_int_equal(found.entry[0].pid, 77);
    assert_true(found.entry[0].start == UINT64_MAX);
    assert_string_equal(found.entry[0].name, "a.b-c_9");
    assert_int_equal(found.entry[0].uid, 4000000000u);
    assert_false(found.entry[0].merge_on);
    a.merge_on = true; /* noted nowhere, for want of an inode, say */
    assert_int_equal(registry_remove(dir_fd, &a), 0);
    assert_int_equal(registry_remove(dir_fd, &a), -ENOENT);
    assert_int_equal(find_all().n, 0);
}

static void the_longest_name_fits(void **state)
{
    struct registry_entry a = {.pid = 1 << 22, .start = UINT64_MAX, .uid = UINT32_MAX};
    (void)state;

    memset(a.name, 'n', WIRE_NAME_BYTES - 1);
    assert_int_equal(registry_write(dir_fd, &a), 0);
    struct found found = find_all();
    assert_int_equal(found.n, 1);
    assert_string_equal(found.entry[0].name, a.name);
    assert_int_equal(registry_remove(dir_fd, &a), 0);
}

static void what_is_no_entry_is_removed(void **state)
{
    static const char *const files[] = {"new",        "1.2.3.on.",   "1.2.3.maybe.a",
                                        "0.2.3.on.a", "-1.2.3.on.a", "1.2.on.a",
                                        "x.2.3.on.a", "1.2.3.off",   "1.2.3.fn.a"};
    struct registry_entry a = {.pid = 5, .start = 6, .name = "stays", .merge_on = true};
    (void)state;

    assert_int_equal(registry_write(dir_fd, &a), 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        put(files[i]);
    struct found found = find_all();
    assert_int_equal(found.n, 1);
    assert_string_equal(found.entry[0].name, "stays");
    assert_int_not_equal(registry_destroy(dir_fd), 0);
    assert_int_equal(registry_remove(dir_fd, &a), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_found),
        cmocka_unit_test(the_longest_name_fits),
        cmocka_unit_test(what_is_no_entry_is_removed),
    };
    return cmocka_run_group_tests(tests, open_dir, close_dir);
}
