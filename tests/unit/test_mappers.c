/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who maps a file: from a /proc of the test's own, and of real processes. */
#include "memd/daemon/mappers.h"
#include "tests/unit/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define HEAP  "555500000000-555500021000 rw-p 00000000 00:00 0                          [heap]\n"
#define STORE "7f0000000000-7f0000001000 r--p 00005000 00:1a 77          /x/node0.frames (deleted)\n"

static pid_t found(ino_t ino, const pid_t *skip, size_t nskip)
{
    struct mappers_file file = {.dev = makedev(0, 0x1a), .ino = ino};
    struct mappers_search search = {
        .proc_root = tree_root, .file = &file, .nfiles = 1, .skip = skip, .nskip = nskip};

    assert_int_equal(mappers_find(&search), 0);
    return file.pid;
}

static void files_of_maps(void **state)
{
    const pid_t skip[] = {20, 21};
    (void)state;

    tree_put("self/maps", STORE);
    tree_put("1/maps", HEAP);
    tree_put("2/maps", ""); /* a kernel thread */
    tree_put("2/task/2/maps", "");
    tree_put("3/maps",
             "7f0000000000-7f0000001000 r--p 00005000 00:1b 77 /another/device\nnonsense 00:1a 77\n");
    assert_int_equal(found(77, NULL, 0), 0);
    tree_put("20/maps", HEAP STORE);
    assert_int_equal(found(77, NULL, 0), 20);
    assert_int_equal(found(78, NULL, 0), 0);
    assert_int_equal(found(77, skip, 2), 0);
    /* the first thread has ended, another maps it */
    tree_put("4/maps", "");
    tree_put("4/task/4/maps", "");
    tree_put("4/task/9/maps", STORE HEAP);
    assert_int_equal(found(77, skip, 2), 4);
}

static void searches_that_fail(void **state)
{
    struct mappers_file file = {.ino = 1};
    atomic_bool stop = true;
    struct mappers_search search = {.proc_root = "none", .file = &file, .nfiles = 1};
    (void)state;

    assert_int_equal(mappers_find(&search), -ENOENT);
    search.proc_root = tree_root;
    search.stop = &stop;
    assert_int_equal(mappers_find(&search), -ECANCELED);
    tree_put("30/maps/is-a-directory", "");
    search.stop = NULL;
    assert_int_equal(mappers_find(&search), -EISDIR);
}

static void a_real_process(void **state)
{
    const char *dir = getenv("MEMD_TEST_TMP");
    char path[300], byte;
    struct stat st;
    int fds[2];
    (void)state;

    snprintf(path, sizeof path, "%s/file", dir ? dir : "/tmp");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && !ftruncate(fd, 8192) && !fstat(fd, &st) && !pipe(fds));
    struct mappers_file file = {.dev = st.st_dev, .ino = st.st_ino};
    struct mappers_search search = {.proc_root = "/proc", .file = &file, .nfiles = 1};
    assert_int_equal(mappers_find(&search), 0);
    assert_int_equal(file.pid, 0); /* that it is open means nothing */

    pid_t pid = fork();
    if (!pid) {
        void *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 4096);
        ssize_t n = write(fds[1], "x", 1);
        close_range(0, 1000, 0);
        pause();
        _exit(map == MAP_FAILED || n != 1);
    }
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(mappers_find(&search), 0);
    assert_int_equal(file.pid, pid);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(mappers_find(&search), 0);
    assert_int_equal(file.pid, 0);
    unlink(path);
    close(fd);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_of_maps, tree_make, NULL),
        cmocka_unit_test_setup_teardown(searches_that_fail, NULL, tree_remove),
        cmocka_unit_test(a_real_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
