/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A VM's part of the frames it uses, which is counted now and then only; the engines are played by world.c.
 */
#include "memd/daemon/snapshot.h"

#include "memd/common/clock.h"
#include "tests/unit/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void write_pages(struct world_vm *vm, uint32_t page, uint32_t count, uint32_t first_content)
{
    for (uint32_t i = 0; i < count; i++)
        world_write(vm, page + i, first_content + i);
}

/* The count rests as long as the last one has kept a CPU busy, not as long as it has waited for one; and
 * meanwhile it is not more than the VM has merged. */
static void a_share_that_rests_is_not_more_than_there_is(void **state)
{
    struct world *world = world_open(1, true);
    struct world_vm *a = world_vm(world, world->domain[0], 512, 0);
    struct world_vm *b = world_vm(world, world->domain[0], 512, 0);

    (void)state;
    write_pages(a, 0, 512, 1);
    write_pages(b, 0, 512, 1);
    world_hash(a, 0, 512);
    world_hash(b, 0, 512);
    world_run(world);
    uint64_t before_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    double share = snapshot_recent_share(a->vm);
    assert_true(share > 255.9 && share < 256.1);
    assert_true(a->vm->share_cost_ns <= clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - before_ns);

    a->vm->share_cost_ns = 3600 * CLOCK_S;
    write_pages(a, 0, 500, 10000);
    assert_true(snapshot_recent_share(a->vm) <= 12);
    write_pages(a, 500, 12, 20000);
    assert_true(snapshot_recent_share(a->vm) <= 0);
    world_check(world);
    world_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_share_that_rests_is_not_more_than_there_is),
    };

    return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
