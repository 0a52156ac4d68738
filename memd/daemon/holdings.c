/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see holdings.h. Vectors are short (a chunk of real guests has some 15 runs), so they
 * are searched from the front. */
#include "memd/daemon/holdings.h"

#include "memd/wire.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct run {
    uint32_t frame;
    uint16_t first, count; /* pages of the chunk */
};
static_assert(sizeof(struct run) == 8, "a run is small");

struct holdings_chunk {
    uint16_t n, room;
    struct run run[]; /* by `first` */
};

#define ROOM_MIN 3u
/* Runs of a chunk. A page holds one frame, and for a while two: what is more is held for an engine that
 * answers nothing. Ranges taken out of the middle make more runs of what is there. */
#define RUNS_MAX (4 * WIRE_CHUNK_PAGES)
#define CUTS_MAX (8 * WIRE_CHUNK_PAGES)

static size_t chunk_bytes(unsigned room)
{
    return sizeof(struct holdings_chunk) + room * sizeof(struct run);
}

int holdings_open(struct holdings *holdings, uint64_t npages)
{
    uint32_t nchunks = (uint32_t)((npages + WIRE_CHUNK_PAGES - 1) / WIRE_CHUNK_PAGES);
    struct holdings_chunk **chunk = calloc(nchunks, sizeof *chunk);
    if (!chunk)
        return -ENOMEM;
    *holdings = (struct holdings){.chunk = chunk, .nchunks = nchunks, .bytes = nchunks * sizeof *chunk};
    return 0;
}

void holdings_close(struct holdings *holdings)
{
    for (uint32_t i = 0; i < holdings->nchunks; i++)
        free(holdings->chunk[i]);
    free(holdings->chunk);
    *holdings = (struct holdings){0};
}

/* ---------------------------------------------------------------- one chunk */

/* The run that has the pair (page, frame); or -1. */
static int find_pair(const struct holdings_chunk *chunk, unsigned page, uint32_t frame)
{
    for (unsigned i = 0; i < chunk->n && chunk->run[i].first <= page; i++) {
        const struct run *run = &chunk->run[i];
        if (page < (unsigned)run->first + run->count && frame - run->frame == page - run->first)
            return (int)i;
    }
    return -1;
}

static bool has_any(const struct holdings_chunk *chunk, unsigned page, unsigned count, uint32_t frame)
{
    for (unsigned i = 0; i < chunk->n && chunk->run[i].first < page + count; i++) {
        const struct run *run = &chunk->run[i];
        if (run->first + (unsigned)run->count > page && frame - run->frame == (uint32_t)page - run->first)
            return true;
    }
    return false;
}

static bool has_all(const struct holdings_chunk *chunk, unsigned page, unsigned count, uint32_t frame)
{
    for (unsigned done = 0; done < count;) {
        int at = find_pair(chunk, page + done, frame + done);
        if (at < 0)
            return false;
        done = chunk->run[at].first + (unsigned)chunk->run[at].count - page;
    }
    return true;
}

/* Make room for `extra` more runs. */
static int grow(struct holdings *holdings, uint32_t number, unsigned extra, unsigned most)
{
    struct holdings_chunk *chunk = holdings->chunk[number];
    unsigned n = chunk ? chunk->n : 0, room = chunk ? chunk->room : 0;
    if (n + extra > most)
        return -ENOMEM;
    if (n + extra <= room)
        return 0;

    unsigned want = n + extra + n / 4;
    want = want < ROOM_MIN ? ROOM_MIN : want | 1; /* malloc() rounds to 16 bytes: fill them */
    struct holdings_chunk *grown = realloc(chunk, chunk_bytes(want));
    if (!grown)
        return -ENOMEM;
    grown->n = (uint16_t)n;
    grown->room = (uint16_t)want;
    holdings->bytes += chunk_bytes(want) - (chunk ? chunk_bytes(room) : 0);
    holdings->chunk[number] = grown;
    return 0;
}

/* Memory goes back when a vector has become empty or mostly so; failing to shrink is harmless. */
static void shrink(struct holdings *holdings, uint32_t number)
{
    struct holdings_chunk *chunk = holdings->chunk[number];
    unsigned room = chunk->room, want = chunk->n + ROOM_MIN;

    if (!chunk->n) {
        holdings->bytes -= chunk_bytes(room);
        free(chunk);
        holdings->chunk[number] = NULL;
    } else if (room > 2 * want) {
        struct holdings_chunk *shrunk = realloc(chunk, chunk_bytes(want));
        if (!shrunk)
            return;
        shrunk->room = (uint16_t)want;
        holdings->bytes -= chunk_bytes(room) - chunk_bytes(want);
        holdings->chunk[number] = shrunk;
    }
}

static void insert_run(struct holdings_chunk *chunk, unsigned at, struct run run)
{
    memmove(&chunk->run[at + 1], &chunk->run[at], (chunk->n - at) * sizeof run);
    chunk->run[at] = run;
    chunk->n++;
}

static void delete_run(struct holdings_chunk *chunk, unsigned at)
{
    chunk->n--;
    memmove(&chunk->run[at], &chunk->run[at + 1], (chunk->n - at) * sizeof chunk->run[0]);
}

static bool continues(const struct run *a, const struct run *b)
{
    return a->first + a->count == b->first && a->frame + a->count == b->frame;
}

/* ---------------------------------------------------------------- adding and removing */

int holdings_add(struct holdings *holdings, uint32_t page, uint32_t count, uint32_t frame)
{
    uint32_t number = page / WIRE_CHUNK_PAGES;
    unsigned first = page % WIRE_CHUNK_PAGES;
    struct run run = {.frame = frame, .first = (uint16_t)first, .count = (uint16_t)count};

    if (holdings->chunk[number] && has_any(holdings->chunk[number], first, count, frame))
        return -EEXIST;
    if (grow(holdings, number, 1, RUNS_MAX))
        return -ENOMEM;

    struct holdings_chunk *chunk = holdings->chunk[number];
    unsigned at = 0;
    while (at < chunk->n && chunk->run[at].first < first)
        at++;
    /* join with what comes before, which need not be the neighbour in the vector */
    int before = first && at ? find_pair(chunk, first - 1, frame - 1) : -1;
    if (before >= 0) {
        chunk->run[before].count = (uint16_t)(chunk->run[before].count + count);
    } else {
        insert_run(chunk, at, run);
        before = (int)at;
    }
    for (unsigned next = (unsigned)before + 1; next < chunk->n; next++) {
        if (chunk->run[next].first > first + count)
            break;
        if (continues(&chunk->run[before], &chunk->run[next])) {
            chunk->run[before].count = (uint16_t)(chunk->run[before].count + chunk->run[next].count);
            delete_run(chunk, next);
            break;
        }
    }
    holdings->pages += count;
    return 0;
}

/* Take [page, page+count) out of run `at`, which has all of them; there is room for another run if it takes
 * one. */
static void cut(struct holdings_chunk *chunk, unsigned at, unsigned page, unsigned count)
{
    struct run *run = &chunk->run[at];
    unsigned before = page - run->first, after = run->first + (unsigned)run->count - page - count;

    if (!before && !after) {
        delete_run(chunk, at);
        return;
    }
    struct run rest = {
        .frame = run->frame + before + count, .first = (uint16_t)(page + count), .count = (uint16_t)after};
    run->count = (uint16_t)before;
    if (!before)
        delete_run(chunk, at);
    if (!after)
        return;
    while (at < chunk->n && chunk->run[at].first < rest.first)
        at++;
    insert_run(chunk, at, rest);
}

int holdings_remove(struct holdings *holdings, uint32_t page, uint32_t count, uint32_t frame)
{
    uint32_t number = page / WIRE_CHUNK_PAGES;
    unsigned first = page % WIRE_CHUNK_PAGES;

    if (number >= holdings->nchunks || first + count > WIRE_CHUNK_PAGES || !holdings->chunk[number] ||
        !has_all(holdings->chunk[number], first, count, frame))
        return -ENOENT;
    /* cutting the middle out of a run makes two of it; a range of several runs only shortens its ends */
    const struct run *run = &holdings->chunk[number]->run[find_pair(holdings->chunk[number], first, frame)];
    if (run->first < first && run->first + (unsigned)run->count > first + count &&
        grow(holdings, number, 1, CUTS_MAX))
        return -ENOMEM;

    for (unsigned done = 0; done < count;) {
        struct holdings_chunk *chunk = holdings->chunk[number];
        int found = find_pair(chunk, first + done, frame + done);
        assert(found >= 0 && (unsigned)found < chunk->n); /* has_all() saw every pair */
        unsigned at = (unsigned)found;
        unsigned left = chunk->run[at].first + (unsigned)chunk->run[at].count - (first + done);
        unsigned n = left < count - done ? left : count - done;
        cut(chunk, at, first + done, n);
        done += n;
    }
    holdings->pages -= count;
    shrink(holdings, number);
    return 0;
}

/* ---------------------------------------------------------------- looking */

bool holdings_has(const struct holdings *holdings, uint32_t page, uint32_t count, uint32_t frame)
{
    uint32_t number = page / WIRE_CHUNK_PAGES;
    unsigned first = page % WIRE_CHUNK_PAGES;
    return number < holdings->nchunks && first + count <= WIRE_CHUNK_PAGES && holdings->chunk[number] &&
           has_all(holdings->chunk[number], first, count, frame);
}

uint32_t holdings_frame(const struct holdings *holdings, uint32_t page)
{
    uint32_t number = page / WIRE_CHUNK_PAGES;
    unsigned first = page % WIRE_CHUNK_PAGES;
    const struct holdings_chunk *chunk = number < holdings->nchunks ? holdings->chunk[number] : NULL;

    for (unsigned i = 0; chunk && i < chunk->n && chunk->run[i].first <= first; i++)
        if (first < (unsigned)chunk->run[i].first + chunk->run[i].count)
            return chunk->run[i].frame + first - chunk->run[i].first;
    return 0;
}

void holdings_each(const struct holdings *holdings, holdings_visit *visit, void *ctx)
{
    for (uint32_t number = 0; number < holdings->nchunks; number++) {
        const struct holdings_chunk *chunk = holdings->chunk[number];
        for (unsigned i = 0; chunk && i < chunk->n; i++)
            visit(ctx, number * WIRE_CHUNK_PAGES + chunk->run[i].first, chunk->run[i].count,
                  chunk->run[i].frame);
    }
}
