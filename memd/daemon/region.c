/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see vm.h. This file: a region's page map and its references. */
#include "memd/daemon/state.h"
#include "memd/daemon/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* VMs larger than this many times the host's memory are a mistake or a lie. */
#define OVERCOMMIT_MAX 8u

/* The map must be unable to shrink under us (a truncate would be a SIGBUS here) and on tmpfs proper (reading
 * a hole of a hugetlb file can be one). Only a memfd can carry the seal: a file system the peer mounted, and
 * may have filled, cannot. */
static int check_map_file(int fd, uint64_t bytes)
{
    struct stat st;
    struct statfs fs;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPERM;
    if (fstat(fd, &st) || fstatfs(fd, &fs))
        return -errno;
    if (!S_ISREG(st.st_mode) || fs.f_type != TMPFS_MAGIC || (uint64_t)st.st_size < bytes)
        return -EINVAL;
    return 0;
}

static int check_message(const struct vm *vm, const struct wire_msg_region_add *msg, uint64_t others)
{
    uint64_t limit = vm->core->memory.total_bytes / WIRE_PAGE_BYTES * OVERCOMMIT_MAX;

    if (!msg->npages || msg->npages > WIRE_REGION_PAGES_MAX || msg->hva % WIRE_PAGE_BYTES ||
        msg->gpa % WIRE_PAGE_BYTES || msg->hva + msg->npages * WIRE_PAGE_BYTES < msg->hva)
        return -EINVAL;
    return others + msg->npages > limit ? -EINVAL : 0;
}

static int map_pages(const struct wire_msg_region_add *msg, int fd, struct region *region)
{
    size_t bytes = sizeof(struct wire_map) + msg->npages * sizeof(uint64_t);
    int err = check_map_file(fd, bytes);
    if (err)
        return err;
    const struct wire_map *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    if (map->magic != WIRE_MAP_MAGIC || map->version < WIRE_MAP_VERSION_MIN ||
        map->version > WIRE_MAP_VERSION_MAX || map->npages != msg->npages || map->hva != msg->hva) {
        munmap((void *)map, bytes);
        return -EINVAL;
    }
    region->map = map;
    region->map_bytes = bytes;
    return 0;
}

int region_new(struct vm *vm, const struct wire_msg_region_add *msg, int map_fd, uint64_t others,
               struct region **ret_region)
{
    struct region *region = NULL;
    int err = check_message(vm, msg, others);

    if (!err) {
        region = calloc(1, sizeof *region);
        err = region ? map_pages(msg, map_fd, region) : -ENOMEM;
    }
    if (err) {
        free(region);
        close(map_fd);
        return err;
    }
    region->vm = vm;
    region->id = msg->region;
    region->node = msg->node;
    region->npages = region->answer_pages = msg->npages;
    region->map_fd = map_fd;
    err = holdings_open(&region->holdings, msg->npages);
    if (!err) {
        region->first_id = pages_number(&vm->core->pages, region, msg->npages);
        err = region->first_id ? 0 : -ENOSPC;
    }
    if (err) {
        region_free(region);
        return err;
    }
    vm->domain->numbered += region->npages;
    *ret_region = region;
    return 0;
}

/* Reading a hole of the map would fill it: skip them. */
bool region_next_entries(const struct region *region, uint64_t at, uint64_t *ret_from, uint64_t *ret_to)
{
    const off_t header = sizeof(struct wire_map), entry = sizeof(uint64_t);
    off_t data = lseek(region->map_fd, header + (off_t)at * entry, SEEK_DATA);
    if (data < 0)
        return false;
    off_t hole = lseek(region->map_fd, data, SEEK_HOLE);
    uint64_t from = data < header ? 0 : (uint64_t)((data - header) / entry);
    uint64_t to = hole < header ? region->npages : (uint64_t)((hole - header) / entry);

    *ret_from = from < at ? at : from;
    *ret_to = to < region->npages ? to : region->npages;
    return *ret_from < *ret_to;
}

void region_detach(struct region *region)
{
    if (region->first_id) {
        pages_release(&region->vm->core->pages, region->first_id, region->npages);
        region->vm->domain->numbered -= region->npages;
    }
    if (region->map)
        munmap((void *)region->map, region->map_bytes);
    if (region->map_fd >= 0)
        close(region->map_fd);
    free(region->huge);
    region->map_fd = -1;
    region->first_id = 0;
    region->map = NULL;
    region->huge = NULL;
}

static void drop_run(void *ctx, uint32_t page, uint32_t count, uint32_t frame)
{
    struct vm *vm = ctx;
    (void)page;
    vm->held_pages -= count;
    domain_unref(vm->domain, frame, count);
}

void region_free(struct region *region)
{
    region_detach(region);
    holdings_each(&region->holdings, drop_run, region->vm);
    holdings_close(&region->holdings);
    free(region);
}

void region_settle_deleted(struct region *region)
{
    if (region->map || region->unanswered)
        return;
    region->vm->region[region->id] = NULL;
    region_free(region);
}

static void move_run(void *ctx, uint32_t page, uint32_t count, uint32_t frame)
{
    struct region *to = ctx;

    if (holdings_add(&to->holdings, page, count, frame))
        drop_run(to->vm, page, count, frame);
}

/* Nothing was proposed for the new one yet; answers for the old are still to come, for all of its pages. */
void region_succeed(struct region *region, struct region *old)
{
    region->unanswered = old->unanswered;
    if (old->answer_pages > region->answer_pages) {
        struct holdings empty = region->holdings;
        region->holdings = old->holdings;
        region->answer_pages = old->answer_pages;
        old->holdings = empty;
    } else {
        holdings_each(&old->holdings, move_run, region);
    }
    region_detach(old);
    holdings_close(&old->holdings);
    free(old);
}

int region_hold(struct region *region, uint32_t page, uint32_t count, uint32_t frame)
{
    int err = holdings_add(&region->holdings, page, count, frame);
    if (err)
        return err;
    domain_ref(region->vm->domain, frame, count);
    region->vm->held_pages += count;
    return 0;
}

int region_drop(struct region *region, uint32_t page, uint32_t count, uint32_t frame)
{
    int err = holdings_remove(&region->holdings, page, count, frame);
    if (err)
        return err;
    region->vm->held_pages -= count;
    domain_unref(region->vm->domain, frame, count);
    return 0;
}
