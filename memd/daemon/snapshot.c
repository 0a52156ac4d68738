/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshot: the core's state as its users see it, copied out in one turn of the loop.
 *
 * pages_shared of one VM is its part of the frames it uses: a frame used by n pages counts 1/n for each.
 * Adding that up means looking at all references, so it is done again only when some have changed, and at
 * most for a twentieth of the time.
 */
#include "memd/daemon/snapshot.h"

#include "memd/common/clock.h"
#include "memd/common/less.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/latency.h"
#include "memd/daemon/state.h"
#include "memd/memd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHARE_REST 20u /* times what the last count took */

/* ---------------------------------------------------------------- shares of frames */

struct share_sum {
    struct domain *domain;
    double sum;
};

static void add_share(void *ctx, uint32_t page, uint32_t count, uint32_t frame)
{
    struct share_sum *share = ctx;

    (void)page;
    for (uint32_t i = 0; i < count; i++) {
        const struct frame *f = domain_frame(share->domain, frame + i);
        share->sum += f && f->refs ? 1.0 / f->refs : 0;
    }
}

double snapshot_frame_share(struct vm *vm)
{
    struct share_sum share = {.domain = vm->domain};
    uint64_t cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);

    if (vm->share_change == vm->domain->change + 1)
        return vm->frame_share;
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
        if (vm->region[i])
            holdings_each(&vm->region[i]->holdings, add_share, &share);
    vm->frame_share = share.sum;
    vm->share_change = vm->domain->change + 1;
    vm->share_ns = clock_now_ns();
    /* of the CPU: what others took of it meanwhile would make this rest for seconds on a busy machine */
    vm->share_cost_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    return share.sum;
}

double snapshot_recent_share(struct vm *vm)
{
    bool rests = vm->share_change && clock_now_ns() - vm->share_ns < SHARE_REST * vm->share_cost_ns;

    double share = rests ? vm->frame_share : snapshot_frame_share(vm), most = (double)vm_merged_pages(vm);

    return share < most ? share : most; /* some may have gone since */
}

/* ---------------------------------------------------------------- counters */

static const char *state_name(const struct vm *vm)
{
    if (!vm->session)
        return "lost";
    if (vm->session->state != SESSION_LIVE)
        return "joining";
    if (vm->stats.state == WIRE_VM_PAUSED)
        return "paused";
    if (vm->stats.state == WIRE_VM_CLOSING)
        return "closing";
    if (!vm->merge_on)
        return "off";
    if (vm_is_short_of_maps(vm))
        return "map-count";
    return vm->settled ? "settled" : "merging";
}

static void count_vm(struct vm *vm, struct core_counters *c)
{
    const struct vm_stats *s = &vm->stats;
    uint64_t frames = (uint64_t)(snapshot_recent_share(vm) + 0.5), merged = vm_merged_pages(vm);

    *c = (struct core_counters){
        .guest_bytes = vm_guest_pages(vm) * WIRE_PAGE_BYTES,
        .zero_pages = s->zero_pages,
        .pages_shared = frames,
        .pages_sharing = merged > frames ? merged - frames : 0,
        .pages_unshared = s->unshared_pages,
        .pages_volatile = s->volatile_pages,
        .pages_skipped = s->skipped_pages,
        .full_scans = s->full_scans,
        .merges = s->merges,
        .zero_drops = s->zero_drops,
        .cow_breaks = s->cow_breaks,
        .heals = s->heals,
        .faults = s->faults,
        .rejected = s->rejected,
        .huge_broken = s->huge_broken,
        .broken_pages = s->broken_pages,
        .saved_bytes = (s->zero_pages + merged + s->packed_pages + s->swapped_pages) * WIRE_PAGE_BYTES,
        .metadata_bytes = s->metadata_bytes + vm_metadata_bytes(vm),
        .cpu_ns = s->cpu_ns,
        .vmas_used = s->vmas_used,
        .vmas_limit = s->vmas_limit,
        .parked_pages = s->parked_pages,
        .packed_pages = s->packed_pages,
        .packed_bytes = s->packed_bytes,
        .pool_bytes = s->pool_bytes,
        .page_outs = s->page_outs,
        .page_ins = s->page_ins,
        .parked_faults = s->parked_faults,
        .packed_faults = s->packed_faults,
        .swapped_pages = s->swapped_pages,
        .swap_bytes = s->swap_bytes,
        .swap_written_bytes = s->swap_written_bytes,
        .swap_errors = s->swap_errors,
        .swapped_faults = s->swapped_faults,
        .lost_pages = s->lost_pages,
        .merged_outs = s->merged_outs,
        .remote_pages = s->remote_pages,
        .remote_outs = s->remote_outs,
        .remote_faults = s->remote_faults,
        .held_faults = s->held_faults,
        .held_ns = s->held_ns,
        .swap_reads = s->swap_reads,
        .prefetched_pages = s->prefetched_pages,
        .prefetch_used = s->prefetch_used,
        .prefetch_wasted = s->prefetch_wasted,
        .sampled_pages = s->sampled_pages,
        .sampled_faults = s->sampled_faults,
        .working_set_bytes = s->sample_periods ? s->working_set_pages * WIRE_PAGE_BYTES : 0,
    };
    for (unsigned i = 0; i < WIRE_INELIGIBLE_COUNT; i++)
        c->ineligible_bytes[i] = s->ineligible_bytes[i];
    c->net_saved_bytes =
        (int64_t)c->saved_bytes - (int64_t)(frames * WIRE_PAGE_BYTES + c->pool_bytes + c->metadata_bytes);
}

static void fill_working_set(const struct vm *vm, struct core_working_set *out)
{
    const struct vm_stats *s = &vm->stats;

    *out = (struct core_working_set){.periods = s->sample_periods,
                                     .period_ms = s->sample_ms,
                                     .bytes = s->working_set_pages * WIRE_PAGE_BYTES,
                                     .error_bytes = s->working_set_error_pages * WIRE_PAGE_BYTES,
                                     .samplable_bytes = s->samplable_pages * WIRE_PAGE_BYTES,
                                     .unsampled_bytes = s->unsampled_pages * WIRE_PAGE_BYTES,
                                     .merged_bytes = vm_merged_pages(vm) * WIRE_PAGE_BYTES,
                                     .written_bytes = s->round_written_pages * WIRE_PAGE_BYTES,
                                     .nidle = (unsigned)s->idle_ages};
    for (unsigned i = 0; i < out->nidle; i++) {
        out->idle_ms[i] = (uint64_t)vm->core->config.sample_ms << i;
        out->idle_bytes[i] = s->idle_pages[i] * WIRE_PAGE_BYTES;
    }
}

static void fill_latencies(const struct vm_stats *s, struct core_latency out[WIRE_TIERS])
{
    for (unsigned t = 0; t < WIRE_TIERS; t++) {
        out[t] = (struct core_latency){.sum_ns = s->latency_ns[t],
                                       .p50_ns = latency_quantile(s->latency[t], 500),
                                       .p99_ns = latency_quantile(s->latency[t], 990)};
        for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS; i++) {
            out[t].buckets[i] = s->latency[t][i];
            out[t].count += s->latency[t][i];
        }
    }
}

static void fill_vm(struct vm *vm, struct core_vm *out)
{
    out->id = vm->id;
    out->pid = vm->engine.pid;
    snprintf(out->name, sizeof out->name, "%s", vm->engine.name);
    snprintf(out->domain, sizeof out->domain, "%s", vm->domain->name);
    snprintf(out->state, sizeof out->state, "%s", state_name(vm));
    snprintf(out->release, sizeof out->release, "%s", vm->release);
    out->merge_on = vm->merge_on;
    out->settled = vm->settled;
    out->resident_bytes = vm->reclaim.usage.resident_bytes;
    out->target_bytes = vm->reclaim.target_bytes;
    out->terms = vm->reclaim.terms;
    out->writes_left_bytes = writes_left(&vm->writes.bucket);
    out->refaults_per_s = vm->reclaim.policy.rates.packed_per_s + vm->reclaim.policy.rates.swapped_per_s;
    count_vm(vm, &out->c);
    fill_working_set(vm, &out->ws);
    fill_latencies(&vm->stats, out->latency);
}

/* Counters of different VMs add up; frames are counted once by the domains. */
static void add_counters(struct core_counters *sum, const struct core_counters *c)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)c;

    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

static void fill_domain(struct domain *domain, struct core_domain *out)
{
    snprintf(out->name, sizeof out->name, "%s", domain->name);
    out->vms = domain->nvms;
    out->frames = domain->frames_shared;
    out->frame_bytes = domain->frames_shared * WIRE_PAGE_BYTES;
    for (unsigned i = 0; i < domain->nstores; i++)
        out->store_bytes += store_block_bytes(&domain->stores[i]);
    reclaim_show_domain(domain, &out->memory);
    for (unsigned i = 0; i < domain->nindexes; i++) {
        out->candidates += domain->indexes[i].candidates.used;
        out->index_bytes += index_bytes(&domain->indexes[i]);
    }
}

static uint64_t daemon_metadata(struct core *core)
{
    uint64_t bytes = sizeof *core + pages_bytes(&core->pages) + exports_bytes(&core->exports);
    struct domain *domain;

    cds_list_for_each_entry (domain, &core->domains, link)
        bytes += domain_metadata_bytes(domain);
    return bytes;
}

static void fill_totals(struct core *core, struct core_snapshot *s)
{
    struct core_counters *t = &s->totals;
    uint64_t frames = 0, merged = 0;
    struct domain *domain;
    struct vm *vm;

    *t = core->departed;
    for (size_t i = 0; i < s->nvms; i++)
        add_counters(t, &s->vms[i].c);
    cds_list_for_each_entry (domain, &core->domains, link)
        frames += domain->frames_shared;
    cds_list_for_each_entry (vm, &core->vms, link)
        merged += vm_merged_pages(vm);
    t->pages_shared = frames;
    t->pages_sharing = merged > frames ? merged - frames : 0;
    t->metadata_bytes += s->daemon_metadata_bytes;
    t->cpu_ns += s->daemon_cpu_ns;
    t->net_saved_bytes =
        (int64_t)t->saved_bytes - (int64_t)(frames * WIRE_PAGE_BYTES + t->pool_bytes + t->metadata_bytes);
}

static void fill_host(struct core *core, struct core_snapshot *s, uint64_t now_ns)
{
    proc_read_memory(core->config.proc_root, &core->memory);
    s->pid = (int32_t)getpid();
    snprintf(s->version, sizeof s->version, "%s", MEMD_VERSION);
    snprintf(s->run_dir, sizeof s->run_dir, "%s", core->config.run_dir);
    s->uptime_ms = (now_ns - core->started_ns) / CLOCK_MS;
    s->incarnation = core->incarnation;
    s->restarts = core->restarts;
    s->awaited_engines = core->nawaited;
    s->merge_on = core->merge_on;
    s->daemon_metadata_bytes = daemon_metadata(core);
    s->daemon_cpu_ns = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
    s->mem_total_bytes = core->memory.total_bytes;
    s->mem_available_bytes = core->memory.available_bytes;
    reclaim_show(core, &s->memory);
    s->alarm = core->reclaim.alarm;
    s->writes_bytes = core->config.swap_writes_bytes;
    s->writes_left_bytes = writes_left(&core->writes.bucket);
    s->dry_run = core->config.dry_run;
    s->policy = core->policy;
    snprintf(s->warning, sizeof s->warning, "%s", core->warning);
    s->warning_age_ms = core->warning[0] ? less(now_ns, core->warned_ns) / CLOCK_MS : 0;
}

static int take(struct core *core, void *arg)
{
    struct core_snapshot **ret = arg, *s = calloc(1, sizeof *s);
    uint64_t now_ns = clock_now_ns();
    struct domain *domain;
    struct vm *vm;
    size_t ndomains = 0;

    cds_list_for_each_entry (domain, &core->domains, link)
        ndomains++;
    if (s) {
        s->vms = calloc(core->nvms + 1, sizeof *s->vms);
        s->domains = calloc(ndomains + 1, sizeof *s->domains);
    }
    if (!s || !s->vms || !s->domains || agents_show(core, s, now_ns)) {
        if (s)
            core_snapshot_free(s);
        return -ENOMEM;
    }
    s->settled = !core->nawaited;
    cds_list_for_each_entry (vm, &core->vms, link) {
        vm_read_stats(vm);
        s->settled &= vm->settled || !vm->merge_on;
        fill_vm(vm, &s->vms[s->nvms++]);
    }
    cds_list_for_each_entry (domain, &core->domains, link)
        fill_domain(domain, &s->domains[s->ndomains++]);
    fill_host(core, s, now_ns);
    fill_totals(core, s);
    *ret = s;
    return 0;
}

static void drop(void *arg)
{
    core_snapshot_free(*(struct core_snapshot **)arg);
}

int core_snapshot_take(struct core *core, struct core_snapshot **ret_snapshot)
{
    struct core_snapshot *snapshot = NULL;
    int err = calls_ask(&core->calls, take, &snapshot, sizeof snapshot, drop);

    if (!err)
        *ret_snapshot = snapshot;
    return err;
}

void core_snapshot_free(struct core_snapshot *snapshot)
{
    free(snapshot->vms);
    free(snapshot->agents);
    free(snapshot->domains);
    free(snapshot);
}
