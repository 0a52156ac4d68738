/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: all buffers that wait are read, their pages go into one set, the set is discarded in
 * its largest runs, and only then are the buffers returned. So a driver that queues many small buffers costs
 * no more system calls than one that queues a large one. When the set is full it is discarded in between,
 * which the specification allows: the pages are the device's from the moment it has seen their numbers.
 *
 * Inflate and deflate buffers are arrays of le32 page numbers; pieces may end anywhere, also within a number.
 * A number that is not in RAM is skipped by itself. A reporting buffer's descriptors are the free ranges.
 *
 * Where the host's page is larger than 4 KiB, a bit for each page says that it is in the balloon, and a host
 * page is discarded when all its bits are set. That needs a driver that tells before it takes a page back
 * (MUST_TELL_HOST); of another one, and of reports, only host pages that are given up at once are discarded.
 */
#include <endian.h>
#include <string.h>

#include "balloon-driver/device/device.h"

#define PAGE          ((uint64_t)MEMD_BALLOON_PAGE_BYTES)
#define NUMBERS_MAX   16384u /* looked at in one buffer; Linux sends 256, Windows 1024 */
#define COPY_BYTES    4096u
#define RETRY_BYTES   (2ull << 20)
#define BITS_PER_WORD 64u

/* One round of work on one queue. */
struct round {
    struct memd_balloon *b;
    enum role role;
    struct memd_balloon_info add; /* counters */
    const struct ram_part *part;  /* where the last page was found */

    const struct ram_part *ranges_part; /* ranges of it that are to be discarded together */
    unsigned nranges;
};

/* ---------------------------------------------------------------- the host's memory */

static int discard(struct round *r, const struct ram_part *part, uint64_t offset, uint64_t bytes)
{
    int error = r->b->discard(r->b->ctx, part->number, offset, bytes);

    r->add.discards++;
    return error;
}

/* What cannot be given back as a whole (some of it is pinned) is tried in pieces. */
static void discard_range(struct round *r, const struct ram_part *part, uint64_t offset, uint64_t bytes)
{
    uint64_t step = part->page_bytes > RETRY_BYTES ? part->page_bytes : RETRY_BYTES;
    uint64_t end = offset + bytes;

    if (discard(r, part, offset, bytes) == 0) {
        r->add.discarded_bytes += bytes;
        return;
    }
    if (bytes <= step) {
        r->add.failed_bytes += bytes;
        return;
    }
    while (offset < end) {
        uint64_t next = (offset / step + 1) * step;
        next = next < end ? next : end;
        if (discard(r, part, offset, next - offset) == 0)
            r->add.discarded_bytes += next - offset;
        else
            r->add.failed_bytes += next - offset;
        offset = next;
    }
}

static void flush_ranges(struct round *r)
{
    const struct memd_balloon_range *range = r->b->range;
    unsigned n = r->nranges;

    r->nranges = 0;
    bool all = n > 1 && r->b->discard_ranges(r->b->ctx, r->ranges_part->number, range, n) == 0;
    for (unsigned i = 0; i < n; i++) {
        if (!all) {
            discard_range(r, r->ranges_part, range[i].offset, range[i].bytes);
            continue;
        }
        r->add.discards++;
        r->add.discarded_bytes += range[i].bytes;
    }
}

/* One range more of a part that gives back any page. */
static void add_range(struct round *r, const struct ram_part *part, uint64_t offset, uint64_t bytes)
{
    if (!r->b->discard_ranges) {
        discard_range(r, part, offset, bytes);
        return;
    }
    if (r->nranges == MEMD_BALLOON_RANGES_MAX || r->ranges_part != part)
        flush_ranges(r);
    r->ranges_part = part;
    r->b->range[r->nranges++] = (struct memd_balloon_range){offset, bytes};
}

/* Set (or clear) bits [first, end), or ask whether all are set. */
enum bits_op { BITS_SET, BITS_CLEAR, BITS_ALL };

static bool bits(uint64_t *map, uint64_t first, uint64_t end, enum bits_op op)
{
    while (first < end) {
        uint64_t *word = &map[first / BITS_PER_WORD];
        uint64_t from = first % BITS_PER_WORD, n = BITS_PER_WORD - from;
        n = n < end - first ? n : end - first;
        uint64_t mask = (n == BITS_PER_WORD ? UINT64_MAX : (1ull << n) - 1) << from;

        if (op == BITS_SET)
            *word |= mask;
        else if (op == BITS_CLEAR)
            *word &= ~mask;
        else if ((*word & mask) != mask)
            return false;
        first += n;
    }
    return true;
}

/* Is host page `host` of the part to be discarded, after pages [first, end) were given up? */
static bool host_page_is_free(struct round *r, const struct ram_part *part, uint64_t host, uint64_t first,
                              uint64_t end)
{
    uint64_t n = part->page_bytes / PAGE;

    if (first <= host * n && (host + 1) * n <= end)
        return true;
    return r->role == ROLE_INFLATE && r->b->features & MEMD_BALLOON_MUST_TELL_HOST &&
           bits(part->taken, host * n, (host + 1) * n, BITS_ALL);
}

/* Pages [first, end) of a part with large host pages. */
static void give_up_large(struct round *r, const struct ram_part *part, uint64_t first, uint64_t end)
{
    uint64_t n = part->page_bytes / PAGE, host = first / n, last = (end - 1) / n;
    uint64_t bytes_before = r->add.discarded_bytes + r->add.failed_bytes;

    if (r->role == ROLE_INFLATE)
        bits(part->taken, first, end, BITS_SET);
    while (host <= last) {
        uint64_t from = host;
        while (host <= last && host_page_is_free(r, part, host, first, end))
            host++;
        if (from < host)
            discard_range(r, part, from * part->page_bytes, (host - from) * part->page_bytes);
        else
            host++;
    }
    if (r->role == ROLE_REPORTING)
        r->add.kept_bytes +=
            (end - first) * PAGE - (r->add.discarded_bytes + r->add.failed_bytes - bytes_before);
}

/* A run within a part, in pages from its start. */
static void on_run(struct round *r, struct ram_part *part, uint64_t first, uint64_t end)
{
    if (r->role == ROLE_DEFLATE) {
        if (part->taken)
            bits(part->taken, first, end, BITS_CLEAR);
    } else if (part->taken) {
        give_up_large(r, part, first, end);
    } else {
        add_range(r, part, first * PAGE, (end - first) * PAGE);
    }
}

static void flush(struct round *r)
{
    struct runs *runs = &r->b->runs;

    runs_sort(runs);
    for (unsigned i = 0; i < runs->n; i++) {
        uint64_t first = runs->at[i].first;
        while (first < runs->at[i].end) {
            struct ram_part *part = ram_find(&r->b->ram, first * PAGE); /* there is one: see add_run() */
            uint64_t part_first = part->gpa / PAGE, end = part_first + part->bytes / PAGE;
            end = end < runs->at[i].end ? end : runs->at[i].end;
            on_run(r, part, first - part_first, end - part_first);
            first = end;
        }
    }
    flush_ranges(r);
    runs->n = 0;
}

/* Pages [first, end), all in RAM. */
static void add_run(struct round *r, uint64_t first, uint64_t end)
{
    if (runs_add(&r->b->runs, first, end))
        return;
    flush(r);
    runs_add(&r->b->runs, first, end);
}

/* ---------------------------------------------------------------- inflate and deflate */

/* Page numbers of a buffer as they come in pieces. */
struct numbers {
    uint8_t bytes[COPY_BYTES + sizeof(uint32_t)]; /* the copy they are read from */
    size_t used;
    unsigned left;
};

static void on_number(struct round *r, uint32_t number)
{
    uint64_t gpa = number * PAGE; /* 64 bits: numbers from 2^20 on are beyond 4 GiB */

    if (!r->part || gpa < r->part->gpa || gpa - r->part->gpa >= r->part->bytes)
        r->part = ram_find(&r->b->ram, gpa);
    if (!r->part) {
        r->add.skipped_pages++;
        return;
    }
    if (r->role == ROLE_INFLATE)
        r->add.inflated_pages++;
    else
        r->add.deflated_pages++;
    add_run(r, number, number + 1ull);
}

static void take_numbers(struct round *r, struct numbers *numbers)
{
    size_t n = numbers->used / sizeof(uint32_t);

    for (size_t i = 0; i < n; i++) {
        uint32_t number;
        memcpy(&number, numbers->bytes + i * sizeof number, sizeof number);
        if (numbers->left == 0) {
            r->add.skipped_pages++;
        } else {
            numbers->left--;
            on_number(r, le32toh(number));
        }
    }
    numbers->used -= n * sizeof(uint32_t);
    memmove(numbers->bytes, numbers->bytes + n * sizeof(uint32_t), numbers->used);
}

static void read_numbers(struct round *r, struct chain *chain)
{
    struct numbers numbers = {.left = NUMBERS_MAX};
    struct piece piece;

    while (chain_next(chain, false, &piece)) {
        const uint8_t *from = ram_pointer(&r->b->ram, piece.gpa, piece.bytes);
        if (!from) {
            chain->bad++;
            continue;
        }
        if (numbers.left == 0)
            r->add.skipped_pages += piece.bytes / sizeof(uint32_t);
        for (uint32_t done = 0; done < piece.bytes && numbers.left > 0;) {
            uint32_t n = piece.bytes - done < COPY_BYTES ? piece.bytes - done : COPY_BYTES;
            memcpy(numbers.bytes + numbers.used, from + done, n);
            numbers.used += n;
            done += n;
            take_numbers(r, &numbers);
            if (numbers.left == 0)
                r->add.skipped_pages += (piece.bytes - done) / sizeof(uint32_t);
        }
    }
}

/* ---------------------------------------------------------------- reporting */

static void report(struct round *r, struct ram_part *part, uint64_t from, uint64_t to)
{
    uint64_t first = (from + PAGE - 1) / PAGE, end = to / PAGE;

    r->add.reported_bytes += to - from;
    if (r->b->features & MEMD_BALLOON_PAGE_POISON && r->b->poison != 0) {
        r->add.kept_bytes += to - from; /* fresh memory reads as zeros, the driver relies on another value */
        return;
    }
    if (first >= end) {
        r->add.kept_bytes += to - from;
        return;
    }
    r->add.kept_bytes += to - from - (end - first) * PAGE;
    add_run(r, part->gpa / PAGE + first, part->gpa / PAGE + end);
}

static void read_ranges(struct round *r, struct chain *chain)
{
    struct piece piece;

    while (chain_next(chain, true, &piece)) {
        uint64_t gpa = piece.gpa, left = piece.bytes;
        while (left > 0) {
            struct ram_part *part = ram_find(&r->b->ram, gpa);
            if (!part) {
                chain->bad++;
                break;
            }
            uint64_t offset = gpa - part->gpa, n = part->bytes - offset;
            n = n < left ? n : left;
            report(r, part, offset, offset + n);
            gpa += n;
            left -= n;
        }
    }
}

/* ---------------------------------------------------------------- the round */

static void add_counters(struct memd_balloon *b, const struct memd_balloon_info *add)
{
    struct memd_balloon_info *sum = &b->counters;

    pthread_mutex_lock(&b->lock);
    sum->inflated_pages += add->inflated_pages;
    sum->deflated_pages += add->deflated_pages;
    sum->skipped_pages += add->skipped_pages;
    sum->reported_bytes += add->reported_bytes;
    sum->kept_bytes += add->kept_bytes;
    sum->discarded_bytes += add->discarded_bytes;
    sum->failed_bytes += add->failed_bytes;
    sum->discards += add->discards;
    sum->bad_descriptors += add->bad_descriptors;
    pthread_mutex_unlock(&b->lock);
}

int pages_serve(struct memd_balloon *b, unsigned index, bool *ret_interrupt)
{
    struct queue *q = &b->queue[index];
    struct round r = {.b = b, .role = b->role[index]};
    int pending = queue_pending(q), head = 0;
    unsigned nheads = 0;

    *ret_interrupt = false;
    for (int i = 0; i < pending; i++) {
        head = queue_take(q);
        if (head < 0)
            break;
        struct chain chain = queue_chain(q, (uint16_t)head);
        if (r.role == ROLE_REPORTING)
            read_ranges(&r, &chain);
        else
            read_numbers(&r, &chain);
        r.add.bad_descriptors += chain.bad;
        b->heads[nheads++] = (uint16_t)head;
    }
    flush(&r);
    add_counters(b, &r.add); /* before the driver may go on: who sees it go on finds it counted */
    for (unsigned i = 0; i < nheads; i++)
        queue_return(q, b->heads[i]);
    if (nheads > 0)
        *ret_interrupt = queue_publish(q);
    return pending < 0 ? pending : head < 0 ? head : 0;
}
