/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The swap file: one per VM, made by the daemon, which has no name for it and no key to it.
 *
 * Clusters of 64 KiB are filled with records and written in one piece, by io_uring, so that the worker does
 * not wait for the device; where io_uring is forbidden, by pwrite(). A record is the content of a page,
 * packed or whole, encrypted and authenticated (ChaCha20-Poly1305) with a key that exists only in this
 * process. The nonce is the cluster's generation, which no other cluster ever had, and the record's number in
 * it; the place in the file and the length are authenticated with it. So a record that was changed, moved,
 * cut off, or is of an earlier time does not open.
 *
 * What is known of a record (24 bytes each) stays in memory: whose it is, where it lies, and a hash of the
 * page, so that a page that comes home and goes out again as it was keeps its record and is not written
 * again. A cluster is used anew when none of its records is live; its space goes back to the file system
 * by and by (swapfile_trim()).
 *
 * Writing and reading (swapread.c) have nothing in common but what is known of the records, which changes
 * only while no page refers to them. Reads of the fault server go by a ring of its own into buffers of its
 * own: it never waits for the device, unless io_uring is forbidden. Some file systems say that they can be
 * asked without waiting, and wait all the same (FUSE does): only where it is known to be true are requests
 * begun by whoever makes them, elsewhere the kernel's own threads do.
 */
#include "memd/engine/swapfile.h"

#include "memd/engine/engine.h"
#include "memd/engine/swapfile_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define CLUSTERS_MAX    (1u << (SWAP_SLOT_BITS - 8))
#define ERROR_REST_NS   2000000000ull
#define CLOSE_MS        10000u /* the device has to answer what it was asked */
#define NO_MORE_RECORDS (CLUSTER_BYTES - SWAP_CONTENT_MAX - TAG_BYTES)

/* ---- what is known of a record */

static const struct record *record_of(const struct swapfile *f, uint32_t slot)
{
    return &cluster_of(f, slot)->record[slot % RECORDS_MAX];
}

bool swapfile_is_written(const struct swapfile *file, uint32_t slot)
{
    return cluster_of(file, slot)->state == CLUSTER_WRITTEN;
}

struct swap_where swapfile_where(const struct swapfile *file, uint32_t slot)
{
    const struct record *r = record_of(file, slot);

    return (struct swap_where){.slot = slot,
                               .generation = cluster_of(file, slot)->generation,
                               .offset =
                                   (uint64_t)(slot / RECORDS_MAX) * CLUSTER_BYTES + r->at * RECORD_ALIGN,
                               .bytes = r->bytes};
}

bool swapfile_holds(const struct swapfile *file, uint32_t slot, struct swap_hash hash)
{
    const struct record *r = record_of(file, slot);

    return r->hash.word[0] == hash.word[0] && r->hash.word[1] == hash.word[1];
}

struct swap_hash swapfile_hash(const struct swapfile *file, const void *page)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(page, PAGE_BYTES, file->hash_seed);

    return (struct swap_hash){{h.low64, h.high64}};
}

/* ---- the cipher */

static void make_nonce(const struct swap_where *w, uint8_t ret_nonce[12])
{
    uint32_t number = w->slot % RECORDS_MAX;

    memcpy(ret_nonce, &w->generation, 8);
    memcpy(ret_nonce + 8, &number, 4);
}

struct bound { /* authenticated with a record */
    uint64_t offset;
    uint32_t slot, bytes;
};

static struct bound bound_of(const struct swap_where *w)
{
    return (struct bound){w->offset, w->slot, w->bytes};
}

static void seal(const struct swapfile *f, const struct swap_where *w, const void *content, char *to)
{
    struct bound ad = bound_of(w);
    uint8_t nonce[12];

    make_nonce(w, nonce);
    crypto_aead_chacha20poly1305_ietf_encrypt((unsigned char *)to, NULL, content, w->bytes, (void *)&ad,
                                              sizeof ad, NULL, nonce, f->key);
}

int swapfile_unseal(const struct swapfile *f, const struct swap_where *w, const void *sealed, void *content)
{
    struct bound ad = bound_of(w);
    uint8_t nonce[12];

    make_nonce(w, nonce);
    return crypto_aead_chacha20poly1305_ietf_decrypt(content, NULL, NULL, sealed, w->bytes + TAG_BYTES,
                                                     (void *)&ad, sizeof ad, nonce, f->key)
               ? -EBADMSG
               : 0;
}

/* ---- clusters */

/* What the fault server reads into: it may not have to wait for memory when something is in the file. As much
 * as RLIMIT_MEMLOCK allows: pager_ready() has said so if it does not. Most VMs never write to theirs. */
static void lock_area(struct swapfile *f)
{
    if (f->is_locked)
        return;
    f->is_locked = true;
    mlock(f->fetch_bytes, SWAP_FETCHES * FETCH_BYTES);
    char *groups = f->fetch_bytes + SWAP_FETCHES * FETCH_BYTES;
    if (!mlock(groups, GROUPS * CLUSTER_BYTES))
        atomic_store_explicit(&f->group_bytes, groups, memory_order_release);
}

static uint32_t cluster_take(struct swapfile *f)
{
    uint32_t c = f->free;

    lock_area(f);

    if (c) {
        f->free = f->clusters[c].next;
        f->dirty -= f->clusters[c].dirty;
    } else {
        if (f->nclusters >= f->max_clusters)
            return 0;
        c = f->nclusters++;
    }
    f->used++;
    f->clusters[c] = (struct cluster){.generation = ++f->generation, .state = CLUSTER_WRITING};
    return c;
}

static void cluster_give(struct swapfile *f, uint32_t c)
{
    if (f->clusters[c].record)
        f->records -= f->clusters[c].n;
    free(f->clusters[c].record);
    f->clusters[c] = (struct cluster){.next = f->free, .dirty = true};
    f->free = c;
    f->dirty++;
    f->used--;
}

void swapfile_free(struct swapfile *file, uint32_t slot)
{
    struct cluster *c = cluster_of(file, slot);

    if (!--c->live)
        cluster_give(file, slot / RECORDS_MAX);
}

bool swapfile_trim(struct swapfile *file)
{
    for (uint32_t c = file->dirty ? file->free : 0; c; c = file->clusters[c].next)
        if (file->clusters[c].dirty) {
            if (fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)c * CLUSTER_BYTES,
                          CLUSTER_BYTES) &&
                errno != EOPNOTSUPP)
                return false;
            file->clusters[c].dirty = false;
            file->dirty--;
            return true;
        }
    return false;
}

void swapfile_allow(struct swapfile *file, uint64_t bytes)
{
    file->limited = bytes != UINT64_MAX;
    file->allowed = bytes;
}

bool swapfile_spent(const struct swapfile *file)
{
    return file->limited && file->allowed < CLUSTER_BYTES && !file->open;
}

bool swapfile_full(const struct swapfile *file)
{
    bool failed = file->failed_ns && now_ns() - file->failed_ns < ERROR_REST_NS;

    return failed || (!file->free && file->nclusters >= file->max_clusters);
}

/* ---- writing */

static struct buffer *buffer_open(struct swapfile *f)
{
    for (unsigned i = 0; !f->open && i < BUFFERS; i++)
        if (!f->buffer[i].cluster) {
            struct buffer *b = &f->buffer[i];
            b->cluster = cluster_take(f);
            b->used = 0;
            b->submitted = b->done = false;
            f->open = b->cluster ? b : NULL;
            break;
        }
    return f->open;
}

static void buffer_done(struct buffer *b, int64_t written)
{
    b->done = true;
    b->result = written < 0 ? (int)written : written == b->used ? 0 : -ENOSPC;
}

static void buffer_submit(struct swapfile *f, struct buffer *b)
{
    off_t offset = (off_t)b->cluster * CLUSTER_BYTES;
    uint32_t end = (b->used + BLOCK - 1) & ~(BLOCK - 1);

    memset(b->bytes + b->used, 0, end - b->used);
    b->used = end;
    f->allowed -= end < f->allowed ? end : f->allowed;
    b->submitted = true;
    f->open = NULL;
    struct io_uring_sqe *sqe = f->async ? io_uring_get_sqe(&f->ring) : NULL;
    if (!sqe) {
        ssize_t n = pwrite(f->fd, b->bytes, b->used, offset);
        buffer_done(b, n < 0 ? -errno : n);
        return;
    }
    io_uring_prep_write(sqe, f->fd, b->bytes, b->used, (__u64)offset);
    io_uring_sqe_set_flags(sqe, f->sqe_flags);
    io_uring_sqe_set_data(sqe, b);
    io_uring_submit(&f->ring); /* refused for now: take_completions() tries again */
}

uint32_t swapfile_add(struct swapfile *file, struct swap_owner owner, const void *content, uint32_t bytes,
                      struct swap_hash hash)
{
    bool refused = swapfile_spent(file) || (swapfile_full(file) && !file->open);
    struct buffer *b = refused ? NULL : buffer_open(file);

    if (!b)
        return 0;
    struct cluster *c = &file->clusters[b->cluster];
    uint32_t slot = b->cluster * RECORDS_MAX + c->n;
    struct swap_where w = {.slot = slot,
                           .generation = c->generation,
                           .offset = (uint64_t)b->cluster * CLUSTER_BYTES + b->used,
                           .bytes = bytes};
    seal(file, &w, content, b->bytes + b->used);
    b->record[c->n] = (struct record){
        .page = owner.page, .at = (uint16_t)(b->used / RECORD_ALIGN), .bytes = (uint16_t)bytes, .hash = hash};
    b->owner[c->n] = owner;
    c->n++;
    uint32_t end = (b->used + bytes + TAG_BYTES + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1);
    memset(b->bytes + b->used + bytes + TAG_BYTES, 0, end - (b->used + bytes + TAG_BYTES));
    b->used = end;
    if (c->n == RECORDS_MAX || b->used > NO_MORE_RECORDS)
        buffer_submit(file, b);
    return slot;
}

void swapfile_flush(struct swapfile *file)
{
    if (file->open)
        buffer_submit(file, file->open);
}

static void take_completions(struct swapfile *f)
{
    struct io_uring_cqe *cqe;

    if (f->async && io_uring_sq_ready(&f->ring))
        io_uring_submit(&f->ring);
    while (f->async && !io_uring_peek_cqe(&f->ring, &cqe)) {
        buffer_done(io_uring_cqe_get_data(cqe), cqe->res);
        io_uring_cqe_seen(&f->ring, cqe);
    }
}

static void buffer_written(struct swapfile *f, struct buffer *b, swapfile_written_fn *fn, void *ctx)
{
    struct cluster *c = &f->clusters[b->cluster];
    uint32_t cluster = b->cluster, n = c->n;

    if (!b->result) {
        c->record = malloc(n * sizeof *c->record);
        b->result = c->record ? 0 : -ENOMEM;
    }
    if (b->result) {
        f->counts.errors++;
        f->failed_ns = now_ns();
        cluster_give(f, cluster);
    } else {
        memcpy(c->record, b->record, n * sizeof *c->record);
        c->live = c->n;
        f->records += n;
        c->state = CLUSTER_WRITTEN;
        f->counts.written_bytes += b->used;
    }
    b->cluster = 0;
    for (uint32_t i = 0; i < n; i++)
        fn(ctx, b->owner[i], cluster * RECORDS_MAX + i, b->result);
}

unsigned swapfile_reap(struct swapfile *file, swapfile_written_fn *fn, void *ctx)
{
    unsigned n = 0;

    take_completions(file);
    for (unsigned i = 0; i < BUFFERS; i++) {
        struct buffer *b = &file->buffer[i];
        if (b->cluster && b->submitted && b->done)
            buffer_written(file, b, fn, ctx);
        else
            n += b->cluster && b->submitted;
    }
    return n;
}

struct swap_counts swapfile_count(const struct swapfile *file)
{
    struct swap_counts n = file->counts;

    n.file_bytes = (uint64_t)(file->used + file->dirty) * CLUSTER_BYTES;
    n.reads = atomic_load_explicit(&file->reads, memory_order_relaxed);
    n.prefetched = atomic_load_explicit(&file->prefetched, memory_order_relaxed);
    n.prefetch_used = atomic_load_explicit(&file->prefetch_used, memory_order_relaxed);
    n.prefetch_wasted = atomic_load_explicit(&file->prefetch_wasted, memory_order_relaxed);
    n.memory_bytes = (file->is_locked ? file->area_bytes : BLOCK) + file->nclusters * sizeof *file->clusters +
                     file->records * sizeof(struct record);
    return n;
}

/* ---- life */

/* Memory of no size that matters, in one piece: none of it is forked or dumped; the key is locked, which also
 * means that it is there. */
static int make_area(struct swapfile *f)
{
    uint64_t read = SWAP_FETCHES * FETCH_BYTES + GROUPS * CLUSTER_BYTES;

    f->area_bytes = BLOCK + read + (1 + BUFFERS) * CLUSTER_BYTES;
    f->area = place_reserve(f->area_bytes);
    f->buffer = calloc(BUFFERS, sizeof *f->buffer);
    f->clusters = place_reserve((uint64_t)f->max_clusters * sizeof *f->clusters);
    if (!f->area || !f->buffer || !f->clusters)
        return -ENOMEM;
    mlock(f->area, BLOCK);
    f->key = (uint8_t *)f->area;
    f->fetch_bytes = f->area + BLOCK;
    f->sync = f->fetch_bytes + read;
    for (unsigned i = 0; i < BUFFERS; i++)
        f->buffer[i].bytes = f->sync + (1 + (uint64_t)i) * CLUSTER_BYTES;
    return 0;
}

/* File systems that put off what they would have to wait for, if asked to. */
static bool puts_off(int fd)
{
    static const long types[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC};
    struct statfs fs;

    if (fstatfs(fd, &fs))
        return false;
    for (unsigned i = 0; i < sizeof types / sizeof *types; i++)
        if ((long)fs.f_type == types[i])
            return true;
    return false;
}

int swapfile_open(int fd, uint64_t max_bytes, int wake_fd, struct swapfile **ret_file)
{
    struct swapfile *f = calloc(1, sizeof *f);

    if (!f || sodium_init() < 0) {
        free(f);
        return -ENOMEM;
    }
    f->fd = -1;
    f->nclusters = 1;
    f->max_clusters = max_bytes / CLUSTER_BYTES + 1 < CLUSTERS_MAX ? (uint32_t)(max_bytes / CLUSTER_BYTES) + 1
                                                                   : CLUSTERS_MAX;
    int err = make_area(f);
    if (err) {
        swapfile_close(f);
        return err;
    }
    randombytes_buf(f->key, crypto_aead_chacha20poly1305_ietf_KEYBYTES);
    randombytes_buf(&f->hash_seed, sizeof f->hash_seed);
    f->sqe_flags = puts_off(fd) ? 0 : IOSQE_ASYNC;
    f->async = !io_uring_queue_init(2 * BUFFERS, &f->ring, 0);
    if (f->async && io_uring_register_eventfd(&f->ring, wake_fd)) {
        io_uring_queue_exit(&f->ring);
        f->async = false;
    }
    f->fetch_async = !io_uring_queue_init(SWAP_FETCHES, &f->fetch_ring, 0);
    if (f->async)
        io_uring_ring_dontfork(&f->ring);
    if (f->fetch_async)
        io_uring_ring_dontfork(&f->fetch_ring);
    f->fd = fd;
    *ret_file = f;
    return 0;
}

void swapfile_leave(const struct swapfile *file)
{
    if (!file)
        return;
    close(file->fd);
    if (file->async)
        close(file->ring.ring_fd);
    if (file->fetch_async)
        close(file->fetch_ring.ring_fd);
}

static bool writing(struct swapfile *f)
{
    take_completions(f);
    for (unsigned i = 0; f->buffer && i < BUFFERS; i++)
        if (f->buffer[i].submitted && !f->buffer[i].done)
            return true;
    return false;
}

/* Until nothing is under way any more: what comes late would go to memory that is somebody else's by then,
 * and what is written late come from there. False: it does not end. */
static bool settle(struct swapfile *f)
{
    for (unsigned ms = 0; writing(f) || swapfile_reading(f); ms++) {
        if (ms == CLOSE_MS)
            return false;
        usleep(1000);
    }
    return true;
}

void swapfile_close(struct swapfile *file)
{
    if (!file)
        return;
    bool settled = settle(file);
    if (file->async)
        io_uring_queue_exit(&file->ring);
    if (file->fetch_async)
        io_uring_queue_exit(&file->fetch_ring);
    for (uint32_t c = 0; file->clusters && c < file->nclusters; c++)
        free(file->clusters[c].record);
    if (file->key)
        sodium_memzero(file->key, crypto_aead_chacha20poly1305_ietf_KEYBYTES);
    if (file->area && settled)
        munmap(file->area, file->area_bytes);
    if (file->clusters)
        munmap(file->clusters, (uint64_t)file->max_clusters * sizeof *file->clusters);
    if (file->fd >= 0)
        close(file->fd);
    free(file->buffer);
    free(file);
}
