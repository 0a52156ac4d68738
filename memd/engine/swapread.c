/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading records of the swap file: one at a time for whoever holds engine.work, any number side by side for
 * the fault server.
 *
 * Pages that left together are often wanted together, and lie together: a cluster is their group. So the
 * fault server reads, with the record somebody waits for, the others of its cluster whose pages are still in
 * the file, in one piece. They are kept as they were read, encrypted, in buffers of a fixed size that were
 * there before: the pages stay SWAPPED, and nothing of the guest's memory, of the pool or of what is known of
 * a page changes before somebody touches it. A discard, or whatever else changes a page, wins without knowing
 * of this: a record is looked for under its cluster's generation, which never comes again.
 *
 * It never costs more than it may: no more bytes are read than the records would take one by one, not while
 * many reads are under way or two such already, and not while of what was brought lately less than half was
 * used (then now and then, to see whether that has changed). A read that fails says nothing of the record
 * somebody waits for: that is read again, alone, and only then believed.
 */
#include "memd/engine/swapfile.h"

#include "memd/engine/engine.h"
#include "memd/engine/swapfile_parts.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define FETCHES        (SWAP_FETCHES + SWAP_JOINS)
#define GROUP_MIN      3u /* records besides the one that is wanted */
#define GROUPS_READING 2u
#define BUSY_READS     4u /* under way: those who wait for these come first */
#define LEARN_PAGES    128u
#define PROBE_EVERY    64u

/* O_DIRECT wants whole blocks. */
static void window(const struct swap_where *w, uint64_t *ret_offset, uint32_t *ret_bytes, uint32_t *ret_skip)
{
    uint64_t end = (w->offset + w->bytes + TAG_BYTES + BLOCK - 1) & ~(uint64_t)(BLOCK - 1);

    *ret_offset = w->offset & ~(uint64_t)(BLOCK - 1);
    *ret_bytes = (uint32_t)(end - *ret_offset);
    *ret_skip = (uint32_t)(w->offset - *ret_offset);
}

/* Says nothing of the device, nor of the record. */
static bool passes(int error)
{
    return error == EAGAIN || error == EINTR || error == ENOMEM || error == ENOBUFS || error == ECANCELED;
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Bytes of the file, as many as there are. 0, -EAGAIN, or another -errno. */
static int read_sync(struct swapfile *f, uint64_t offset, uint32_t bytes)
{
    count(&f->reads, 1);
    f->synced.bytes = 0;
    ssize_t n = pread(f->fd, f->sync, bytes, (off_t)offset);
    if (n < 0)
        return passes(errno) ? -EAGAIN : -errno;
    f->synced.offset = offset;
    f->synced.bytes = (uint32_t)n;
    return 0;
}

/* Of what was read last. */
static int unseal_synced(const struct swapfile *f, const struct swap_where *w, void *content)
{
    return swapfile_unseal(f, w, f->sync + (w->offset - f->synced.offset), content);
}

/* What a written cluster holds does not change as long as its generation lasts. */
static bool is_synced(const struct swapfile *f, const struct swap_where *w)
{
    return f->synced.bytes && f->synced.generation == w->generation && w->offset >= f->synced.offset &&
           w->offset + w->bytes + TAG_BYTES <= f->synced.offset + f->synced.bytes;
}

/* Whoever has come for two records of a cluster, one after the other, comes for all. */
static int read_on(struct swapfile *f, const struct swap_where *w, uint64_t offset)
{
    uint64_t end = ((uint64_t)w->slot / RECORDS_MAX + 1) * CLUSTER_BYTES;

    return f->synced.many && w->generation == f->synced.generation
               ? read_sync(f, offset, (uint32_t)(end - offset))
               : -ENOENT;
}

void swapfile_read_many(struct swapfile *file, bool many)
{
    file->synced.many = many;
    file->synced.generation = 0;
    file->synced.bytes = 0;
}

int swapfile_read(struct swapfile *file, const struct swap_where *where, void *content)
{
    uint32_t bytes, skip;
    uint64_t offset;

    if (file->synced.many && is_synced(file, where) && !unseal_synced(file, where, content))
        return 0;
    window(where, &offset, &bytes, &skip);
    if (!read_on(file, where, offset) && is_synced(file, where) && !unseal_synced(file, where, content))
        return 0;
    int err = read_sync(file, offset, bytes);
    file->synced.generation = where->generation;
    if (err)
        return err;
    return file->synced.bytes < bytes ? -EIO : unseal_synced(file, where, content);
}

/* ---- whether it is worth it */

static bool worth_it(struct worth *w)
{
    if (2 * w->used >= w->brought)
        return true;
    if (++w->skipped < PROBE_EVERY)
        return false;
    w->skipped = 0;
    return true;
}

static void worth_learn(struct worth *w, uint32_t brought, uint32_t used)
{
    w->brought += brought;
    w->used += used;
    while (w->brought > LEARN_PAGES) {
        w->brought /= 2;
        w->used /= 2;
    }
}

/* ---- groups */

static bool bit_test(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

static char *group_data(const struct swapfile *f, const struct swap_group *g)
{
    return atomic_load_explicit(&f->group_bytes, memory_order_relaxed) +
           (g - f->group) * (ptrdiff_t)CLUSTER_BYTES;
}

static bool group_covers(const struct swap_group *g, const struct swap_where *w)
{
    return g->cluster == w->slot / RECORDS_MAX && g->generation == w->generation && w->offset >= g->offset &&
           w->offset + w->bytes + TAG_BYTES <= g->offset + g->bytes;
}

static struct swap_group *group_of(struct swapfile *f, const struct swap_where *w)
{
    for (unsigned i = 0; i < GROUPS; i++)
        if (f->group[i].state != GROUP_EMPTY && group_covers(&f->group[i], w))
            return &f->group[i];
    return NULL;
}

/* Somebody waits for what is in it. */
static bool group_wanted(const struct swapfile *f, const struct swap_group *g)
{
    for (unsigned i = 0; i < FETCHES; i++)
        if (f->fetch[i].used && f->fetch[i].group == g)
            return true;
    return false;
}

static void group_drop(struct swapfile *f, struct swap_group *g)
{
    count(&f->prefetch_wasted, g->brought - g->used);
    worth_learn(&f->worth, g->brought, g->used);
    g->state = GROUP_EMPTY;
}

/* Somebody has come for a record of it, at `since_ns`. */
static void group_use(struct swapfile *f, struct swap_group *g, const struct swap_where *w, uint64_t since_ns)
{
    uint32_t i = w->slot % RECORDS_MAX;

    g->since_ns = since_ns > g->since_ns ? since_ns : g->since_ns;
    if (!bit_test(g->left, i))
        return;
    g->left[i / 64] &= ~(1ull << i % 64);
    g->used++;
    count(&f->prefetch_used, 1);
}

/* Room for another: one that is empty, or was not asked for the longest. */
static struct swap_group *group_room(struct swapfile *f)
{
    struct swap_group *room = NULL;

    for (unsigned i = 0; i < GROUPS; i++) {
        struct swap_group *g = &f->group[i];
        if (group_wanted(f, g)) /* it is being read, or has been, and that was not brought home yet */
            continue;
        if (g->state == GROUP_EMPTY)
            return g;
        if (!room || g->since_ns < room->since_ns)
            room = g;
    }
    if (room)
        group_drop(f, room);
    return room;
}

static bool many_reads(const struct swapfile *f)
{
    unsigned alone = 0, groups = 0;

    for (unsigned i = 0; i < SWAP_FETCHES; i++)
        alone += f->fetch[i].used && !f->fetch[i].ready;
    for (unsigned i = 0; i < GROUPS; i++)
        groups += f->group[i].state == GROUP_READING;
    return alone >= BUSY_READS || groups >= GROUPS_READING;
}

/* Those of the record's cluster whose pages are in the file; false: not enough for what is to be read. */
static bool group_choose(const struct swapfile *f, const struct swap_ask *ask, struct swap_group *g)
{
    uint32_t first = ask->where.slot - ask->where.slot % RECORDS_MAX, bytes, skip;
    const struct cluster *c = cluster_of(f, first);
    uint64_t offset, end;

    window(&ask->where, &g->offset, &bytes, &skip);
    end = g->offset + bytes;
    for (uint32_t i = 0; i < c->n; i++) {
        if (first + i == ask->where.slot || !ask->there(ask->ctx, c->record[i].page, first + i))
            continue;
        struct swap_where w = swapfile_where(f, first + i);
        window(&w, &offset, &bytes, &skip);
        g->offset = offset < g->offset ? offset : g->offset;
        end = offset + bytes > end ? offset + bytes : end;
        g->left[i / 64] |= 1ull << i % 64;
        g->brought++;
    }
    g->bytes = (uint32_t)(end - g->offset);
    return g->brought >= GROUP_MIN && g->bytes <= (g->brought + 1) * 2 * BLOCK;
}

/* What is to be read instead of this record alone; NULL: nothing. */
static struct swap_group *group_begin(struct swapfile *f, const struct swap_ask *ask)
{
    struct swap_group is = {.state = GROUP_READING,
                            .cluster = ask->where.slot / RECORDS_MAX,
                            .generation = ask->where.generation,
                            .since_ns = ask->since_ns};

    if (!atomic_load_explicit(&f->group_bytes, memory_order_acquire) || many_reads(f) ||
        !worth_it(&f->worth) || !group_choose(f, ask, &is))
        return NULL;
    struct swap_group *g = group_room(f);
    if (!g)
        return NULL;
    *g = is;
    count(&f->prefetched, g->brought);
    return g;
}

static void distrust(struct swapfile *f, struct swap_group *g)
{
    group_drop(f, g);
    f->worth = (struct worth){.brought = LEARN_PAGES};
}

void swapfile_distrust(struct swapfile *file, const struct swap_where *where)
{
    struct swap_group *g = group_of(file, where);

    if (g && g->state == GROUP_HERE)
        distrust(file, g);
}

const void *swapfile_ready(struct swapfile *file, const struct swap_where *where, uint64_t since_ns)
{
    struct swap_group *g = group_of(file, where);

    if (!g || g->state != GROUP_HERE)
        return NULL;
    group_use(file, g, where, since_ns);
    if (g->used == g->brought && !group_wanted(file, g))
        group_drop(file, g); /* it has nothing more to give; its buffer stays as it is for now */
    return group_data(file, g) + (where->offset - g->offset);
}

/* ---- the fault server's reads */

/* n: bytes, or -errno. */
static void group_done(struct swapfile *f, struct swap_group *g, int64_t n)
{
    bool here = n >= 0 && (uint32_t)n >= g->bytes;

    g->state = GROUP_HERE;
    for (unsigned i = 0; i < FETCHES; i++)
        if (f->fetch[i].used && f->fetch[i].group == g && !f->fetch[i].ready) {
            f->fetch[i].result = here ? 0 : -EAGAIN; /* whoever waits asks again, for it alone */
            f->fetch[i].ready = true;
        }
    if (!here)
        distrust(f, g);
}

static void fetch_done(struct swap_fetch *x, int64_t n)
{
    uint32_t bytes, skip;
    uint64_t offset;

    window(&x->where, &offset, &bytes, &skip);
    x->result = n < 0 ? (passes((int)-n) ? -EAGAIN : (int)n) : (uint32_t)n < bytes ? -EIO : 0;
    x->ready = true;
}

static bool is_group(const struct swapfile *f, const void *reader)
{
    return (uintptr_t)reader - (uintptr_t)f->group < sizeof f->group;
}

static void read_done(struct swapfile *f, void *reader, int64_t n)
{
    if (is_group(f, reader))
        group_done(f, reader, n);
    else
        fetch_done(reader, n);
}

/* Begins to read for `reader`, a group or a fetch. */
static void begin(struct swapfile *f, void *reader, char *to, uint64_t offset, uint32_t bytes)
{
    struct io_uring_sqe *sqe = f->fetch_async ? io_uring_get_sqe(&f->fetch_ring) : NULL;

    count(&f->reads, 1);
    if (!sqe) {
        ssize_t n = pread(f->fd, to, bytes, (off_t)offset);
        read_done(f, reader, n < 0 ? -errno : n);
        return;
    }
    io_uring_prep_read(sqe, f->fd, to, bytes, offset);
    io_uring_sqe_set_flags(sqe, f->sqe_flags);
    io_uring_sqe_set_data(sqe, reader);
    io_uring_submit(&f->fetch_ring); /* refused for now: swapfile_fetched() tries again */
}

static bool is_same(const struct swap_fetch *x, const struct swap_ask *ask)
{
    return x->region == ask->region && x->page == ask->page && x->where.slot == ask->where.slot &&
           x->where.generation == ask->where.generation;
}

int swapfile_fetch(struct swapfile *file, const struct swap_ask *ask)
{
    struct swap_fetch *alone = NULL, *joins = NULL;
    uint32_t bytes, skip;
    uint64_t offset;

    for (unsigned i = 0; i < FETCHES; i++) {
        struct swap_fetch *x = &file->fetch[i];
        if (x->used && is_same(x, ask))
            return -EALREADY;
        if (!x->used && i < SWAP_FETCHES)
            alone = x;
        else if (!x->used)
            joins = x;
    }
    struct swap_group *under_way = group_of(file, &ask->where);
    struct swap_group *g = under_way ? under_way : joins ? group_begin(file, ask) : NULL;
    struct swap_fetch *x = g ? joins : alone;
    if (!x)
        return -EBUSY;
    *x = (struct swap_fetch){.used = true,
                             .region = ask->region,
                             .page = ask->page,
                             .where = ask->where,
                             .since_ns = ask->since_ns,
                             .group = g};
    file->nfetches++;
    if (g) {
        x->data = group_data(file, g) + (ask->where.offset - g->offset);
        group_use(file, g, &ask->where, ask->since_ns);
        if (under_way)
            x->ready = under_way->state == GROUP_HERE;
        else
            begin(file, g, group_data(file, g), g->offset, g->bytes);
        return 0;
    }
    window(&ask->where, &offset, &bytes, &skip);
    char *to = file->fetch_bytes + (x - file->fetch) * FETCH_BYTES;
    x->data = to + skip;
    begin(file, x, to, offset, bytes);
    return 0;
}

void swapfile_fetch_end(struct swapfile *file, struct swap_fetch *fetch)
{
    fetch->used = false;
    file->nfetches--;
}

unsigned swapfile_fetches(const struct swapfile *file)
{
    return file->nfetches;
}

bool swapfile_fetch_waits(const struct swapfile *file)
{
    for (unsigned i = 0; i < FETCHES; i++)
        if (file->fetch[i].used && file->fetch[i].ready)
            return true;
    return file->fetch_async && io_uring_sq_ready(&file->fetch_ring);
}

bool swapfile_reading(struct swapfile *f)
{
    struct io_uring_cqe *cqe;

    if (f->fetch_async && io_uring_sq_ready(&f->fetch_ring))
        io_uring_submit(&f->fetch_ring);
    while (f->fetch_async && !io_uring_peek_cqe(&f->fetch_ring, &cqe)) {
        read_done(f, io_uring_cqe_get_data(cqe), cqe->res);
        io_uring_cqe_seen(&f->fetch_ring, cqe);
    }
    for (unsigned i = 0; i < FETCHES; i++)
        if (f->fetch[i].used && !f->fetch[i].ready)
            return true;
    return false;
}

/* What ends while the caller goes through them stays in the ring, and wakes it again: it may be one that has
 * been passed already. */
struct swap_fetch *swapfile_fetched(struct swapfile *file, unsigned *at)
{
    if (!*at)
        swapfile_reading(file);
    for (; *at < FETCHES; ++*at)
        if (file->fetch[*at].used && file->fetch[*at].ready)
            return &file->fetch[(*at)++];
    return NULL;
}

int swapfile_fetch_fd(const struct swapfile *file)
{
    return file->fetch_async ? file->fetch_ring.ring_fd : -1;
}

int swapfile_open_record(const struct swapfile *file, const struct swap_where *where, const void *sealed,
                         void *content)
{
    return swapfile_unseal(file, where, sealed, content);
}
