/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see fleet.h. A guest is a child (bench/common/child.h). */
#include "bench/dedup/fleet.h"

#include "bench/common/kernel.h"

#include <string.h>

void fleet_start(struct fleet *fleet, unsigned n, size_t guest_bytes, size_t machine_bytes,
                 enum content_kind kind, const char *run_dir)
{
    const struct guest_order order = {.op = GUEST_FILL};
    struct guest_answer answer[BENCH_GUESTS_MAX];

    *fleet = (struct fleet){.guest_bytes = guest_bytes};
    for (unsigned i = 0; i < n; i++) {
        size_t start = (size_t)i * guest_bytes;
        struct guest_config config = {
            .number = i,
            .content = {.kind = kind,
                        .machine = (unsigned)(start / machine_bytes),
                        .first_page = start % machine_bytes / BENCH_PAGE_BYTES,
                        .npages = guest_bytes / BENCH_PAGE_BYTES},
            .run_dir = run_dir,
        };
        fleet->guest[i].content = config.content;
        child_start(&fleet->guest[i].child, i, guest_main, &config);
        fleet->n++;
    }
    fleet_order(fleet, &order);
    fleet_wait(fleet, answer);
    for (unsigned i = 0; i < n; i++)
        fleet->guest[i].ram = (uint64_t)answer[i].value[0];
}

void fleet_end(struct fleet *fleet)
{
    const struct guest_order order = {.op = GUEST_END};

    for (unsigned i = 0; i < fleet->n; i++)
        child_send(&fleet->guest[i].child, &order, sizeof order);
    for (unsigned i = 0; i < fleet->n; i++)
        child_wait(&fleet->guest[i].child);
    fleet->n = 0;
}

static void order_one(struct fleet *fleet, unsigned i, const struct guest_order *order)
{
    child_send(&fleet->guest[i].child, order, sizeof *order);
}

static struct guest_answer wait_one(struct fleet *fleet, unsigned i)
{
    struct guest_answer answer;

    child_receive(&fleet->guest[i].child, &answer, sizeof answer);
    if (answer.error)
        bench_die("guest %u failed: %s", i, strerror(-answer.error));
    return answer;
}

void fleet_order(struct fleet *fleet, const struct guest_order *order)
{
    for (unsigned i = 0; i < fleet->n; i++)
        order_one(fleet, i, order);
}

void fleet_wait(struct fleet *fleet, struct guest_answer *ret_answer)
{
    for (unsigned i = 0; i < fleet->n; i++) {
        struct guest_answer answer = wait_one(fleet, i);
        if (ret_answer)
            ret_answer[i] = answer;
    }
}

double fleet_do(struct fleet *fleet, enum guest_op op)
{
    const struct guest_order order = {.op = op};
    struct guest_answer answer[BENCH_GUESTS_MAX];
    double sum = 0;

    fleet_order(fleet, &order);
    fleet_wait(fleet, answer);
    for (unsigned i = 0; i < fleet->n; i++)
        sum += answer[i].value[0];
    return sum;
}

struct guest_answer fleet_ask(struct fleet *fleet, unsigned guest, const struct guest_order *order)
{
    order_one(fleet, guest, order);
    return wait_one(fleet, guest);
}

uint64_t fleet_cpu_ns(const struct fleet *fleet)
{
    uint64_t ns = 0;

    for (unsigned i = 0; i < fleet->n; i++)
        ns += kernel_cpu_ns(fleet->guest[i].child.pid);
    return ns;
}
