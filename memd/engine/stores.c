/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The frame stores, mapped read-only to compare pages with frames, and to bring REMOTE pages home from.
 *
 * A mapping comes with the session, and stays when the session ends, as long as pages are REMOTE: the fault
 * server needs no daemon. The next daemon opens the same files by their path. Its descriptor is then for the
 * same file, of which the mapping that is there is kept, or replaced by a longer one; a session with a daemon
 * that has another file is refused until the pages are home, those that are SHARED, too, since they become
 * REMOTE without being compared again: or frames would mean what they do not. Which file it was is known as
 * long as it matters: the mappings of such pages keep its inode number from being used again.
 *
 * The fault server reads `at` without a lock, under the chunk's flag of a REMOTE page. So a mapping may go
 * when no page is REMOTE, which is counted after the page has been filled, or, if another is in its place,
 * after fault_quiesce().
 */
#include "memd/engine/stores.h"

#include "memd/engine/remote.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

const uint8_t *stores_frame(const struct memd *m, uint32_t frame)
{
    const struct store *s = &m->store[frame >> WIRE_FRAME_NODE_SHIFT];

    /* acquire: pairs with the publication in stores_map() */
    return atomic_load_explicit(&s->at, memory_order_acquire) + (frame & WIRE_FRAME_INDEX_MASK) * PAGE_BYTES;
}

static int map_file(int fd, uint64_t bytes, const uint8_t **ret_at)
{
    void *p = mmap(place_hint(bytes), bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);

    if (p == MAP_FAILED)
        return -errno;
    /* under mlockall(MCL_FUTURE) a mapping that can be read is filled at once, the holes of the store,
     * too: that would be all the memory the store may ever take */
    syscall(SYS_munlock, p, bytes);
    if (mprotect(p, bytes, PROT_READ) || madvise(p, bytes, MADV_DONTFORK)) {
        int err = -errno;
        munmap(p, bytes);
        return err;
    }
    *ret_at = p;
    return 0;
}

static bool any_in_stores(const struct memd *m)
{
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        if (m->regions[i] && m->regions[i]->n.shared)
            return true;
    return remote_count(m);
}

int stores_map(struct memd *m, unsigned node, int fd, uint64_t bytes)
{
    struct store *s = &m->store[node];
    const uint8_t *at, *was = atomic_load(&s->at);
    struct stat st;

    if (fstat(fd, &st) || (uint64_t)st.st_size < bytes)
        return -EPROTO;
    bool same = s->known && s->dev == st.st_dev && s->ino == st.st_ino;
    if (same && was && s->bytes >= bytes)
        return 0;
    if (s->known && !same && any_in_stores(m))
        return -EXDEV;
    int err = map_file(fd, bytes, &at);
    if (err)
        return err;
    atomic_store_explicit(&s->at, at, memory_order_release);
    if (was) {
        fault_quiesce(m);
        munmap((void *)was, s->bytes);
    }
    s->bytes = bytes;
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    s->known = true;
    return 0;
}

void stores_close(struct memd *m)
{
    for (unsigned i = 0; i < WIRE_NODES_MAX; i++) {
        struct store *s = &m->store[i];
        const uint8_t *was = atomic_load(&s->at);
        atomic_store(&s->at, NULL);
        if (was)
            munmap((void *)was, s->bytes);
        s->bytes = 0;
    }
}

void stores_release(struct memd *m)
{
    if (!m->session.nstores && !remote_count(m))
        stores_close(m);
}
