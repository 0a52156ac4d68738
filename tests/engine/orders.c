/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a test tells an engine, and waiting for what comes of it. Theory of operation: see script.h. */
#include "script.h"

#include "kit.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Waits on `changed` for at most `ms`; the lock is held. */
static void rest(struct script *s, unsigned ms)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += (long)ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&s->changed, &s->lock, &t);
}

void *orders_reserve(struct script_vm *vm, uint16_t type, uint32_t region, uint32_t bytes)
{
    struct wire_rec *rec = ring_reserve(&vm->down, type, bytes);

    if (rec)
        rec->region = region;
    return rec;
}

void orders_publish(struct script_vm *vm)
{
    uint64_t one = 1;

    if (ring_publish(&vm->down))
        CHECK(write(vm->kick_down, &one, sizeof one) == sizeof one, "eventfd: %s", strerror(errno));
}

/* The lock is held, and released while the ring is full. NULL: the session is over. */
static void *reserve_wait(struct script_vm *vm, uint16_t type, uint32_t region, uint32_t bytes)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;

    while (vm->state == VM_LIVE) {
        void *rec = orders_reserve(vm, type, region, bytes);
        if (rec)
            return rec;
        CHECK(kit_ms() < limit, "%s does not read its ring", vm->name);
        orders_publish(vm);
        rest(vm->script, 1);
    }
    return NULL;
}

bool script_send(struct script_vm *vm, uint16_t type, uint32_t region, void *rec, uint32_t bytes)
{
    pthread_mutex_lock(&vm->script->lock);
    char *to = reserve_wait(vm, type, region, bytes);
    if (to) {
        memcpy(to + sizeof(struct wire_rec), (char *)rec + sizeof(struct wire_rec),
               bytes - sizeof(struct wire_rec));
        orders_publish(vm);
    }
    pthread_mutex_unlock(&vm->script->lock);
    return to;
}

bool script_balloon_ask(struct script_vm *vm, uint64_t id, uint32_t flags, uint64_t bytes)
{
    struct wire_msg_balloon_ask ask = {.flags = flags, .id = id, .bytes = bytes};

    pthread_mutex_lock(&vm->script->lock);
    int err = vm->state == VM_LIVE ? script_send_fds(vm->sock, &ask, WIRE_BALLOON_ASK, sizeof ask, NULL, 0)
                                   : -EPIPE;
    pthread_mutex_unlock(&vm->script->lock);
    return !err;
}

void script_budget(struct script_vm *vm, const struct wire_rec_budget *budget)
{
    struct wire_rec_budget b = *budget;

    pthread_mutex_lock(&vm->script->lock);
    vm->script->budget = b;
    pthread_mutex_unlock(&vm->script->lock);
    script_send(vm, WIRE_REC_BUDGET, 0, &b, sizeof b);
}

uint32_t orders_merge(struct script_vm *vm, uint32_t region, uint32_t page, uint32_t frame, uint32_t count)
{
    struct script_proposal *p = &vm->proposal[vm->next_id % SCRIPT_PROPOSALS_MAX];
    struct wire_rec_merge *rec = p->open ? NULL : orders_reserve(vm, WIRE_REC_MERGE, region, sizeof *rec);

    if (!rec)
        return 0;
    *p = (struct script_proposal){.open = true,
                                  .id = vm->next_id++,
                                  .region = region,
                                  .serial = region < WIRE_REGIONS_MAX ? vm->region[region].serial : 0,
                                  .page = page,
                                  .frame = frame,
                                  .count = count};
    rec->page = page;
    rec->frame = frame;
    rec->count = (uint16_t)count;
    rec->reserved = 0;
    rec->id = p->id;
    frames_ref(vm->script, frame, count);
    return p->id;
}

uint32_t script_merge(struct script_vm *vm, uint32_t region, uint32_t page, uint32_t frame, uint32_t count)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;
    uint32_t id = 0;

    pthread_mutex_lock(&vm->script->lock);
    while (vm->state == VM_LIVE && !(id = orders_merge(vm, region, page, frame, count))) {
        CHECK(kit_ms() < limit, "%s answers no MERGE", vm->name);
        orders_publish(vm);
        rest(vm->script, 1);
    }
    if (id)
        orders_publish(vm);
    pthread_mutex_unlock(&vm->script->lock);
    return id;
}

/* The lock is held. 0: the session is over. */
static uint64_t send_token(struct script_vm *vm, uint16_t type)
{
    struct wire_rec_token *rec = reserve_wait(vm, type, 0, sizeof *rec);

    if (!rec)
        return 0;
    rec->id = vm->next_token++;
    vm->fence_bound[rec->id % SCRIPT_TOKENS] = vm->next_id;
    rec->error = 0;
    rec->reserved = 0;
    uint64_t id = rec->id;
    orders_publish(vm);
    return id;
}

bool script_fence(struct script_vm *vm)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;

    pthread_mutex_lock(&vm->script->lock);
    uint64_t session = vm->sessions_seen, id = send_token(vm, WIRE_REC_FENCE);
    while (id && vm->state == VM_LIVE && vm->sessions_seen == session && vm->fenced < id) {
        CHECK(kit_ms() < limit, "%s does not answer a fence", vm->name);
        rest(vm->script, 50);
    }
    bool fenced = id && vm->fenced >= id;
    pthread_mutex_unlock(&vm->script->lock);
    return fenced;
}

int script_unmerge(struct script_vm *vm)
{
    uint64_t limit = kit_ms() + 3 * SCRIPT_WAIT_MS;

    pthread_mutex_lock(&vm->script->lock);
    uint64_t session = vm->sessions_seen, id = send_token(vm, WIRE_REC_UNMERGE);
    while (id && vm->state == VM_LIVE && vm->sessions_seen == session && vm->done < id) {
        CHECK(kit_ms() < limit, "%s does not answer UNMERGE", vm->name);
        rest(vm->script, 50);
    }
    int result = id && vm->done >= id ? vm->done_error : -1;
    pthread_mutex_unlock(&vm->script->lock);
    return result;
}

static uint64_t page_order(struct script_vm *vm, const struct wire_rec_page *order)
{
    uint64_t id = 0;

    pthread_mutex_lock(&vm->script->lock);
    struct wire_rec_page *rec = reserve_wait(vm, order->r.type, 0, sizeof *rec);
    if (rec) {
        struct wire_rec head = rec->r;
        *rec = *order;
        rec->r = head;
        rec->id = id = ++vm->next_page_id;
        orders_publish(vm);
    }
    pthread_mutex_unlock(&vm->script->lock);
    return id;
}

uint64_t script_page(struct script_vm *vm, uint16_t type, uint64_t pages, uint32_t park_ms, uint32_t flags)
{
    return page_order(
        vm, &(struct wire_rec_page){.r.type = type, .pages = pages, .park_ms = park_ms, .flags = flags});
}

uint64_t script_pageout_limited(struct script_vm *vm, uint32_t flags, uint64_t bytes)
{
    return page_order(vm, &(struct wire_rec_page){.r.type = WIRE_REC_PAGEOUT,
                                                  .pages = UINT64_MAX,
                                                  .flags = flags | WIRE_PAGEOUT_LIMIT,
                                                  .swap_bytes = bytes});
}

struct wire_rec_paged script_paged(struct script_vm *vm, uint64_t id)
{
    uint64_t limit = kit_ms() + 3 * SCRIPT_WAIT_MS;

    pthread_mutex_lock(&vm->script->lock);
    while (vm->state == VM_LIVE && vm->paged.id != id) {
        CHECK(kit_ms() < limit, "%s does not answer a PAGEOUT or PAGEIN", vm->name);
        rest(vm->script, 5);
    }
    struct wire_rec_paged paged = vm->paged;
    CHECK(paged.id == id, "the session ended");
    pthread_mutex_unlock(&vm->script->lock);
    return paged;
}

void script_merging(struct script_vm *vm, bool on)
{
    pthread_mutex_lock(&vm->script->lock);
    struct wire_rec_budget b = vm->script->budget;
    pthread_mutex_unlock(&vm->script->lock);
    if (on)
        b.flags |= WIRE_BUDGET_MERGE;
    else
        b.flags &= ~WIRE_BUDGET_MERGE;
    script_budget(vm, &b);
}

void script_break(struct script_vm *vm, uint32_t region, uint32_t page)
{
    struct wire_rec_break b = {.page = page};

    script_send(vm, WIRE_REC_BREAK, region, &b, sizeof b);
}

void script_round(struct script_vm *vm)
{
    struct wire_rec r;

    script_send(vm, WIRE_REC_ROUND, 0, &r, sizeof r);
}

bool script_export(struct script_vm *vm, uint32_t region, uint32_t page, uint16_t count, uint16_t slot)
{
    struct wire_rec_export x = {.page = page, .count = count, .slot = slot};

    pthread_mutex_lock(&vm->script->lock);
    vm->exports_asked++;
    pthread_mutex_unlock(&vm->script->lock);
    return script_send(vm, WIRE_REC_EXPORT, region, &x, sizeof x);
}

/* ---- waiting */

bool script_wait(struct script_vm *vm, script_until *until, void *arg, unsigned timeout_ms)
{
    uint64_t limit = kit_ms() + timeout_ms;
    bool yes;

    pthread_mutex_lock(&vm->script->lock);
    while (!(yes = until(vm, arg)) && kit_ms() < limit)
        rest(vm->script, 20);
    pthread_mutex_unlock(&vm->script->lock);
    return yes;
}

/* An engine that has closed a moment ago is live until its session's end has been noticed. */
static bool has_left(const struct script_vm *vm)
{
    struct pollfd fd = {.fd = vm->sock, .events = POLLRDHUP};

    return poll(&fd, 1, 0) != 0;
}

struct script_vm *script_wait_vm(struct script *s, const char *name)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;
    struct script_vm *vm = NULL;

    pthread_mutex_lock(&s->lock);
    while (!vm) {
        for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++)
            if (s->vm[i] && s->vm[i]->state == VM_LIVE && !strcmp(s->vm[i]->name, name) &&
                !has_left(s->vm[i]))
                vm = s->vm[i];
        CHECK(vm || kit_ms() < limit, "engine %s did not join", name);
        if (!vm)
            rest(s, 20);
    }
    pthread_mutex_unlock(&s->lock);
    return vm;
}

static bool has_region(struct script_vm *vm, void *region)
{
    return vm->region[*(uint32_t *)region].used;
}

void script_wait_region(struct script_vm *vm, uint32_t region)
{
    CHECK(script_wait(vm, has_region, &region, SCRIPT_WAIT_MS), "region %u of %s was not announced", region,
          vm->name);
}

static bool has_no_region(struct script_vm *vm, void *region)
{
    return !has_region(vm, region);
}

void script_wait_no_region(struct script_vm *vm, uint32_t region)
{
    CHECK(script_wait(vm, has_no_region, &region, SCRIPT_WAIT_MS), "region %u of %s stays", region, vm->name);
}

static bool is_back(struct script_vm *vm, void *before)
{
    return vm->state == VM_LIVE && vm->sessions_seen > *(uint64_t *)before;
}

unsigned script_wait_back(struct script_vm *vm, uint64_t sessions_before)
{
    uint64_t start = kit_ms();

    CHECK(script_wait(vm, is_back, &sessions_before, SCRIPT_WAIT_MS), "%s did not come back", vm->name);
    return (unsigned)(kit_ms() - start);
}

static bool rounds_passed(struct script_vm *vm, void *target)
{
    return vm->state == VM_LIVE && vm->shm && vm->shm->stats.full_scans >= *(uint64_t *)target;
}

void script_wait_rounds(struct script_vm *vm, unsigned n)
{
    pthread_mutex_lock(&vm->script->lock);
    uint64_t target = vm->shm ? vm->shm->stats.full_scans + n : n;
    pthread_mutex_unlock(&vm->script->lock);
    CHECK(script_wait(vm, rounds_passed, &target, SCRIPT_WAIT_MS), "%s does not finish its rounds", vm->name);
}

/* ---- page maps */

uint64_t script_entry(struct script_vm *vm, uint32_t region, uint32_t page)
{
    pthread_mutex_lock(&vm->script->lock);
    const struct script_region *r = &vm->region[region];
    CHECK(r->map && page < r->npages, "no page %u in region %u", page, region);
    uint64_t e = r->map->entry[page];
    pthread_mutex_unlock(&vm->script->lock);
    return e;
}

uint32_t script_count_state(struct script_vm *vm, uint32_t region, enum wire_page_state state)
{
    uint32_t n = 0;

    pthread_mutex_lock(&vm->script->lock);
    const struct script_region *r = &vm->region[region];
    for (uint32_t p = 0; r->map && p < r->npages; p++)
        n += (r->map->entry[p] & WIRE_PAGE_STATE_MASK) == state;
    pthread_mutex_unlock(&vm->script->lock);
    return n;
}

void script_dead(struct script_vm *vm)
{
    pthread_mutex_lock(&vm->script->lock);
    CHECK(vm->state == VM_OVER, "%s still has a session", vm->name);
    records_forget(vm);
    pthread_mutex_unlock(&vm->script->lock);
}
