/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One side, once: guests are filled and quiet; merging starts; memory and CPU time are sampled until nothing
 * more is found. "Settled" is when 95% of what is saved in the end was. The same rule for both sides: memory
 * is the PSS of guests and daemon (pages used by several count in parts), plus blocks of frame stores nobody
 * maps, plus KSM's own items, which no PSS shows.
 */
#include "bench/dedup/dedup.h"

#include <stdio.h>
#include <unistd.h>

#define SAMPLES_MAX 2000
#define SAMPLE_US   25000
#define LIMIT_S     60.0
#define KSM_ITEM \
    64 /* bytes of a struct ksm_rmap_item on 64-bit machines; one for each page KSM has looked at */
#define QUIET_S 1.5 /* guests rest before merging starts; nothing new for so long afterwards */

static const char *const vma_slabs[] = {"vm_area_struct", "anon_vma", "anon_vma_chain", "maple_node"};
#define N(a) (sizeof(a) / sizeof(a)[0])

struct sample {
    double s, used, cpu_s;
};

struct side_run {
    enum side side;
    struct guests guests;
    struct daemon daemon;
    pid_t ksmd;
};

static double cpu_s(const struct side_run *r)
{
    uint64_t ns = 0;

    for (unsigned i = 0; i < r->guests.n; i++)
        ns += count_cpu_ns(r->guests.pid[i]);
    ns += count_cpu_ns(r->side == SIDE_KSM ? r->ksmd : r->daemon.pid);
    return (double)ns * 1e-9;
}

static double pss(const struct side_run *r)
{
    uint64_t bytes = r->side == SIDE_MEMD ? count_pss(r->daemon.pid) : 0;

    for (unsigned i = 0; i < r->guests.n; i++)
        bytes += count_pss(r->guests.pid[i]);
    return (double)bytes;
}

/* The slab of the items is merged with others of its size: the processes' own count tells. */
static double ksm_items(const struct side_run *r)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < r->guests.n; i++)
        n += count_ksm_items(r->guests.pid[i]);
    return (double)n * KSM_ITEM;
}

static bool finished(struct side_run *r, uint64_t scans_before)
{
    if (r->side == SIDE_KSM)
        return ksm_value("full_scans") >= scans_before + 3;
    return daemon_is_settled(&r->daemon);
}

static unsigned watch(struct side_run *r, double begun, double cpu_before, struct sample *ret_sample)
{
    uint64_t scans = ksm_value("full_scans");
    double done_s = 0;
    unsigned n = 0;

    while (n < SAMPLES_MAX) {
        double now = count_now_s() - begun;
        ret_sample[n] = (struct sample){.s = now, .used = pss(r), .cpu_s = cpu_s(r) - cpu_before};
        n++;
        if (now > LIMIT_S)
            quit("nothing settled within %.0f s", LIMIT_S);
        if (!done_s && n % 8 == 0 && finished(r, scans))
            done_s = now;
        if (done_s && now - done_s > QUIET_S)
            break;
        usleep(SAMPLE_US);
    }
    return n;
}

static void start(struct side_run *r, const struct setup *setup, unsigned guests, size_t bytes)
{
    if (r->side == SIDE_MEMD) {
        ksm_run(2);
        daemon_start(&r->daemon, setup->build_dir);
        guests_start(&r->guests, r->side, guests, bytes, r->daemon.run_dir);
    } else {
        ksm_fastest();
        r->ksmd = count_find_kthread("ksmd");
        guests_start(&r->guests, r->side, guests, bytes, NULL);
    }
    usleep((useconds_t)(QUIET_S * 1e6));
}

struct settled settle_run(const struct setup *setup, enum side side, unsigned guests, size_t bytes)
{
    static struct sample sample[SAMPLES_MAX];
    struct side_run r = {.side = side};
    double npages = (double)guests * (double)bytes / 4096;
    struct settled out = {0};

    start(&r, setup, guests, bytes);
    double vmas_before = (double)count_slab(vma_slabs, N(vma_slabs));
    double used_before = pss(&r), available = (double)count_available(), cpu_before = cpu_s(&r);
    double begun = count_now_s();
    if (side == SIDE_KSM)
        ksm_run(1);
    else
        daemon_merge_on(&r.daemon);
    unsigned n = watch(&r, begun, cpu_before, sample);
    out.available = (double)count_available() - available;
    double unmapped = side == SIDE_MEMD ? (double)daemon_unmapped_store(&r.daemon, &r.guests) : 0;
    double items = side == SIDE_KSM ? ksm_items(&r) : 0;
    double vmas = (double)count_slab(vma_slabs, N(vma_slabs)) - vmas_before;
    double metadata = side == SIDE_KSM ? items : (double)daemon_total(&r.daemon, "metadata_bytes");

    out.saved = used_before - sample[n - 1].used - unmapped;
    /* memd's own memory is in the PSS of its processes, before as after; KSM's is in no PSS */
    out.net = side == SIDE_KSM ? out.saved - items : out.saved;
    out.metadata_per_page = metadata / npages;
    out.with_vmas_per_page = (metadata + (vmas > 0 ? vmas : 0)) / npages;
    for (unsigned i = 0; i < n && !out.s; i++)
        if (used_before - sample[i].used >= 0.95 * (used_before - sample[n - 1].used)) {
            out.s = sample[i].s;
            out.cpu_s = sample[i].cpu_s;
        }
    out.total_cpu_s = sample[n - 1].cpu_s;
    out.first_write_ns = guests_first_write_ns(&r.guests);
    if (side == SIDE_KSM)
        ksm_run(0);
    guests_end(&r.guests);
    if (side == SIDE_MEMD)
        daemon_end(&r.daemon);
    return out;
}
