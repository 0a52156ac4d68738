/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A matcher: turns hashes into frames and proposals, without policy and without patience. An entry per
 * content: first a candidate page; then, when there are two (or at once, with SCRIPT_MATCH_ALL), one of them
 * is exported; if what was exported still has that hash, it becomes a frame, and every page that was seen
 * with the hash is proposed for it. What cannot be sent at once waits in a queue.
 */
#include "script.h"

#include "kit.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BUCKETS 65536u

struct place {
    struct script_vm *vm;
    uint32_t region, page;
};

struct entry {
    struct entry *next;
    uint64_t hash;
    uint32_t frame; /* 0: none yet */
    bool exporting;
    uint32_t n, room; /* pages seen with this hash and not proposed yet */
    struct place *place;
};

struct wish {
    struct entry *entry;
    struct place place;
    bool export_;
};

struct matcher {
    struct entry *bucket[BUCKETS];
    struct wish *queue;
    uint32_t head, n, room; /* queue[head, head+n) */
    struct {
        struct script_vm *vm;
        struct entry *entry;
    } slot[WIRE_EXPORT_SLOTS];
};

struct matcher *matcher_new(void)
{
    struct matcher *m = calloc(1, sizeof *m);

    CHECK(m, "no memory");
    return m;
}

void matcher_free(struct matcher *m)
{
    for (uint32_t b = 0; m && b < BUCKETS; b++)
        for (struct entry *e = m->bucket[b], *next; e; e = next) {
            next = e->next;
            free(e->place);
            free(e);
        }
    if (m)
        free(m->queue);
    free(m);
}

static struct entry *find(struct matcher *m, uint64_t hash)
{
    struct entry **at = &m->bucket[hash % BUCKETS];

    for (struct entry *e = *at; e; e = e->next)
        if (e->hash == hash)
            return e;
    struct entry *e = calloc(1, sizeof *e);
    CHECK(e, "no memory");
    e->hash = hash;
    e->next = *at;
    *at = e;
    return e;
}

static void remember(struct entry *e, struct place place)
{
    for (uint32_t i = 0; i < e->n; i++)
        if (!memcmp(&e->place[i], &place, sizeof place))
            return;
    if (e->n == e->room) {
        e->room = e->room ? 2 * e->room : 4;
        e->place = realloc(e->place, e->room * sizeof *e->place);
        CHECK(e->place, "no memory");
    }
    e->place[e->n++] = place;
}

static void enqueue(struct matcher *m, struct wish wish)
{
    if (m->head + m->n == m->room) {
        if (m->n)
            memmove(m->queue, m->queue + m->head, m->n * sizeof *m->queue);
        m->head = 0;
        if (m->n >= m->room / 2) {
            m->room = m->room ? 2 * m->room : 1024;
            m->queue = realloc(m->queue, m->room * sizeof *m->queue);
            CHECK(m->queue, "no memory");
        }
    }
    m->queue[m->head + m->n++] = wish;
}

static void consider(struct script *s, struct entry *e)
{
    if (e->frame) {
        for (uint32_t i = 0; i < e->n; i++)
            enqueue(s->matcher, (struct wish){e, e->place[i], false});
        e->n = 0;
    } else if (!e->exporting && e->n >= (s->options.match == SCRIPT_MATCH_ALL ? 1u : 2u)) {
        e->exporting = true;
        enqueue(s->matcher, (struct wish){e, e->place[e->n - 1], true});
    }
}

void matcher_hashes(struct script_vm *vm, const struct wire_rec_hashes *rec)
{
    for (uint32_t i = 0; i < rec->count; i++) {
        struct entry *e = find(vm->script->matcher, rec->hash[i]);
        remember(e, (struct place){vm, rec->r.region, rec->page + i});
        consider(vm->script, e);
    }
}

void matcher_exported(struct script_vm *vm, const struct wire_rec_export *rec)
{
    struct matcher *m = vm->script->matcher;
    struct entry *e = m->slot[rec->slot].entry;
    static _Thread_local uint8_t copy[PAGE];

    if (!e || m->slot[rec->slot].vm != vm) {
        script_violation(vm, "EXPORTED slot %u, where nothing was asked for", rec->slot);
        return;
    }
    m->slot[rec->slot].entry = NULL;
    e->exporting = false;
    memcpy(copy, vm->shm->exports[rec->slot], PAGE);
    uint64_t hash = XXH3_64bits(copy, PAGE);
    if (rec->count == 1 && (hash ? hash : 1) == e->hash) {
        e->frame = frames_one(vm->script, copy);
    } else { /* it has changed: the next one, if there is one */
        for (uint32_t i = 0; i < e->n; i++)
            if (e->place[i].vm == vm && e->place[i].region == rec->r.region && e->place[i].page == rec->page)
                e->place[i--] = e->place[--e->n];
    }
    consider(vm->script, e);
}

/* False: no slot or no room now. */
static bool send_export(struct matcher *m, const struct wish *w)
{
    unsigned slot = 0;

    while (slot < WIRE_EXPORT_SLOTS && m->slot[slot].entry)
        slot++;
    if (slot == WIRE_EXPORT_SLOTS)
        return false;
    struct wire_rec_export *rec = orders_reserve(w->place.vm, WIRE_REC_EXPORT, w->place.region, sizeof *rec);
    if (!rec)
        return false;
    rec->page = w->place.page;
    rec->count = 1;
    rec->slot = (uint16_t)slot;
    m->slot[slot].entry = w->entry;
    m->slot[slot].vm = w->place.vm;
    w->place.vm->exports_asked++;
    return true;
}

/* How many wishes at the head of the queue make one MERGE. */
static uint32_t run_length(const struct matcher *m)
{
    const struct wish *w = &m->queue[m->head];
    const struct script_region *r = &w->place.vm->region[w->place.region];
    uint32_t n = 1;

    while (n < m->n && !w[n].export_ && w[n].place.vm == w->place.vm &&
           w[n].place.region == w->place.region && w[n].place.page == w->place.page + n &&
           w[n].entry->frame == w->entry->frame + n && (r->hva + w[n].place.page * PAGE) % CHUNK)
        n++;
    return n;
}

void matcher_turn(struct script *s)
{
    struct matcher *m = s->matcher;

    while (m->n) {
        struct wish *w = &m->queue[m->head];
        uint32_t n = 1;
        if (w->place.vm->state == VM_LIVE && w->place.vm->region[w->place.region].used) {
            if (!w->export_)
                n = run_length(m);
            bool sent = w->export_ ? send_export(m, w)
                                   : orders_merge(w->place.vm, w->place.region, w->place.page,
                                                  w->entry->frame, n) != 0;
            if (!sent)
                break;
        } else if (w->export_) {
            w->entry->exporting = false;
        }
        m->head += n;
        m->n -= n;
    }
    for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++)
        if (s->vm[i] && s->vm[i]->state == VM_LIVE)
            orders_publish(s->vm[i]);
}

void matcher_forget(struct script_vm *vm)
{
    struct matcher *m = vm->script->matcher;

    for (unsigned i = 0; i < WIRE_EXPORT_SLOTS; i++)
        if (m->slot[i].entry && m->slot[i].vm == vm) {
            m->slot[i].entry->exporting = false;
            m->slot[i].entry = NULL;
        }
    for (uint32_t b = 0; b < BUCKETS; b++)
        for (struct entry *e = m->bucket[b]; e; e = e->next)
            for (uint32_t i = 0; i < e->n; i++)
                if (e->place[i].vm == vm)
                    e->place[i--] = e->place[--e->n];
}
