/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store: a memfd, given out in blocks of consecutive frames. Block 0 is never used (frame 0 means none).
 * A block is free again when it has been retired, nobody refers to its frames, and every engine has answered
 * a fence since; then it is overwritten with SCRIBBLE.
 */
#include "script.h"

#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS_DEFAULT 64u
#define SCRIBBLE       0xdb
#define BLOCK_BYTES    (SCRIPT_BLOCK_FRAMES * PAGE)

int frames_open(struct script *s)
{
    s->nblocks = s->options.store_blocks ? s->options.store_blocks : BLOCKS_DEFAULT;
    s->store_fd = memfd_create("memd-store", MFD_CLOEXEC);
    if (s->store_fd < 0 || ftruncate(s->store_fd, (off_t)(s->nblocks * BLOCK_BYTES)))
        return -errno;
    s->store = mmap(NULL, s->nblocks * BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->store_fd, 0);
    if (s->store == MAP_FAILED)
        return -errno;
    madvise(s->store, s->nblocks * BLOCK_BYTES, MADV_DONTFORK);
    s->refs = calloc(s->nblocks * SCRIPT_BLOCK_FRAMES, sizeof *s->refs);
    s->block = calloc(s->nblocks, sizeof *s->block);
    if (!s->refs || !s->block)
        return -ENOMEM;
    s->block[0].state = BLOCK_USED;
    return 0;
}

void frames_close(struct script *s)
{
    munmap(s->store, s->nblocks * BLOCK_BYTES);
    close(s->store_fd);
    free(s->refs);
    free(s->block);
}

bool frames_valid(const struct script *s, uint32_t frame, uint32_t count)
{
    uint32_t limit = s->nblocks * SCRIPT_BLOCK_FRAMES;

    return frame >= SCRIPT_BLOCK_FRAMES && frame < limit && count <= limit - frame;
}

void frames_ref(struct script *s, uint32_t frame, uint32_t count)
{
    for (uint32_t f = frame; f < frame + count; f++) {
        s->refs[f]++;
        s->block[f / SCRIPT_BLOCK_FRAMES].refs++;
    }
}

void frames_unref(struct script *s, uint32_t frame, uint32_t count)
{
    for (uint32_t f = frame; f < frame + count && frames_valid(s, f, 1); f++) {
        CHECK(s->refs[f], "the script lost count of frame %u", f);
        s->refs[f]--;
        s->block[f / SCRIPT_BLOCK_FRAMES].refs--;
    }
}

static uint32_t take_block(struct script *s)
{
    for (uint32_t b = 1; b < s->nblocks; b++)
        if (s->block[b].state == BLOCK_FREE) {
            s->block[b] = (struct block){.state = BLOCK_USED};
            return b;
        }
    return 0;
}

static void put(struct script *s, uint32_t frame, const void *pages, uint32_t n)
{
    guest_read_bytes(s->store + frame * PAGE, pages, n * PAGE);
}

uint32_t script_frames(struct script *s, const void *pages, uint32_t n)
{
    CHECK(n && n <= SCRIPT_BLOCK_FRAMES, "%u frames at once", n);
    pthread_mutex_lock(&s->lock);
    uint32_t frame = take_block(s) * SCRIPT_BLOCK_FRAMES;
    pthread_mutex_unlock(&s->lock);
    if (frame)
        put(s, frame, pages, n);
    return frame;
}

uint32_t frames_one(struct script *s, const void *page)
{
    if (!s->open_block || s->block[s->open_block].used == SCRIPT_BLOCK_FRAMES)
        s->open_block = take_block(s);
    CHECK(s->open_block, "the script's store is full");
    uint32_t frame = s->open_block * SCRIPT_BLOCK_FRAMES + s->block[s->open_block].used++;
    put(s, frame, page, 1);
    return frame;
}

uint32_t script_frame(struct script *s, const void *page)
{
    pthread_mutex_lock(&s->lock);
    uint32_t frame = frames_one(s, page);
    pthread_mutex_unlock(&s->lock);
    return frame;
}

void script_retire(struct script *s, uint32_t frame)
{
    pthread_mutex_lock(&s->lock);
    s->block[frame / SCRIPT_BLOCK_FRAMES].state = BLOCK_RETIRED;
    pthread_mutex_unlock(&s->lock);
}

uint32_t script_recycle(struct script *s)
{
    uint32_t *idle = calloc(s->nblocks, sizeof *idle), n = 0;
    struct script_vm *live[SCRIPT_VMS_MAX];
    unsigned nlive = 0;
    bool all = true;

    CHECK(idle, "no memory");
    pthread_mutex_lock(&s->lock);
    for (uint32_t b = 1; b < s->nblocks; b++)
        if (s->block[b].state == BLOCK_RETIRED && !s->block[b].refs)
            idle[n++] = b;
    for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++)
        if (s->vm[i] && s->vm[i]->state == VM_LIVE)
            live[nlive++] = s->vm[i];
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; n && i < nlive; i++)
        all &= script_fence(live[i]);
    for (uint32_t i = 0; all && i < n; i++)
        memset(s->store + idle[i] * BLOCK_BYTES, SCRIBBLE, BLOCK_BYTES);
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; all && i < n; i++)
        s->block[idle[i]].state = BLOCK_FREE;
    pthread_mutex_unlock(&s->lock);
    free(idle);
    return all ? n : 0;
}

uint32_t script_refs(struct script *s, uint32_t frame)
{
    pthread_mutex_lock(&s->lock);
    uint32_t refs = s->refs[frame];
    pthread_mutex_unlock(&s->lock);
    return refs;
}

struct script_counts script_count(struct script *s)
{
    struct script_counts n = {0};

    pthread_mutex_lock(&s->lock);
    for (uint32_t f = 0; f < s->nblocks * SCRIPT_BLOCK_FRAMES; f++) {
        n.shared += s->refs[f] > 0;
        n.sharing += s->refs[f] > 1 ? s->refs[f] - 1 : 0;
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}
