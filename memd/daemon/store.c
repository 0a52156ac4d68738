/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see store.h. */
#include "memd/daemon/store.h"

#include "memd/common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_BYTES 24

static void file_name(unsigned node, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "node%u.frames", node);
}

/* ---------------------------------------------------------------- opening */

/* Address space without memory behind it, until touched. */
static void *reserve_space(size_t bytes)
{
    void *space =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        return NULL;
    madvise(space, bytes, MADV_NOHUGEPAGE); /* a 2 MiB page for one record would belie the accounts */
    return space;
}

static size_t frames_bytes(const struct store *store)
{
    return (size_t)store->nframes * sizeof(struct frame);
}

static size_t taken_bytes(const struct store *store)
{
    return ((size_t)store->nframes + 63) / 64 * 8;
}

/* A policy set on a shared mapping stays with the file. On a machine without that node (tests give a topology
 * of their own) the memory comes from anywhere. */
static void place_on_node(int fd, uint64_t bytes, unsigned node)
{
    void *map = mmap(NULL, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED)
        return;
    unsigned long mask = 1ul << node;
    if (mbind(map, bytes, MPOL_PREFERRED, &mask, 8 * sizeof mask, 0))
        log_debug("frames of NUMA node %u are placed anywhere: %s", node, strerror(errno));
    munmap(map, bytes);
}

static void set_bit(uint64_t *bitmap, uint32_t index, bool on)
{
    uint64_t bit = 1ull << (index % 64);
    bitmap[index / 64] = on ? bitmap[index / 64] | bit : bitmap[index / 64] & ~bit;
}

static void set_taken(struct store *store, uint32_t index, bool taken)
{
    set_bit(store->taken, index, taken);
}

static void count_taken(struct store *store, uint32_t index)
{
    store->used++;
    store->quota->frames++;
    if (index >= store->top)
        store->top = index + 1;
}

/* Frames an earlier daemon wrote are where the file has data. */
static int find_frames(struct store *store)
{
    off_t at = 0, end = (off_t)store->nframes * WIRE_PAGE_BYTES;

    while (at < end) {
        off_t data = lseek(store->fd, at, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -errno;
        off_t hole = lseek(store->fd, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        for (off_t page = data / WIRE_PAGE_BYTES;
             page * WIRE_PAGE_BYTES < hole && page * WIRE_PAGE_BYTES < end; page++) {
            uint32_t index = (uint32_t)page;
            if (!index)
                continue;
            set_taken(store, index, true);
            count_taken(store, index);
            store->frames[index] = (struct frame){.state = FRAME_UNHASHED};
        }
        at = hole;
    }
    return 0;
}

int store_open(int dir_fd, unsigned node, uint64_t bytes, struct store_quota *quota, struct store *ret_store)
{
    char name[NAME_BYTES];
    file_name(node, name);
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;

    struct stat st;
    struct store store = {.node = node, .fd = fd, .quota = quota, .top = 1, .rover = 1};
    int err;
    if (fstat(fd, &st))
        goto fail_errno;
    if (st.st_size == 0 && ftruncate(fd, (off_t)bytes))
        goto fail_errno;
    if (st.st_size > 0)
        bytes = (uint64_t)st.st_size;
    err = -EINVAL;
    if (!S_ISREG(st.st_mode) || bytes % WIRE_PAGE_BYTES || bytes > STORE_BYTES_MAX)
        goto fail;
    store.nframes = (uint32_t)(bytes / WIRE_PAGE_BYTES);

    err = -ENOMEM;
    store.frames = reserve_space(frames_bytes(&store));
    store.taken = reserve_space(taken_bytes(&store));
    store.leased = reserve_space(taken_bytes(&store));
    if (!store.frames || !store.taken || !store.leased)
        goto fail;
    place_on_node(fd, bytes, node);
    err = find_frames(&store);
    if (err)
        goto fail;
    *ret_store = store;
    return 0;

fail_errno:
    err = -errno;
fail:
    store_close(&store);
    return err;
}

void store_close(struct store *store)
{
    if (store->frames)
        munmap(store->frames, frames_bytes(store));
    if (store->taken)
        munmap(store->taken, taken_bytes(store));
    if (store->leased)
        munmap(store->leased, taken_bytes(store));
    store->quota->frames -= store->used;
    close(store->fd);
    *store = (struct store){.fd = -1};
}

int store_open_readonly(int dir_fd, unsigned node)
{
    char name[NAME_BYTES];
    file_name(node, name);
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int store_unlink(int dir_fd, unsigned node)
{
    char name[NAME_BYTES];
    file_name(node, name);
    return unlinkat(dir_fd, name, 0) ? -errno : 0;
}

/* ---------------------------------------------------------------- taking and freeing */

/* First free frame of [from, to), or `to`; `leased` ones are free, too, or not. */
static uint32_t find_free(const struct store *store, uint32_t from, uint32_t to, bool leased)
{
    for (uint32_t at = from; at < to;) {
        uint64_t taken = store->taken[at / 64] | (leased ? 0 : store->leased[at / 64]);
        uint64_t free_bits = ~taken >> (at % 64);
        if (free_bits) {
            at += (uint32_t)__builtin_ctzll(free_bits);
            return at < to ? at : to;
        }
        at = (at / 64 + 1) * 64;
    }
    return to;
}

/* A new lease: in the gaps below `top` while those are more than a quarter of it, else fresh frames. It ends
 * where another begins. The rover moves past it. */
static bool renew_lease(struct store *store, struct store_lease *lease)
{
    uint32_t gaps = store->top - 1 - store->used;
    bool fresh_left = store->top < store->nframes;

    if (store->rover >= store->top && gaps > store->top / 4)
        store->rover = 1;
    uint32_t at = find_free(store, store->rover, store->top, false);
    if (at == store->top && !fresh_left)
        at = find_free(store, 1, store->top, false);
    if (at >= store->nframes) /* only leased ones are left */
        at = find_free(store, 1, store->nframes, true);
    if (at >= store->nframes)
        return false;

    uint32_t room = store->nframes - at, end = at;
    for (uint32_t most = at + (room < STORE_LEASE_FRAMES ? room : STORE_LEASE_FRAMES); end < most; end++) {
        if (end > at && store->leased[end / 64] >> (end % 64) & 1)
            break;
        if (!(store->taken[end / 64] >> (end % 64) & 1))
            set_bit(store->leased, end, true);
    }
    *lease = (struct store_lease){.next = at, .end = end};
    store->rover = end;
    /* leases beyond `top` lie side by side, used up or not */
    if (end > store->top)
        store->top = end;
    return true;
}

void store_lease_end(struct store *store, struct store_lease *lease)
{
    for (uint32_t i = lease->next; i < lease->end; i++)
        set_bit(store->leased, i, false);
    *lease = (struct store_lease){0};
}

uint32_t store_take(struct store *store, struct store_lease *lease)
{
    if (store->quota->frames >= store->quota->frames_max) {
        store->full = true;
        return 0;
    }
    for (int tries = 0; tries < 2; tries++) {
        uint32_t index = find_free(store, lease->next, lease->end, true);
        if (index < lease->end) {
            lease->next = index + 1;
            set_taken(store, index, true);
            set_bit(store->leased, index, false);
            count_taken(store, index);
            store->frames[index] = (struct frame){.state = FRAME_RESERVED};
            return index;
        }
        if (!renew_lease(store, lease))
            break;
    }
    store->full = true;
    return 0;
}

/* Nothing is used: forget the records too. */
static void forget_all(struct store *store)
{
    madvise(store->frames, frames_bytes(store), MADV_DONTNEED);
    madvise(store->taken, taken_bytes(store), MADV_DONTNEED);
    madvise(store->leased, taken_bytes(store), MADV_DONTNEED);
    store->top = store->rover = 1;
}

void store_free(struct store *store, uint32_t index, uint32_t count)
{
    if (fallocate(store->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)index * WIRE_PAGE_BYTES,
                  (off_t)count * WIRE_PAGE_BYTES))
        log_warn("cannot give %u frames back to tmpfs: %s", count, strerror(errno));
    for (uint32_t i = index; i < index + count; i++) {
        set_taken(store, i, false);
        store->frames[i].state = FRAME_FREE;
    }
    store->used -= count;
    store->quota->frames -= count;
    store->full = false;
    if (!store->used)
        forget_all(store);
}

/* ---------------------------------------------------------------- bytes */

int store_write(struct store *store, uint32_t index, uint32_t count, const void *bytes)
{
    size_t len = (size_t)count * WIRE_PAGE_BYTES, done = 0;
    off_t at = (off_t)index * WIRE_PAGE_BYTES;

    while (done < len) {
        ssize_t n = pwrite(store->fd, (const char *)bytes + done, len - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            store->full = true;
            return n < 0 ? -errno : -ENOSPC;
        }
        done += (size_t)n;
    }
    return 0;
}

int store_read(const struct store *store, uint32_t index, uint32_t count, void *ret_bytes)
{
    size_t len = (size_t)count * WIRE_PAGE_BYTES, done = 0;
    off_t at = (off_t)index * WIRE_PAGE_BYTES;

    while (done < len) {
        ssize_t n = pread(store->fd, (char *)ret_bytes + done, len - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

/* ---------------------------------------------------------------- accounts */

static size_t whole_pages(size_t bytes)
{
    return (bytes + WIRE_PAGE_BYTES - 1) / WIRE_PAGE_BYTES * WIRE_PAGE_BYTES;
}

size_t store_metadata_bytes(const struct store *store)
{
    if (store->top <= 1)
        return 0;
    return whole_pages(store->top * sizeof(struct frame)) + 2 * whole_pages(store->top / 8);
}

uint64_t store_block_bytes(const struct store *store)
{
    struct stat st;
    return fstat(store->fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}
