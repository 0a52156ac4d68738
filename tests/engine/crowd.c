/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The public API from several threads at once, while pages are merged: no call waits for ever, none keeps the
 * engine from its work, and no byte is lost.
 */
#include "rig.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define NPAGES 1024u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

struct crowd {
    struct rig *rig;
    atomic_bool stop;
    char *other;
};

static void *crowd_main(void *arg)
{
    struct crowd *c = arg;
    struct memd *m = c->rig->memd;
    static atomic_uint nr;
    unsigned seed = atomic_fetch_add(&nr, 1), mine = seed % 4;

    for (unsigned i = 0; !atomic_load(&c->stop); i++) {
        uint64_t page = mine * 256 + (uint64_t)rand_r(&seed) % 256;
        int err = 0;
        switch (rand_r(&seed) % 6) {
        case 0:
            err = memd_discard(m, c->rig->region, page * PAGE, PAGE);
            break;
        case 1:
            err = memd_pin(m, c->rig->region, page * PAGE, PAGE);
            if (!err)
                err = memd_unpin(m, c->rig->region, page * PAGE, PAGE);
            break;
        case 2:
            OK(memd_pause(m));
            OK(memd_resume(m));
            break;
        case 3:
            kit_stats(m);
            break;
        case 4:
            if (mine == 0)
                OK(memd_region_del(m, kit_region(m, c->other, CHUNK), KIT_CLOSE_MS));
            break;
        default:
            guest_fill(c->rig->ram + page * PAGE, page + 1);
        }
        CHECK(err == 0 || err == -EBUSY, "thread %u: %s", mine, kit_error(err));
    }
    return NULL;
}

int main(void)
{
    kit_begin();
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);
    struct crowd c = {.rig = &rig, .other = guest_map(CHUNK, false)};
    uint64_t end = kit_ms() + kit_scaled(10000, 500);
    pthread_t thread[4];

    for (unsigned i = 0; i < 4; i++)
        CHECK(!pthread_create(&thread[i], NULL, crowd_main, &c), "pthread_create");
    while (kit_ms() < end) {
        uint32_t frame = script_frames(rig.script, rig.ram, 512);
        if (frame) {
            script_merge(rig.vm, rig.region, 0, frame, 512);
            script_retire(rig.script, frame);
        }
        CHECK(script_fence(rig.vm), "the session is over");
        script_recycle(rig.script);
    }
    atomic_store(&c.stop, true);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    for (uint32_t p = 0; p < NPAGES; p++)
        CHECK(guest_differs(rig_page(&rig, p), p + 1) < 0 || guest_differs(rig_page(&rig, p), 0) < 0,
              "page %u is neither what was written nor zero", p);
    guest_unmap(c.other, CHUNK);
    rig_close(&rig);
    return 0;
}
