/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that a forked child has inherited may be mapped from frames of its parent's engine. Nobody merges in
 * it any more, and what would show the file behind such a mapping is done by hand. track.lock held.
 */
#include "memd/preload/inherit.h"

#include "memd/engine/maps.h"
#include "memd/preload/alone.h"
#include "memd/preload/sys.h"
#include "memd/wire.h"

#include <errno.h>
#include <string.h>

#define STACK_BELOW (64u << 10)

/* Memory of a parent's: what is mapped from frames would show their bytes again after MADV_DONTNEED. */
static int replace_frames(void *ctx, const struct mapping *v)
{
    const struct range *r = ctx;
    uint64_t start = v->start > r->start ? v->start : r->start, end = v->end < r->end ? v->end : r->end;
    int prot = (v->readable ? PROT_READ : 0) | (v->writable ? PROT_WRITE : 0);

    if (!v->file || v->shared)
        return 0;
    return sys_mmap((void *)start, end - start, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                    -1, 0) == MAP_FAILED
               ? -errno
               : 0;
}

int inherit_discard(const struct ranges *inherited, uint64_t start, uint64_t end)
{
    struct range r;
    int err = 0;

    for (uint64_t at = start; !err && ranges_next(inherited, at, end, &r); at = r.end)
        err = mappings_each(r.start, r.end, false, replace_frames, &r);
    return err;
}

static int has_frames(void *ctx, const struct mapping *v)
{
    (void)ctx;
    return v->file && !v->shared;
}

static int is_not_plain(void *ctx, const struct mapping *v)
{
    (void)ctx;
    return v->shared || !v->readable || !v->writable;
}

/* The same bytes in memory of its own, all of it one mapping. Nobody else may write meanwhile. */
static int own_range(struct range r)
{
    static const char zeros[WIRE_PAGE_BYTES];
    uint64_t bytes = r.end - r.start;

    if (!mappings_each(r.start, r.end, false, has_frames, NULL))
        return 0;
    if (mappings_each(r.start, r.end, false, is_not_plain, NULL))
        return -ENOMEM;
    uint64_t stack = (uintptr_t)__builtin_frame_address(0);
    bool on_it = stack + STACK_BELOW > r.start && stack < r.end + STACK_BELOW;
    if (on_it || syscall(SYS_gettid) != getpid() || !alone_now())
        return -EBUSY;
    char *own =
        sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (own == MAP_FAILED)
        return -errno;
    for (uint64_t at = 0; at < bytes; at += sizeof zeros)
        if (memcmp((char *)r.start + at, zeros, sizeof zeros) != 0)
            memcpy(own + at, (char *)r.start + at, sizeof zeros);
    if (sys_mremap(own, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)r.start) != MAP_FAILED)
        return 0;
    int err = -errno;
    sys_munmap(own, bytes);
    return err;
}

int inherit_own(struct ranges *inherited, uint64_t start, uint64_t end)
{
    struct range r;
    int err = 0;

    for (uint64_t at = start; !err && ranges_next(inherited, at, end, &r); at = r.end) {
        err = own_range(r);
        if (!err)
            err = ranges_remove(inherited, r.start, r.end);
    }
    return err;
}
