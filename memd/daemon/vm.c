/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see vm.h. Regions: region.c. */
#include "memd/daemon/vm.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/state.h"
#include "memd/daemon/terms.h"
#include "memd/daemon/terms_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void on_process_dead(struct loop_source *source, uint32_t events)
{
    struct vm *vm = caa_container_of(source, struct vm, pidfd);

    (void)events;
    log_info("VM %s (pid %d) has ended", vm->engine.name, (int)vm->engine.pid);
    vm_gone(vm);
}

int vm_new(struct core *core, struct domain *domain, const struct registry_entry *engine, int pidfd,
           struct vm **ret_vm)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return -ENOMEM;
    vm->core = core;
    vm->domain = domain;
    vm->id = ++core->next_vm_id;
    vm->engine = *engine;
    vm->merge_on = engine->merge_on;
    vm->pidfd = (struct loop_source){.fd = pidfd, .ready = on_process_dead};
    vm->fence = domain->fence; /* it knows no frame yet, or its map will be counted before it takes part */
    vm->pass.started_ns = clock_now_ns();
    terms_of_rules(&core->config, engine->name, &vm->reclaim.terms);
    terms_file_give(vm);
    writes_vm_joined(vm);
    vm->forks = vm->forks_cleared = 1; /* nothing it has heard from us is in a child */

    int err = registry_write(domain->dir_fd, engine);
    if (!err) {
        err = loop_add(&core->loop, &vm->pidfd, EPOLLIN);
        if (err)
            registry_remove(domain->dir_fd, engine);
    }
    if (err) {
        free(vm);
        return err;
    }
    cds_list_add_tail(&vm->link, &core->vms);
    cds_list_add_tail(&vm->domain_link, &domain->vms);
    domain->nvms++;
    core->nvms++;
    *ret_vm = vm;
    return 0;
}

/* Totals keep what a VM has done when it has left. */
static void keep_counters(struct core_counters *sum, const struct vm *vm)
{
    sum->full_scans += vm->stats.full_scans;
    sum->merges += vm->stats.merges;
    sum->zero_drops += vm->stats.zero_drops;
    sum->cow_breaks += vm->stats.cow_breaks;
    sum->heals += vm->stats.heals;
    sum->faults += vm->stats.faults;
    sum->rejected += vm->stats.rejected;
    sum->huge_broken += vm->stats.huge_broken;
    sum->page_outs += vm->stats.page_outs;
    sum->page_ins += vm->stats.page_ins;
    sum->parked_faults += vm->stats.parked_faults;
    sum->packed_faults += vm->stats.packed_faults;
    sum->swapped_faults += vm->stats.swapped_faults;
    sum->swap_written_bytes += vm->stats.swap_written_bytes;
    sum->swap_errors += vm->stats.swap_errors;
    sum->lost_pages += vm->stats.lost_pages;
    sum->sampled_faults += vm->stats.sampled_faults;
    sum->merged_outs += vm->stats.merged_outs;
    sum->remote_outs += vm->stats.remote_outs;
    sum->remote_faults += vm->stats.remote_faults;
    sum->held_faults += vm->stats.held_faults;
    sum->held_ns += vm->stats.held_ns;
    sum->swap_reads += vm->stats.swap_reads;
    sum->prefetched_pages += vm->stats.prefetched_pages;
    sum->prefetch_used += vm->stats.prefetch_used;
    sum->prefetch_wasted += vm->stats.prefetch_wasted;
    sum->cpu_ns += vm->stats.cpu_ns;
}

void vm_gone(struct vm *vm)
{
    struct core *core = vm->core;
    struct domain *domain = vm->domain;

    heirs_vm_leaves(vm);
    if (vm->session)
        session_drop(vm->session);
    keep_counters(&core->departed, vm);
    jobs_vm_gone(vm);
    writes_vm_gone(vm);
    registry_remove(domain->dir_fd, &vm->engine);
    vm_forget(vm);
    domain_left(domain);
}

void vm_forget(struct vm *vm)
{
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
        if (vm->region[i])
            region_free(vm->region[i]);
    loop_del(&vm->core->loop, &vm->pidfd);
    close(vm->pidfd.fd);
    cds_list_del(&vm->link);
    cds_list_del(&vm->domain_link);
    vm->domain->nvms--;
    vm->core->nvms--;
    embed_vm_left(vm);
    why_free(&vm->reclaim.why);
    free(vm);
}

void vm_unsettle(struct vm *vm)
{
    vm->advice.was_settled = false;
    vm->advice.digests = true;
    if (vm->session) {
        vm->session->budget_due = true;
        channel_wake(vm->session);
    }
    vm_restart_pass(vm, clock_now_ns());
}

struct vm *vm_find(struct core *core, const char *name_or_id)
{
    struct vm *vm;
    char *end;
    unsigned long id = strtoul(name_or_id, &end, 10);
    bool is_id = *name_or_id && !*end;

    cds_list_for_each_entry (vm, &core->vms, link)
        if (!strcmp(vm->engine.name, name_or_id))
            return vm;
    cds_list_for_each_entry (vm, &core->vms, link)
        if (is_id && vm->id == id)
            return vm;
    return NULL;
}

void vm_set_merge(struct vm *vm, bool on)
{
    vm->merge_on = vm->engine.merge_on = on;
    vm_unsettle(vm);
    int err = registry_write(vm->domain->dir_fd, &vm->engine);
    if (err)
        log_warn("VM %s: cannot note that merging is %s for the next start of memd: %s", vm->engine.name,
                 on ? "on" : "off", strerror(-err));
    if (vm->session) {
        vm->session->budget_due = true;
        vm->session->round_due = on;
        channel_wake(vm->session);
    }
}

uint64_t vm_guest_pages(const struct vm *vm)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
        if (vm->region[i])
            pages += vm->region[i]->npages;
    return pages;
}

uint64_t vm_merged_pages(const struct vm *vm)
{
    uint64_t pending = vm->session ? vm->session->pending_pages : 0;
    return vm->held_pages > pending ? vm->held_pages - pending : 0;
}

/* What a peer says about itself is shown and added up: keep it within what can be. */
static uint64_t read_stat(const _Atomic uint64_t *stat, uint64_t max)
{
    uint64_t value = atomic_load_explicit(stat, memory_order_relaxed);
    return value < max ? value : max;
}

static void read_samples(const struct wire_stats *in, uint64_t pages, struct vm_stats *out)
{
    out->sample_periods = read_stat(&in->sample_periods, 1ull << 48);
    out->sample_ms = read_stat(&in->sample_ms, 1ull << 32);
    out->samplable_pages = read_stat(&in->samplable_pages, pages);
    out->unsampled_pages = read_stat(&in->unsampled_pages, pages);
    out->working_set_pages = read_stat(&in->working_set_pages, pages);
    out->working_set_error_pages = read_stat(&in->working_set_error_pages, pages);
    out->round_written_pages = read_stat(&in->round_written_pages, pages);
    out->sampled_pages = read_stat(&in->sampled_pages, pages);
    out->sampled_faults = read_stat(&in->sampled_faults, 1ull << 48);
    out->idle_ages = read_stat(&in->idle_ages, WIRE_AGES);
    for (unsigned i = 0; i < WIRE_AGES; i++)
        out->idle_pages[i] = read_stat(&in->idle_pages[i], pages);
}

/* The bounds leave room to add them up. */
static void read_latencies(struct wire_stats *in, struct vm_stats *out)
{
    for (unsigned t = 0; t < WIRE_TIERS; t++) {
        _Atomic uint64_t *ns, *bucket = wire_stats_latency(in, t, &ns);
        out->latency_ns[t] = read_stat(ns, 1ull << 62);
        for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS; i++)
            out->latency[t][i] = read_stat(&bucket[i], 1ull << 48);
    }
}

uint64_t vm_working_set_pages(const struct vm *vm)
{
    const struct vm_stats *s = &vm->stats;
    uint64_t pages = s->working_set_pages + s->unsampled_pages, all = vm_guest_pages(vm);

    if (!s->sample_periods)
        return 0;
    return pages > all ? all : pages ? pages : 1;
}

void vm_read_stats(struct vm *vm)
{
    if (!vm->session || vm->session->state != SESSION_LIVE)
        return;
    struct wire_stats *in = &vm->session->shm->stats;
    struct vm_stats *out = &vm->stats;
    uint64_t pages = vm_guest_pages(vm), ever = 1ull << 48;

    if (!read_stat(&in->cpu_ns, 1)) /* it has not said anything in this session yet */
        return;
    /* acquire, first of all: what a round that is over has left to do is read after its end */
    out->prev_started_ns = atomic_load_explicit(&in->prev_started_ns, memory_order_acquire);
    out->round_started_ns = atomic_load_explicit(&in->round_started_ns, memory_order_acquire);
    out->zero_pages = read_stat(&in->zero_pages, pages);
    out->broken_pages = read_stat(&in->broken_pages, pages);
    out->unshared_pages = read_stat(&in->unshared_pages, pages);
    out->volatile_pages = read_stat(&in->volatile_pages, pages);
    out->skipped_pages = read_stat(&in->skipped_pages, pages);
    out->would_save_pages = read_stat(&in->would_save_pages, pages);
    out->backlog_pages = read_stat(&in->backlog_pages, pages);
    out->full_scans = read_stat(&in->full_scans, ever);
    out->merges = read_stat(&in->merges, ever);
    out->zero_drops = read_stat(&in->zero_drops, ever);
    out->cow_breaks = read_stat(&in->cow_breaks, ever);
    out->heals = read_stat(&in->heals, ever);
    out->faults = read_stat(&in->faults, ever);
    out->rejected = read_stat(&in->rejected, ever);
    out->huge_broken = read_stat(&in->huge_broken, ever);
    out->parked_pages = read_stat(&in->parked_pages, pages);
    out->packed_pages = read_stat(&in->packed_pages, pages);
    out->packed_bytes = read_stat(&in->packed_bytes, pages * WIRE_PAGE_BYTES);
    out->pool_bytes = read_stat(&in->pool_bytes, ever);
    out->page_outs = read_stat(&in->page_outs, ever);
    out->page_ins = read_stat(&in->page_ins, ever);
    out->parked_faults = read_stat(&in->parked_faults, ever);
    out->packed_faults = read_stat(&in->packed_faults, ever);
    out->swapped_pages = read_stat(&in->swapped_pages, pages);
    out->swap_bytes = read_stat(&in->swap_bytes, ever);
    out->swap_written_bytes = read_stat(&in->swap_written_bytes, 1ull << 60);
    out->swap_errors = read_stat(&in->swap_errors, ever);
    out->swapped_faults = read_stat(&in->swapped_faults, ever);
    out->lost_pages = read_stat(&in->lost_pages, ever);
    out->merged_outs = read_stat(&in->merged_outs, ever);
    out->remote_pages = read_stat(&in->remote_pages, pages);
    out->remote_outs = read_stat(&in->remote_outs, ever);
    out->remote_faults = read_stat(&in->remote_faults, ever);
    out->held_faults = read_stat(&in->held_faults, ever);
    out->held_ns = read_stat(&in->held_ns, 1ull << 62);
    out->swap_reads = read_stat(&in->swap_reads, ever);
    out->prefetched_pages = read_stat(&in->prefetched_pages, ever);
    out->prefetch_used = read_stat(&in->prefetch_used, ever);
    out->prefetch_wasted = read_stat(&in->prefetch_wasted, ever);
    read_samples(in, pages, out);
    read_latencies(in, out);
    out->hashed_pages = read_stat(&in->hashed_pages, ever);
    out->written_pages = read_stat(&in->written_pages, ever);
    for (int i = 0; i < WIRE_INELIGIBLE_COUNT; i++)
        out->ineligible_bytes[i] = read_stat(&in->ineligible_bytes[i], pages * WIRE_PAGE_BYTES);
    out->vmas_used = read_stat(&in->vmas_used, vm->core->max_map_count);
    out->vmas_limit = read_stat(&in->vmas_limit, vm->core->max_map_count);
    out->metadata_bytes = read_stat(&in->metadata_bytes, ever);
    out->cpu_ns = read_stat(&in->cpu_ns, 1ull << 62);
    out->state = read_stat(&in->state, WIRE_VM_CLOSING);
    if (out->vmas_used < out->vmas_limit / 2)
        vm->short_of_maps = false;
}

void vm_restart_pass(struct vm *vm, uint64_t now_ns)
{
    vm->settled = false;
    vm->settled_from_ns = 0;
    vm->pass = (struct vm_pass){.started_ns = now_ns, .found_before = vm_found_ever(vm)};
}

bool vm_is_short_of_maps(const struct vm *vm)
{
    return vm->stats.state == WIRE_VM_MAP_COUNT || vm->short_of_maps;
}

size_t vm_metadata_bytes(const struct vm *vm)
{
    size_t bytes = sizeof *vm + why_bytes(&vm->reclaim.why);
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        const struct region *region = vm->region[i];
        if (!region)
            continue;
        bytes += sizeof *region + region->holdings.bytes;
        if (region->huge)
            bytes += (region->npages / WIRE_CHUNK_PAGES + 1) * sizeof *region->huge;
    }
    if (vm->session)
        bytes += channel_bytes(vm->session);
    return bytes;
}
