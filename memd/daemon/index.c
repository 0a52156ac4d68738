/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see index.h. */
#include "memd/daemon/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN       64u
#define FRAMES_PER_BUCKET 2u /* a bucket takes 16 bytes */
#define FILTER_WORDS_MIN  16u
#define FRAMES_PER_WORD   4u /* of the filter */

/* The table compares the 64-bit hash, which is all there is to compare. */
static int match_hash(struct cds_lfht_node *node, const void *key)
{
    (void)node;
    (void)key;
    return 1;
}

/* Two bits of one word: 16 bits a frame let 2% of other hashes through. */
static uint64_t filter_bits(uint64_t hash)
{
    return 1ull << (hash >> 32 & 63) | 1ull << (hash >> 38 & 63);
}

static uint64_t *filter_word(const struct index *index, uint64_t hash)
{
    return &index->filter[(hash & UINT32_MAX) * index->filter_words >> 32];
}

static void filter_set(struct index *index, uint64_t hash)
{
    *filter_word(index, hash) |= filter_bits(hash);
    index->filter_added++;
}

static uint64_t reverse_bits(uint64_t v)
{
    v = (v >> 1 & 0x5555555555555555ull) | (v & 0x5555555555555555ull) << 1;
    v = (v >> 2 & 0x3333333333333333ull) | (v & 0x3333333333333333ull) << 2;
    v = (v >> 4 & 0x0f0f0f0f0f0f0f0full) | (v & 0x0f0f0f0f0f0f0f0full) << 4;
    return __builtin_bswap64(v);
}

/* A node keeps the hash with its bits reversed. */
static uint64_t hash_of(const struct frame *frame)
{
    return reverse_bits(frame->node.reverse_hash);
}

/* A filter for `frames`, made from the table. */
static int make_filter(struct index *index, uint64_t frames)
{
    uint64_t words =
        frames / FRAMES_PER_WORD < FILTER_WORDS_MIN ? FILTER_WORDS_MIN : frames / FRAMES_PER_WORD;
    uint64_t *filter = calloc(words, sizeof *filter);
    if (!filter)
        return -ENOMEM;
    free(index->filter);
    index->filter = filter;
    index->filter_words = (uint32_t)words;
    index->filter_added = 0;

    struct cds_lfht_iter iter;
    struct frame *frame;
    rcu_read_lock();
    cds_lfht_for_each_entry (index->frames, &iter, frame, node)
        filter_set(index, hash_of(frame));
    rcu_read_unlock();
    return 0;
}

int index_open(struct index *index)
{
    *index = (struct index){.nbuckets = BUCKETS_MIN};
    index->frames = cds_lfht_new(BUCKETS_MIN, BUCKETS_MIN, 0, 0, NULL);
    if (!index->frames)
        return -ENOMEM;
    if (make_filter(index, 0)) {
        index_close(index);
        return -ENOMEM;
    }
    return 0;
}

void index_close(struct index *index)
{
    if (index->frames)
        cds_lfht_destroy(index->frames, NULL);
    free(index->filter);
    candidates_close(&index->candidates);
    *index = (struct index){0};
}

struct frame *index_find(const struct index *index, uint64_t hash)
{
    uint64_t bits = filter_bits(hash);
    if ((*filter_word(index, hash) & bits) != bits)
        return NULL;

    struct cds_lfht_iter iter;
    rcu_read_lock();
    cds_lfht_lookup(index->frames, hash, match_hash, NULL, &iter);
    struct cds_lfht_node *node = cds_lfht_iter_get_node(&iter);
    rcu_read_unlock();
    return node ? caa_container_of(node, struct frame, node) : NULL;
}

void index_prefetch(const struct index *index, uint64_t hash)
{
    __builtin_prefetch(filter_word(index, hash));
    candidates_prefetch(&index->candidates, hash);
}

static void resize(struct index *index, uint64_t buckets)
{
    cds_lfht_resize(index->frames, buckets);
    index->nbuckets = buckets;
}

struct frame *index_add(struct index *index, uint64_t hash, struct frame *frame)
{
    if (index->filter_added >= (uint64_t)index->filter_words * FRAMES_PER_WORD &&
        make_filter(index, index->nframes + index->nframes / 2) &&
        index->filter_added / 64 > index->filter_words) /* full of holes by now */
        return NULL;

    rcu_read_lock();
    struct cds_lfht_node *node = cds_lfht_add_unique(index->frames, hash, match_hash, NULL, &frame->node);
    rcu_read_unlock();
    if (node != &frame->node)
        return caa_container_of(node, struct frame, node);
    frame->indexed = 1;
    filter_set(index, hash);
    if (++index->nframes > index->nbuckets * FRAMES_PER_BUCKET)
        resize(index, index->nbuckets * 2);
    return frame;
}

void index_remove(struct index *index, struct frame *frame)
{
    if (!frame->indexed)
        return;
    rcu_read_lock();
    cds_lfht_del(index->frames, &frame->node);
    rcu_read_unlock();
    frame->indexed = 0;
    index->nframes--;
}

void index_trim(struct index *index)
{
    uint64_t buckets = index->nbuckets;
    while (buckets > BUCKETS_MIN && index->nframes * 4 < buckets * FRAMES_PER_BUCKET)
        buckets /= 2;
    if (buckets != index->nbuckets)
        resize(index, buckets);
    if (index->filter_words > FILTER_WORDS_MIN &&
        index->nframes * 4 < (uint64_t)index->filter_words * FRAMES_PER_WORD)
        make_filter(index, index->nframes + index->nframes / 2);
    candidates_trim(&index->candidates);
}

size_t index_bytes(const struct index *index)
{
    return index->nbuckets * sizeof(struct cds_lfht_node) + index->filter_words * sizeof *index->filter +
           index->candidates.bytes;
}
