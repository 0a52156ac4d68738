/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * uffd_move() tells exactly what it has moved, also while other threads write to these very pages. Linux 6.18
 * does not: see move_some() in uffd.c. What it says is compared with what is at the destination.
 */
#include "memd/engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES  64u
#define BYTES   (NPAGES * PAGE_BYTES)
#define ROUNDS  20000u
#define WRITERS 3u

struct bench {
    struct memd m;
    char *guest, *aside;
    atomic_bool stop;
    _Atomic uint64_t writes;
};

/* A writer has the first words of every page to itself, counts in them, and never finds another count. */
struct writer {
    pthread_t thread;
    struct bench *b;
    unsigned k;
    bool lost;
};

__attribute__((no_sanitize("thread"))) static void *write_on(void *arg)
{
    struct writer *w = arg;
    uint64_t count = 0;

    while (!atomic_load(&w->b->stop) && !w->lost) {
        for (uint32_t i = 0; i < NPAGES && !w->lost; i++) {
            volatile uint64_t *word = (void *)(w->b->guest + i * PAGE_BYTES + w->k * 64);
            w->lost = *word != count;
            *word = count + 1;
        }
        count++;
        atomic_fetch_add(&w->b->writes, NPAGES);
    }
    return NULL;
}

static char *area(struct bench *b, uint64_t mode)
{
    char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    assert_return_code(madvise(p, BYTES, MADV_NOHUGEPAGE), 0);
    if (mode & UFFDIO_REGISTER_MODE_WP)
        memset(p, 0, BYTES);
    assert_int_equal(uffd_register(b->m.uffd_a, p, BYTES, mode), 0);
    return p;
}

static uint32_t pages_in(struct bench *b, const char *p)
{
    uint64_t entry[NPAGES];
    uint32_t n = 0;

    assert_int_equal(pread(b->m.pagemap, entry, sizeof entry, (off_t)((uintptr_t)p / PAGE_BYTES * 8)),
                     sizeof entry);
    for (uint32_t i = 0; i < NPAGES; i++)
        n += entry[i] >> 63;
    return n;
}

/* All there and back; nobody can write what is aside. */
static void round_trip(struct bench *b, uint32_t step)
{
    uint64_t moved;

    uffd_write_protect(b->m.uffd_a, b->guest, BYTES, true);
    for (uint32_t i = 0; i < NPAGES; i += step) {
        int err = step == 1 ? uffd_move_once(&b->m, b->aside + i * PAGE_BYTES, b->guest + i * PAGE_BYTES)
                            : uffd_move(&b->m, b->aside + i * PAGE_BYTES, b->guest + i * PAGE_BYTES,
                                        step * PAGE_BYTES, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &moved);
        if (err == -EAGAIN && step == 1)
            i -= step;
        else
            assert_int_equal(err, 0);
    }
    assert_int_equal(pages_in(b, b->aside), NPAGES);
    assert_int_equal(uffd_move(&b->m, b->guest, b->aside, BYTES, 0, &moved), 0);
    assert_int_equal(moved, BYTES);
    assert_int_equal(pages_in(b, b->aside), 0);
    uffd_wake(b->m.uffd_a, b->guest, BYTES);
}

static void moves_are_counted(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    struct writer w[WRITERS];

    (void)state;
    assert_non_null(b);
    int err = uffd_open(&b->m, -1);
    if (err == -EPERM || err == -ENOSYS)
        skip();
    assert_int_equal(err, 0);
    b->m.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    assert_true(b->m.pagemap >= 0);
    b->guest = area(b, UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING);
    b->aside = area(b, UFFDIO_REGISTER_MODE_MISSING);
    for (unsigned k = 0; k < WRITERS; k++) {
        w[k] = (struct writer){.b = b, .k = k};
        assert_int_equal(pthread_create(&w[k].thread, NULL, write_on, &w[k]), 0);
    }
    for (uint32_t i = 0; i < ROUNDS; i++)
        round_trip(b, i % 4 == 3 ? 1 : NPAGES);
    atomic_store(&b->stop, true);
    for (unsigned k = 0; k < WRITERS; k++) {
        pthread_join(w[k].thread, NULL);
        assert_false(w[k].lost);
    }
    print_message("%llu writes\n", (unsigned long long)atomic_load(&b->writes));
    assert_true(atomic_load(&b->writes) > ROUNDS);
    munmap(b->guest, BYTES);
    munmap(b->aside, BYTES);
    close(b->m.uffd_a);
    close(b->m.uffd_b);
    close(b->m.pagemap);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_are_counted),
    };

    return cmocka_run_group_tests_name("uffd_move", tests, NULL, NULL);
}
