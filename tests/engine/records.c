/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What engines say, checked and counted. The accounts follow the section "References" of memd/wire.h, more
 * strictly than a daemon needs to: a page holds at most one frame at a time, and gives it back before it gets
 * another.
 */
#include "script.h"

#include "kit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Chunks follow the alignment of the host address. */
static bool in_one_chunk(const struct script_region *r, uint32_t page, uint32_t count)
{
    uint64_t first = r->hva + page * PAGE, last = first + (count - 1) * PAGE;

    return first / CHUNK == last / CHUNK;
}

static struct script_region *region_of(struct script_vm *vm, const struct wire_rec *rec, uint32_t page,
                                       uint32_t count)
{
    struct script_region *r = rec->region < WIRE_REGIONS_MAX ? &vm->region[rec->region] : NULL;

    if (r && !r->used) /* it was announced before this was written, but the socket is another channel */
        script_take_messages(vm);
    if (!r || !r->used || page >= r->npages || count > r->npages - page || !count ||
        !in_one_chunk(r, page, count)) {
        script_violation(vm, "record %u names pages %u+%u of region %u", rec->type, page, count, rec->region);
        return NULL;
    }
    return r;
}

static void take_hashes(struct script_vm *vm, const struct wire_rec_hashes *rec, uint32_t bytes)
{
    bool survey = rec->r.type == WIRE_REC_SURVEY;
    uint32_t most = survey ? WIRE_CHUNK_PAGES : WIRE_HASHES_MAX;

    if (bytes < sizeof *rec || bytes != sizeof *rec + rec->count * 8u || rec->count > most) {
        script_violation(vm, "HASHES of %u bytes with count %u", bytes, rec->count);
        return;
    }
    if (!region_of(vm, &rec->r, rec->page, rec->count))
        return;
    for (uint32_t i = 0; !survey && i < rec->count; i++)
        if (!rec->hash[i])
            script_violation(vm, "hash 0 in HASHES");
    if (survey) {
        vm->surveyed += rec->count;
        return;
    }
    vm->hashes += rec->count;
    if (vm->script->matcher)
        matcher_hashes(vm, rec);
}

static void advance_oldest(struct script_vm *vm)
{
    while (vm->oldest_id != vm->next_id && !vm->proposal[vm->oldest_id % SCRIPT_PROPOSALS_MAX].open)
        vm->oldest_id++;
}

static void settle_page(struct script_vm *vm, const struct script_proposal *p, uint32_t i, bool merged)
{
    struct script_region *r = &vm->region[p->region];

    if (merged && (!r->used || r->serial != p->serial)) {
        script_violation(vm, "RESULT merges page %u of a region that is gone", p->page + i);
        merged = false;
    }
    if (merged && r->held[p->page + i]) {
        script_violation(vm, "RESULT merges page %u of region %u, which still holds frame %u", p->page + i,
                         p->region, r->held[p->page + i]);
        merged = false;
    }
    if (merged)
        r->held[p->page + i] = p->frame + i;
    else
        frames_unref(vm->script, p->frame + i, 1);
    vm->merged += merged;
}

static void take_result(struct script_vm *vm, const struct wire_rec_result *rec, uint32_t bytes)
{
    struct script_proposal *p = &vm->proposal[rec->id % SCRIPT_PROPOSALS_MAX];
    uint32_t nmerged = 0;

    if (bytes == sizeof *rec && rec->id >= SCRIPT_ID_NONSENSE) {
        vm->nonsense++;
        for (unsigned i = 0; i < WIRE_CHUNK_PAGES / 64; i++)
            if (rec->merged[i] || !rec->why)
                script_violation(vm, "nonsense %u was merged", rec->id);
        return;
    }
    if (bytes != sizeof *rec || !p->open || p->id != rec->id || p->region != rec->r.region ||
        p->page != rec->page || p->frame != rec->frame || p->count != rec->count) {
        script_violation(vm, "RESULT %u answers no MERGE", rec->id);
        return;
    }
    p->open = false;
    vm->results++;
    for (uint32_t i = 0; i < WIRE_CHUNK_PAGES; i++) {
        bool merged = rec->merged[i / 64] >> (i % 64) & 1;
        if (merged && i >= p->count)
            script_violation(vm, "RESULT %u merges more than was proposed", rec->id);
        if (i < p->count)
            settle_page(vm, p, i, merged);
        nmerged += merged;
    }
    if (rec->why > WIRE_WHY_NOMEM || (!rec->why && nmerged != p->count) || (rec->why && nmerged == p->count))
        script_violation(vm, "RESULT %u: reason %u with %u of %u merged", rec->id, rec->why, nmerged,
                         p->count);
    else
        vm->refused[rec->why] += p->count - nmerged;
    advance_oldest(vm);
}

static void take_dropped(struct script_vm *vm, const struct wire_rec_dropped *rec, uint32_t bytes)
{
    struct script_region *r = bytes == sizeof *rec ? region_of(vm, &rec->r, rec->page, rec->count) : NULL;

    if (bytes != sizeof *rec)
        script_violation(vm, "DROPPED of %u bytes", bytes);
    for (uint32_t i = 0; r && i < rec->count; i++) {
        if (r->held[rec->page + i] != rec->frame + i) {
            script_violation(vm, "DROPPED page %u of region %u gives back frame %u, holds %u", rec->page + i,
                             rec->r.region, rec->frame + i, r->held[rec->page + i]);
            continue;
        }
        r->held[rec->page + i] = 0;
        frames_unref(vm->script, rec->frame + i, 1);
        vm->dropped++;
    }
}

static void take_exported(struct script_vm *vm, const struct wire_rec_export *rec, uint32_t bytes)
{
    if (bytes != sizeof *rec || !vm->exports_asked ||
        (rec->count && (rec->slot >= WIRE_EXPORT_SLOTS || rec->count > WIRE_EXPORT_SLOTS - rec->slot))) {
        script_violation(vm, "EXPORTED nobody asked for");
        return;
    }
    vm->exports_asked--;
    vm->exported += rec->count;
    vm->not_exported += !rec->count;
    if (vm->script->matcher)
        matcher_exported(vm, rec);
}

static void take_token(struct script_vm *vm, const struct wire_rec_token *rec, uint32_t bytes)
{
    if (bytes != sizeof *rec || rec->id >= vm->next_token) {
        script_violation(vm, "token record %u nobody asked for", rec->r.type);
        return;
    }
    advance_oldest(vm);
    if ((int32_t)(vm->oldest_id - vm->fence_bound[rec->id % SCRIPT_TOKENS]) < 0)
        script_violation(vm, "%s before MERGE %u was answered",
                         rec->r.type == WIRE_REC_FENCED ? "FENCED" : "DONE", vm->oldest_id);
    if (rec->r.type == WIRE_REC_FENCED) {
        vm->fenced = rec->id;
    } else {
        vm->done = rec->id;
        vm->done_error = rec->error;
    }
}

static void take_paged(struct script_vm *vm, const struct wire_rec_paged *rec, uint32_t bytes)
{
    if (bytes != sizeof *rec || rec->id != vm->paged.id + 1 || rec->id > vm->next_page_id)
        script_violation(vm, "PAGED nobody asked for, or out of order");
    else
        vm->paged = *rec;
}

static void take_record(struct script_vm *vm, const void *buf, uint32_t bytes)
{
    const struct wire_rec *rec = buf;

    switch (rec->type) {
    case WIRE_REC_HASHES:
    case WIRE_REC_SURVEY:
        take_hashes(vm, buf, bytes);
        break;
    case WIRE_REC_EXPORTED:
        take_exported(vm, buf, bytes);
        break;
    case WIRE_REC_RESULT:
        take_result(vm, buf, bytes);
        break;
    case WIRE_REC_DROPPED:
        take_dropped(vm, buf, bytes);
        break;
    case WIRE_REC_FENCED:
    case WIRE_REC_DONE:
        take_token(vm, buf, bytes);
        break;
    case WIRE_REC_PAGED:
        take_paged(vm, buf, bytes);
        break;
    case WIRE_REC_BALLOON:
        if (!vm->script->options.balloons || bytes != sizeof vm->balloon)
            script_violation(vm, "a BALLOON nobody takes, of %d bytes", (int)bytes);
        else
            memcpy(&vm->balloon, buf, sizeof vm->balloon), vm->balloons++;
        break;
    default:
        script_violation(vm, "record of type %u", rec->type);
    }
    if (vm->script->tap)
        vm->script->tap(vm, rec, vm->script->tap_ctx);
}

int records_take(struct script_vm *vm)
{
    _Alignas(8) uint8_t buf[WIRE_REC_BYTES_MAX];
    int n = 0;

    while (vm->state == VM_LIVE && (n = ring_pop(&vm->up, buf, sizeof buf)) > 0)
        take_record(vm, buf, (uint32_t)n);
    return n;
}

/* ---- adoption */

static void forget_region(struct script_vm *vm, struct script_region *r)
{
    for (uint32_t p = 0; r->held && p < r->npages; p++) {
        if (r->held[p])
            frames_unref(vm->script, r->held[p], 1);
        r->held[p] = 0;
    }
}

static void forget_proposals(struct script_vm *vm)
{
    for (uint32_t i = 0; i < SCRIPT_PROPOSALS_MAX; i++) {
        struct script_proposal *p = &vm->proposal[i];
        if (p->open)
            frames_unref(vm->script, p->frame, p->count);
        p->open = false;
    }
    vm->oldest_id = vm->next_id;
    vm->exports_asked = 0;
}

void records_forget(struct script_vm *vm)
{
    forget_proposals(vm);
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        struct script_region *r = &vm->region[i];
        forget_region(vm, r);
        if (!r->map)
            r->used = false;
    }
}

static uint64_t map_sum(const struct script_vm *vm)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        const struct script_region *r = &vm->region[i];
        for (uint32_t p = 0; r->map && p < r->npages; p++)
            sum = sum * 31 + (uint32_t)(r->map->entry[p] >> WIRE_PAGE_FRAME_SHIFT);
    }
    return sum;
}

void records_ready(struct script_vm *vm)
{
    vm->ready_sum = map_sum(vm);
}

static void adopt_page(struct script_vm *vm, struct script_region *r, uint32_t page)
{
    uint64_t e = r->map->entry[page];
    uint32_t frame = (uint32_t)(e >> WIRE_PAGE_FRAME_SHIFT);
    unsigned state = e & WIRE_PAGE_STATE_MASK;

    if (frame && (e & WIRE_PAGE_F_PENDING || !frames_valid(vm->script, frame, 1) ||
                  (state != WIRE_PAGE_SHARED && state != WIRE_PAGE_REMOTE && !(e & WIRE_PAGE_F_DROPPING)))) {
        script_violation(vm, "page %u comes back as %#llx", page, (unsigned long long)e);
        return;
    }
    if (!frame && (state == WIRE_PAGE_SHARED || state == WIRE_PAGE_REMOTE))
        script_violation(vm, "page %u is shared with nothing", page);
    if (state == WIRE_PAGE_REMOTE && vm->map_version < WIRE_MAP_VERSION_REMOTE)
        script_violation(vm, "page %u is in a state this daemon does not know", page);
    r->held[page] = frame;
    if (frame)
        frames_ref(vm->script, frame, 1);
}

void records_adopt(struct script_vm *vm)
{
    if (map_sum(vm) != vm->ready_sum)
        script_violation(vm, "a page map changed between READY and ADOPTED");
    /* named first, forgotten afterwards: no count passes through zero on the way */
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        struct script_region *r = &vm->region[i];
        for (uint32_t p = 0; r->held && p < r->npages; p++) {
            uint32_t before = r->held[p];
            if (r->map)
                adopt_page(vm, r, p);
            else
                r->held[p] = 0;
            if (before)
                frames_unref(vm->script, before, 1);
        }
        if (!r->map)
            r->used = false;
    }
    forget_proposals(vm);
}

void records_region_gone(struct script_vm *vm, uint32_t region)
{
    struct script_region *r = &vm->region[region];
    uint32_t left = 0;

    if (!r->used) {
        script_violation(vm, "REGION_DEL of region %u, which is not there", region);
        return;
    }
    for (uint32_t p = 0; p < r->npages; p++)
        left += !!r->held[p];
    /* without a live session nothing could be given back in words */
    if (left && vm->state == VM_LIVE)
        script_violation(vm, "region %u goes with %u references", region, left);
    forget_region(vm, r);
    if (r->map)
        munmap((void *)(uintptr_t)r->map, r->map_bytes);
    free(r->held);
    *r = (struct script_region){.serial = r->serial + 1};
}
