/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see host.h. The bound is the same for every manager but UNLIMITED: the budget, and
 * something for what the kernel keeps (page tables, mappings), which none of them counts. MOM's host is the
 * bound: its memory, and what of it is not held. Its clock runs five times as fast as published, since the
 * phases here take seconds.
 */
#include "bench/balloon/host.h"

#include "bench/balloon/bound.h"
#include "bench/common/daemon.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define KERNEL_BYTES  (32 * BENCH_MIB)
#define LOOK_S        0.2
#define MOM_HURRY     5.0
#define FLOOR_BYTES   (168 * BENCH_MIB) /* memd's by default for guests of 512 MiB; MOM's minimum here */
#define WARM_ANON_MIB 128u
#define REACH_S       20.0

const char *const manager_name[MANAGERS] = {"unlimited", "memd", "mom", "static"};

struct host_disk host_disk(const struct bench *bench)
{
    return bench->quick ? (struct host_disk){64, 64} : (struct host_disk){256, 208};
}

static uint64_t bound_bytes(const struct host *host)
{
    return host->budget + KERNEL_BYTES;
}

/* ---- MOM */

static void mom_look(struct host *host)
{
    unsigned at = host->looks % MOM_SAMPLES;

    host->free[at] = 1 - (double)bound_use().held / (double)bound_bytes(host);
    for (unsigned i = 0; i < FLEET_GUESTS; i++) {
        struct mom_sample *sample = &host->sample[i][at];
        uint64_t unused;
        sample->current = (double)fleet_balloon(&host->fleet, i);
        if (!line_number(line_qmp(&host->fleet.monitor[i],
                                  "{\"execute\": \"qom-get\", \"arguments\": {\"path\": "
                                  "\"/machine/peripheral/balloon\", \"property\": \"guest-stats\"}}"),
                         "stat-free-memory", &unused))
            bench_die("QEMU does not tell the guest's statistics");
        /* not known yet: as if it used everything */
        sample->unused = unused == UINT64_MAX ? 0 : (double)unused;
    }
    host->looks++;
}

static void mom_decision(struct host *host)
{
    unsigned n = host->looks < MOM_SAMPLES ? host->looks : MOM_SAMPLES,
             last = (host->looks - 1) % MOM_SAMPLES;
    double host_free = 0;

    for (unsigned k = 0; k < n; k++)
        host_free += host->free[k] / n;
    for (unsigned i = 0; i < FLEET_GUESTS; i++) {
        struct mom_guest guest = {
            .min = FLOOR_BYTES, .max = (double)host->fleet.bytes, .current = host->sample[i][last].current};
        for (unsigned k = 0; k < n; k++) {
            guest.current_avg += host->sample[i][k].current / n;
            guest.unused_avg += host->sample[i][k].unused / n;
        }
        double size = mom_decide(host_free, &guest);
        if (size > 0)
            fleet_balloon_set(&host->fleet, i, (uint64_t)size);
    }
}

static void mom_tick(struct host *host, double now_s)
{
    if (now_s < host->next_mom_look_s)
        return;
    host->next_mom_look_s = now_s + MOM_LOOK_S / MOM_HURRY;
    mom_look(host);
    if (now_s < host->next_decision_s)
        return;
    host->next_decision_s = now_s + MOM_DECISION_S / MOM_HURRY;
    mom_decision(host);
}

static void mom_start(struct host *host)
{
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        line_qmp(&host->fleet.monitor[i],
                 "{\"execute\": \"qom-set\", \"arguments\": {\"path\": \"/machine/peripheral/balloon\", "
                 "\"property\": \"guest-stats-polling-interval\", \"value\": 1}}");
}

/* ---- the others */

static void static_start(struct host *host, const double share[FLEET_GUESTS])
{
    double end_s = bench_now_s() + REACH_S;

    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        fleet_balloon_set(&host->fleet, i, (uint64_t)(share[i] * (double)host->fleet.bytes));
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        while (fleet_balloon(&host->fleet, i) > share[i] * (double)host->fleet.bytes + BENCH_MIB) {
            if (bench_now_s() > end_s)
                bench_die("guest %u does not fill its balloon", i + 1);
            bench_sleep(0.05);
        }
}

static void memd_start(struct host *host)
{
    char config[2048];
    size_t n = (size_t)snprintf(config, sizeof config, "budget = %" PRIu64 "\n", host->budget);

    fleet_balloons(config + n, sizeof config - n);
    daemon_configure(config);
    host->daemon = daemon_start(host->bench);
    bound_add(host->daemon);
}

void host_start(const struct bench *bench, enum manager manager, uint64_t budget,
                const double share[FLEET_GUESTS], struct host *ret_host)
{
    *ret_host = (struct host){.bench = bench, .manager = manager, .budget = budget};
    bound_set(manager == UNLIMITED ? 0 : bound_bytes(ret_host));
    if (manager == MEMD)
        memd_start(ret_host);
    fleet_start(bench, manager == MEMD, &ret_host->fleet);
    if (manager == MEMD)
        daemon_control(bench, "balloon auto on");
    if (manager == MOM)
        mom_start(ret_host);
    if (manager == STATIC)
        static_start(ret_host, share);
}

void host_tick(void *ctx)
{
    struct host *host = ctx;
    double now_s = bench_now_s();

    if (now_s >= host->next_look_s) {
        struct bound_use use = bound_use();
        host->next_look_s = now_s + LOOK_S;
        host->held_max = use.held > host->held_max ? use.held : host->held_max;
        host->swapped_max = use.swapped > host->swapped_max ? use.swapped : host->swapped_max;
    }
    if (host->manager == MOM)
        mom_tick(host, now_s);
}

void host_warm(struct host *host)
{
    for (unsigned i = 0; i < FLEET_GUESTS; i++)
        fleet_load(&host->fleet, i, host_tick, host, "warm %u %u %u", i + 1, host_disk(host->bench).old_mib,
                   WARM_ANON_MIB);
}

unsigned host_end(struct host *host)
{
    unsigned kills = fleet_oom_kills(&host->fleet);

    fleet_end(&host->fleet);
    if (host->manager == MEMD) {
        daemon_stop(host->daemon);
        daemon_configure("");
    }
    return kills;
}
