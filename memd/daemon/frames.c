/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see domain.h. This file: frames of a domain, their references, retirement, the fence,
 * and the index after a restart. */
#include "memd/common/clock.h"
#include "memd/common/hash.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/domain.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdlib.h>

#define FENCE_WAIT_NS     (200 * CLOCK_MS) /* retired frames wait this long for company */
#define FENCE_FRAMES      4096u            /* but not beyond this many */
#define REHASH_READ_PAGES 32u

/* ---------------------------------------------------------------- looking up */

struct store *domain_store(struct domain *domain, uint32_t number)
{
    uint32_t node = number >> WIRE_FRAME_NODE_SHIFT;
    return node < domain->nstores ? &domain->stores[node] : NULL;
}

struct frame *domain_frame(struct domain *domain, uint32_t number)
{
    struct store *store = domain_store(domain, number);
    uint32_t index = number & WIRE_FRAME_INDEX_MASK;
    return store && index && index < store->nframes ? &store->frames[index] : NULL;
}

unsigned domain_node(const struct domain *domain, int node)
{
    return node >= 0 && (unsigned)node < domain->nstores ? (unsigned)node : 0;
}

struct index *domain_index(struct domain *domain, unsigned node)
{
    return &domain->indexes[domain->nindexes > 1 ? node : 0];
}

/* ---------------------------------------------------------------- references */

static void limbo_add(struct domain_limbo *limbo, uint32_t number)
{
    if (limbo->n == limbo->room) {
        uint32_t room = limbo->room ? limbo->room * 2 : 64;
        uint32_t *grown = realloc(limbo->frame, room * sizeof *grown);
        if (!grown) /* the frame is leaked until the domain is deserted; its bytes stay valid */
            return;
        limbo->frame = grown;
        limbo->room = room;
    }
    limbo->frame[limbo->n++] = number;
}

static void retire(struct domain *domain, uint32_t number, struct frame *frame)
{
    if (!cds_list_empty(&domain->awaited))
        return;
    index_remove(domain_index(domain, number >> WIRE_FRAME_NODE_SHIFT), frame);
    frame->state = FRAME_LIMBO;
    if (!domain->retired.n)
        domain->retired_ns = clock_now_ns();
    limbo_add(&domain->retired, number);
}

void domain_retire_unused(struct domain *domain)
{
    for (unsigned s = 0; s < domain->nstores; s++) {
        struct store *store = &domain->stores[s];
        for (uint32_t i = 1; i < store->top; i++) {
            struct frame *frame = &store->frames[i];
            if (!frame->refs && (frame->state == FRAME_LIVE || frame->state == FRAME_UNHASHED))
                retire(domain, store_frame_number(store, i), frame);
        }
    }
}

void domain_ref(struct domain *domain, uint32_t first, uint32_t count)
{
    for (uint32_t number = first; number < first + count; number++) {
        struct frame *frame = domain_frame(domain, number);
        if (!frame->refs++)
            domain->frames_shared++;
    }
    domain->refs += count;
    domain->change++;
}

void domain_unref(struct domain *domain, uint32_t first, uint32_t count)
{
    for (uint32_t number = first; number < first + count; number++) {
        struct frame *frame = domain_frame(domain, number);
        if (!--frame->refs) {
            domain->frames_shared--;
            retire(domain, number, frame);
        }
    }
    domain->refs -= count;
    domain->change++;
}

void domain_drop_unseen(struct domain *domain, uint32_t number)
{
    struct frame *frame = domain_frame(domain, number);
    index_remove(domain_index(domain, number >> WIRE_FRAME_NODE_SHIFT), frame);
    store_free(domain_store(domain, number), number & WIRE_FRAME_INDEX_MASK, 1);
}

/* ---------------------------------------------------------------- no room */

uint64_t domain_used_frames(const struct domain *domain)
{
    uint64_t used = 0;

    for (unsigned i = 0; i < domain->nstores; i++)
        used += domain->stores[i].used;
    return used;
}

void domain_ran_full(struct domain *domain)
{
    domain->full_frames = domain_used_frames(domain);
}

/* ---------------------------------------------------------------- the fence */

static bool everybody_answered(const struct domain *domain)
{
    struct vm *vm;
    cds_list_for_each_entry (vm, &domain->vms, domain_link)
        if (vm->fence < domain->fence)
            return false;
    return true;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Neighbours go in one piece: a hole each. */
static void free_frames(struct domain *domain, struct domain_limbo *limbo)
{
    qsort(limbo->frame, limbo->n, sizeof limbo->frame[0], compare_numbers);
    for (uint32_t i = 0, n; i < limbo->n; i += n) {
        uint32_t first = limbo->frame[i];
        for (n = 1; i + n < limbo->n && limbo->frame[i + n] == first + n;)
            n++;
        store_free(domain_store(domain, first), first & WIRE_FRAME_INDEX_MASK, n);
    }
    free(limbo->frame);
    *limbo = (struct domain_limbo){0};
}

static bool is_pressed(const struct domain *domain)
{
    for (unsigned i = 0; i < domain->nstores; i++)
        if (domain->stores[i].full)
            return true;
    return false;
}

void domain_tend_fence(struct domain *domain, uint64_t now_ns)
{
    struct vm *vm;

    if (domain->fenced.n) {
        if (!everybody_answered(domain) || !heirs_are_none(domain))
            return;
        free_frames(domain, &domain->fenced);
    }
    if (!domain->retired.n || (now_ns - domain->retired_ns < FENCE_WAIT_NS &&
                               domain->retired.n < FENCE_FRAMES && !is_pressed(domain)))
        return;
    domain->fenced = domain->retired;
    domain->retired = (struct domain_limbo){0};
    domain->fence++;
    cds_list_for_each_entry (vm, &domain->vms, domain_link) {
        if (!vm->session || vm->session->state != SESSION_LIVE)
            continue; /* it answers by coming back, adopted, or by dying */
        vm->session->fence_due = domain->fence;
        channel_wake(vm->session);
    }
}

/* ---------------------------------------------------------------- after a restart */

/* Two frames may have the same bytes, made by an earlier daemon around a crash: only one can be found. */
static void index_frame(struct domain *domain, struct store *store, uint32_t index, const void *bytes)
{
    struct frame *frame = &store->frames[index];

    frame->state = FRAME_LIVE;
    index_add(domain_index(domain, store->node), hash_page(bytes), frame);
}

/* Hash the run of UNHASHED frames that starts at `index`; returns its length. */
static uint32_t rehash_run(struct domain *domain, struct store *store, uint32_t index)
{
    static uint8_t bytes[REHASH_READ_PAGES][WIRE_PAGE_BYTES];
    uint32_t n = 0;

    while (n < REHASH_READ_PAGES && index + n < store->top &&
           store->frames[index + n].state == FRAME_UNHASHED)
        n++;
    bool readable = n && !store_read(store, index, n, bytes);
    for (uint32_t i = 0; i < n; i++) {
        if (readable)
            index_frame(domain, store, index + i, bytes[i]);
        else
            store->frames[index + i].state = FRAME_LIVE; /* lives on, not to be found */
    }
    return n;
}

bool domain_rehash(struct domain *domain, unsigned count)
{
    while (domain->rehash_store < domain->nstores && count) {
        struct store *store = &domain->stores[domain->rehash_store];
        if (domain->rehash_index >= store->top) {
            domain->rehash_store++;
            domain->rehash_index = 1;
            continue;
        }
        uint32_t n = rehash_run(domain, store, domain->rehash_index);
        domain->rehash_index += n ? n : 1;
        count -= n < count ? n : count;
    }
    return !domain_is_ready(domain);
}
