/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see rig.h. */
#include "rig.h"

#include <stdatomic.h>
#include <string.h>

#define CLOSE_MS KIT_CLOSE_MS

static void join(struct rig *rig)
{
    rig->region = kit_region(rig->memd, rig->ram, rig->npages * PAGE);
    rig->vm = script_wait_vm(rig->script, "vm");
    script_wait_region(rig->vm, rig->region);
}

struct rig rig_open_at(const struct script_options *options, void *ram, uint32_t npages)
{
    struct rig rig = {.script = script_open(options), .ram = ram, .npages = npages};

    rig.memd = kit_engine("vm", rig.script->run_dir);
    join(&rig);
    return rig;
}

static _Atomic unsigned lost;
static _Atomic uint64_t lost_gpa;

static void on_poison(void *ctx, uint64_t gpa, uint64_t bytes)
{
    (void)ctx;
    CHECK(bytes == PAGE, "%llu bytes", (unsigned long long)bytes);
    atomic_store(&lost_gpa, gpa);
    atomic_fetch_add(&lost, 1);
}

static void say_nothing(void *ctx, enum memd_log_level level, const char *message)
{
    (void)ctx, (void)level, (void)message;
}

struct rig rig_open_losing(const struct script_options *options, void *ram, uint32_t npages)
{
    struct rig rig = {.script = script_open(options), .ram = ram, .npages = npages};
    const struct memd_options o = {.size = sizeof o,
                                   .name = "vm",
                                   .run_dir = rig.script->run_dir,
                                   .log = say_nothing,
                                   .poison = on_poison};

    atomic_store(&lost, 0);
    OK(memd_open(&o, &rig.memd));
    join(&rig);
    return rig;
}

unsigned rig_lost(uint64_t *ret_gpa)
{
    unsigned n = atomic_load(&lost);

    if (ret_gpa)
        *ret_gpa = atomic_load(&lost_gpa);
    return n;
}

struct rig rig_open(const struct script_options *options, uint32_t npages, uint64_t (*contents)(uint32_t))
{
    char *ram = guest_map(npages * PAGE, false);

    for (uint32_t i = 0; contents && i < npages; i++)
        guest_fill(ram + i * PAGE, contents(i));
    return rig_open_at(options, ram, npages);
}

void rig_close(struct rig *rig)
{
    OK(memd_close(rig->memd, CLOSE_MS));
    script_close(rig->script);
    guest_unmap(rig->ram, rig->npages * PAGE);
}

void rig_check(const struct rig *rig, uint64_t (*contents)(uint32_t))
{
    for (uint32_t i = 0; i < rig->npages; i++) {
        long at = guest_differs(rig_page(rig, i), contents(i));
        CHECK(at < 0, "page %u differs at byte %ld: %#llx", i, at,
              (unsigned long long)guest_read(rig_page(rig, i) + at));
    }
}

struct wanted {
    uint32_t id;
    bool seen;
    struct rig_answer answer;
};

static void listen_for(struct script_vm *vm, const struct wire_rec *rec, void *ctx)
{
    const struct wire_rec_result *res = (const void *)rec;
    struct wanted *w = ctx;

    (void)vm;
    if (rec->type != WIRE_REC_RESULT || res->id != w->id)
        return;
    w->seen = true;
    w->answer.why = res->why;
    memcpy(w->answer.bits, res->merged, sizeof w->answer.bits);
    for (unsigned i = 0; i < WIRE_CHUNK_PAGES / 64; i++)
        w->answer.merged += (uint32_t)__builtin_popcountll(res->merged[i]);
}

struct rig_answer rig_propose(struct rig *rig, uint32_t page, uint32_t frame, uint32_t count)
{
    struct script *s = rig->script;
    struct wanted w = {0};

    pthread_mutex_lock(&s->lock);
    w.id = rig->vm->next_id; /* of the proposal below: nobody else proposes */
    s->tap = listen_for;
    s->tap_ctx = &w;
    pthread_mutex_unlock(&s->lock);
    CHECK(script_merge(rig->vm, rig->region, page, frame, count), "the session is over");
    CHECK(script_fence(rig->vm), "the session is over");
    pthread_mutex_lock(&s->lock);
    s->tap = NULL;
    pthread_mutex_unlock(&s->lock);
    CHECK(w.seen, "no RESULT before FENCED");
    return w.answer;
}

uint32_t rig_merge(struct rig *rig, uint32_t page, uint32_t count)
{
    uint32_t frame = script_frames(rig->script, rig_page(rig, page), count);

    CHECK(frame, "the store is full");
    return rig_propose(rig, page, frame, count).merged;
}
