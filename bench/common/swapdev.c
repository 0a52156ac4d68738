/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see swapdev.h. What is on is noted in memory shared with the guardian, which was
 * forked before: the device's number before anything is done with it, each swap area before it is switched
 * on.
 */
#include "bench/common/swapdev.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#define CONTROL    "/sys/class/zram-control/"
#define PATH_BYTES 256

static struct noted {
    int zram; /* the device's number; -1: none */
    char zram_path[PATH_BYTES], file_path[PATH_BYTES];
    bool zram_on, file_on;
} * noted;

/* ---- files of one line */

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), err = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        err = -errno;
    close(fd);
    return err;
}

static int get(const char *path, char *text, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, bytes - 1);
    int err = n < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    if (!err)
        text[n] = '\0';
    return err;
}

static void zram_put(const char *attribute, const char *text)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "/sys/block/zram%d/%s", noted->zram, attribute);
    int err = put(path, text);
    if (err)
        bench_die("zram: cannot write %s to %s: %s", text, path, strerror(-err));
}

/* ---- before */

/* Lines of /proc/swaps, but for the head. */
static unsigned swaps_in_use(void)
{
    FILE *f = fopen("/proc/swaps", "re");
    char line[512];
    unsigned n = 0;

    if (!f)
        bench_die("/proc/swaps: %s; this kernel has no swap", strerror(errno));
    while (fgets(line, sizeof line, f))
        n++;
    fclose(f);
    return n ? n - 1 : 0;
}

void swapdev_prepare(bool zram)
{
    if (swaps_in_use())
        bench_die(
            "swap is in use on this machine, see /proc/swaps; switch it off for the benchmark (swapoff -a)");
    if (zram && access(CONTROL "hot_add", R_OK))
        bench_die("zram cannot be used (" CONTROL "hot_add: %s); modprobe zram, as root", strerror(errno));
    noted = mmap(NULL, sizeof *noted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (noted == MAP_FAILED)
        bench_die("memory: %s", strerror(errno));
    noted->zram = -1;
}

/* ---- on */

/* What mkswap(8) writes. */
static void write_header(const char *path, uint64_t bytes)
{
    static const char magic[10] = {'S', 'W', 'A', 'P', 'S', 'P', 'A', 'C', 'E', '2'};
    uint8_t page[BENCH_PAGE_BYTES] = {0};
    uint32_t version = 1, last = (uint32_t)(bytes / BENCH_PAGE_BYTES - 1);

    memcpy(page + 1024, &version, sizeof version);
    memcpy(page + 1028, &last, sizeof last);
    memcpy(page + sizeof page - sizeof magic, magic, sizeof magic);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, page, sizeof page, 0) != sizeof page || fsync(fd) || close(fd))
        bench_die("%s: %s", path, strerror(errno));
}

static void switch_on(const char *path, int priority)
{
    if (swapon(path, SWAP_FLAG_PREFER | (priority & SWAP_FLAG_PRIO_MASK)))
        bench_die("swapon %s: %s", path, strerror(errno));
}

/* The number of a new device: nothing may come between making and noting it. */
static void zram_add(void)
{
    char text[32];
    sigset_t all, before;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    int err = get(CONTROL "hot_add", text, sizeof text);
    if (!err)
        noted->zram = atoi(text);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (err)
        bench_die("zram: " CONTROL "hot_add: %s", strerror(-err));
}

void swapdev_zram_on(uint64_t bytes, int priority)
{
    char text[32];

    zram_add();
    zram_put("comp_algorithm", "lz4");
    snprintf(text, sizeof text, "%" PRIu64, bytes);
    zram_put("disksize", text);
    snprintf(noted->zram_path, sizeof noted->zram_path, "/dev/zram%d", noted->zram);
    for (unsigned tries = 0; access(noted->zram_path, W_OK) && tries < 200; tries++)
        bench_sleep(0.01); /* the device node comes by itself, a moment later */
    write_header(noted->zram_path, bytes);
    noted->zram_on = true;
    switch_on(noted->zram_path, priority);
}

void swapdev_file_on(const char *path, uint64_t bytes, int priority)
{
    snprintf(noted->file_path, sizeof noted->file_path, "%s", path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        bench_die("%s: %s", path, strerror(errno));
    int err = posix_fallocate(fd, 0, (off_t)bytes);
    if (err)
        bench_die("%s: %s", path, strerror(err));
    close(fd);
    write_header(path, bytes);
    noted->file_on = true;
    switch_on(path, priority);
}

/* ---- off */

static int swap_end(const char *path, bool *on)
{
    if (!*on)
        return 0;
    if (swapoff(path) && errno != EINVAL) /* it was noted, and did not come on */
        return -errno;
    *on = false;
    return 0;
}

static int zram_end(void)
{
    char text[32];
    int err;

    if (noted->zram < 0)
        return 0;
    snprintf(text, sizeof text, "%d", noted->zram);
    /* whoever looks at new devices may have it open for a moment */
    for (unsigned tries = 0; (err = put(CONTROL "hot_remove", text)) == -EBUSY && tries < 200; tries++)
        bench_sleep(0.01);
    if (!err)
        noted->zram = -1;
    return err;
}

static int end_all(void)
{
    int file = swap_end(noted->file_path, &noted->file_on),
        zram = swap_end(noted->zram_path, &noted->zram_on);
    int gone = zram ? zram : zram_end();

    if (!file && noted->file_path[0]) {
        unlink(noted->file_path);
        noted->file_path[0] = '\0';
    }
    return file ? file : gone;
}

void swapdev_off(void)
{
    int err = end_all();

    if (err)
        bench_die("swap cannot be switched off: %s", strerror(-err));
}

void swapdev_restore(void)
{
    int err = noted ? end_all() : 0;

    if (err)
        fprintf(stderr, "bench: swap could not be switched off again (%s): see /proc/swaps\n",
                strerror(-err));
}

/* ---- what they hold */

uint64_t swapdev_zram_bytes(void)
{
    char path[PATH_BYTES], text[256];
    uint64_t used;

    snprintf(path, sizeof path, "/sys/block/zram%d/mm_stat", noted->zram);
    int err = get(path, text, sizeof text);
    if (err || sscanf(text, "%*u %*u %" SCNu64, &used) != 1)
        bench_die("%s: %s", path, strerror(-err));
    return used;
}

uint64_t swapdev_file_bytes(void)
{
    FILE *f = fopen("/proc/swaps", "re");
    char line[512], path[PATH_BYTES];
    uint64_t kib, used = 0;

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%255s %*s %*u %" SCNu64, path, &kib) == 2 && !strcmp(path, noted->file_path))
            used = kib * 1024;
    if (f)
        fclose(f);
    return used;
}
