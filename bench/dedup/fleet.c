/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see fleet.h. A guest is a child at the other end of a SEQPACKET pair. */
#include "bench/dedup/fleet.h"

#include "bench/dedup/cleanup.h"
#include "bench/dedup/kernel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void start_guest(struct fleet *fleet, const struct guest_config *config)
{
    struct fleet_guest *guest = &fleet->guest[fleet->n];
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        bench_die("socketpair: %s", strerror(errno));
    fflush(stdout);
    guest->pid = fork();
    if (guest->pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (guest->pid == 0) {
        cleanup_child();
        close(ends[0]);
        for (unsigned i = 0; i < fleet->n; i++)
            close(fleet->guest[i].socket);
        guest_main(config, ends[1]);
    }
    cleanup_add(guest->pid);
    close(ends[1]);
    guest->socket = ends[0];
    guest->content = config->content;
    fleet->n++;
}

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
        start_guest(fleet, &config);
    }
    fleet_order(fleet, &order);
    fleet_wait(fleet, answer);
    for (unsigned i = 0; i < n; i++)
        fleet->guest[i].ram = (uint64_t)answer[i].value[0];
}

void fleet_end(struct fleet *fleet)
{
    const struct guest_order order = {.op = GUEST_END};

    for (unsigned i = 0; i < fleet->n; i++) {
        send(fleet->guest[i].socket, &order, sizeof order, MSG_NOSIGNAL);
        close(fleet->guest[i].socket);
    }
    for (unsigned i = 0; i < fleet->n; i++) {
        waitpid(fleet->guest[i].pid, NULL, 0);
        cleanup_remove(fleet->guest[i].pid);
    }
    fleet->n = 0;
}

static void order_one(struct fleet *fleet, unsigned i, const struct guest_order *order)
{
    if (send(fleet->guest[i].socket, order, sizeof *order, MSG_NOSIGNAL) != sizeof *order)
        bench_die("guest %u has died", i);
}

static struct guest_answer wait_one(struct fleet *fleet, unsigned i)
{
    struct guest_answer answer;

    if (recv(fleet->guest[i].socket, &answer, sizeof answer, 0) != sizeof answer)
        bench_die("guest %u has died", i);
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
        ns += kernel_cpu_ns(fleet->guest[i].pid);
    return ns;
}
