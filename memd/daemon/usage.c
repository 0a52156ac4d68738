/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see usage.h. */
#include "memd/daemon/usage.h"

#include "memd/common/less.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/snapshot.h"
#include "memd/daemon/state.h"

#include <unistd.h>

/* Guest pages in RAM that are the VM's own, at most: some may never have been touched. */
static uint64_t private_bytes(const struct vm *vm)
{
    const struct vm_stats *s = &vm->stats;
    uint64_t gone = vm_merged_pages(vm) + s->zero_pages + s->packed_pages + s->swapped_pages;

    return less(vm_guest_pages(vm), gone) * WIRE_PAGE_BYTES;
}

static uint64_t map_bytes(const struct vm *vm)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
        if (vm->region[i])
            bytes += vm->region[i]->map_bytes;
    return bytes;
}

/* Guest pages of all engines in the process of a VM. */
static uint64_t process_pages(const struct vm *vm)
{
    const struct vm *other;
    uint64_t pages = 0;

    cds_list_for_each_entry (other, &vm->core->vms, link)
        if (other->engine.pid == vm->engine.pid)
            pages += vm_guest_pages(other);
    return pages;
}

/* Its part of its process' anonymous memory. */
static uint64_t anon_bytes(const struct vm *vm)
{
    uint64_t bytes, pages = vm_guest_pages(vm), all;

    if (proc_read_anon(vm->core->config.proc_root, vm->engine.pid, &bytes))
        return private_bytes(vm) + vm->stats.pool_bytes;
    if (!vm->reclaim.has_siblings)
        return bytes;
    all = process_pages(vm);
    return all ? (uint64_t)((double)bytes * (double)pages / (double)all) : 0;
}

/* Which VMs share a process: looked at again when VMs have come or gone. */
static void find_siblings(struct core *core)
{
    struct vm *vm, *other;

    if (core->reclaim.siblings_id == core->next_vm_id && core->reclaim.siblings_vms == core->nvms)
        return;
    core->reclaim.siblings_id = core->next_vm_id;
    core->reclaim.siblings_vms = core->nvms;
    cds_list_for_each_entry (vm, &core->vms, link) {
        vm->reclaim.has_siblings = false;
        cds_list_for_each_entry (other, &core->vms, link)
            vm->reclaim.has_siblings |= other != vm && other->engine.pid == vm->engine.pid;
    }
}

static void measure_vm(struct vm *vm)
{
    struct usage *u = &vm->reclaim.usage;
    uint64_t anon = anon_bytes(vm), own = private_bytes(vm);

    u->own_bytes = anon + map_bytes(vm) + (vm->session ? channel_shared_bytes(vm->session) : 0);
    /* what memd shares with the engine comes and goes, and is no memory of the guest's */
    u->merged_bytes = (uint64_t)(snapshot_recent_share(vm) * WIRE_PAGE_BYTES);
    u->resident_bytes = anon + u->merged_bytes;
    anon = less(anon, vm->stats.pool_bytes);
    u->ineligible_bytes = 0;
    for (unsigned i = 0; i < WIRE_INELIGIBLE_COUNT; i++)
        u->ineligible_bytes += vm->stats.ineligible_bytes[i];
    own = less(own, u->ineligible_bytes);
    u->reclaimable_bytes = own < anon ? own : anon;
}

static uint64_t store_bytes(const struct domain *domain)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < domain->nstores; i++)
        bytes += store_block_bytes(&domain->stores[i]);
    return bytes;
}

uint64_t usage_of_domain(const struct domain *domain)
{
    uint64_t bytes = store_bytes(domain);
    const struct vm *vm;

    cds_list_for_each_entry (vm, &domain->vms, domain_link)
        bytes += vm->reclaim.usage.own_bytes;
    return bytes;
}

uint64_t usage_measure(struct core *core)
{
    const struct domain *domain;
    uint64_t bytes = 0;
    struct vm *vm;

    find_siblings(core);
    proc_read_anon(core->config.proc_root, getpid(), &bytes);
    cds_list_for_each_entry (vm, &core->vms, link) {
        measure_vm(vm);
        bytes += vm->reclaim.usage.own_bytes;
    }
    cds_list_for_each_entry (domain, &core->domains, link)
        bytes += store_bytes(domain);
    return bytes;
}
