/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * hostile_engine: an engine whose records make sense and are not true, for longer than is good for anybody.
 *
 * Use: hostile_engine ATTACK RUN_DIR DOMAIN [COUNT], or hostile_engine image FILE MIB. Attacks:
 *
 * stubborn: the same hashes over and over; whatever it is asked, the answer is wrong; a page map that turns
 * into anything; statistics beyond all bounds.
 *
 * flood: all the hashes the ring takes, for COUNT seconds; nothing memd says is read.
 *
 * random: COUNT sessions of random records.
 *
 * collide: a frame with other bytes than the page of collision.h that its hash stands for; it stays until a
 * line comes in. `image` makes guest memory with that page in it many times.
 *
 * None of it need end the session. Exit code 0: memd did as it should; that it still runs and honest guests
 * are well is for hostile.sh to find out, which this is part of. Single lies: lies.c.
 *
 * memd-test: helper
 */
#include "memd/common/clock.h"
#include "tests/faults/collision.h"
#include "tests/faults/lies.h"
#include "tests/faults/peer.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *domain;

static uint32_t random_number(void)
{
    static uint64_t x = 0x9e3779b97f4a7c15ull;

    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return (uint32_t)(x >> 16);
}

/* ---------------------------------------------------------------- records */

static bool is_over(const struct peer *p)
{
    struct pollfd fd = {.fd = p->sock, .events = POLLRDHUP};

    return poll(&fd, 1, 1) == 1;
}

/* Room for a record within the time that memd may leave hashes unread; NULL: the session is over. */
static void *record(struct peer *p, uint16_t type, uint32_t bytes)
{
    uint64_t end_ns = clock_now_ns() + PEER_WAIT_MS * CLOCK_MS;

    while (clock_now_ns() < end_ns) {
        struct wire_rec *rec = ring_reserve(&p->up, type, bytes);
        if (rec) {
            memset(rec + 1, 0, bytes - sizeof *rec);
            return rec;
        }
        peer_kick(p);
        if (is_over(p))
            return NULL;
    }
    CHECK(0, "the ring stays full");
    return NULL;
}

static bool tell_hashes(struct peer *p, uint32_t page, uint32_t count, const uint64_t *hash)
{
    struct wire_rec_hashes *rec = record(p, WIRE_REC_HASHES, (uint32_t)sizeof *rec + count * 8);

    if (!rec)
        return false;
    rec->page = page;
    rec->count = (uint16_t)count;
    rec->node = -1;
    memcpy(rec->hash, hash, count * sizeof *hash);
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&p->map->entry[page + i], (uint64_t)wire_tag_of_hash(hash[i]) << WIRE_PAGE_TAG_SHIFT);
    peer_kick(p);
    return true;
}

/* ---------------------------------------------------------------- stubborn */

struct asked {
    unsigned exports, merges;
};

static void answer_export(struct peer *p, const struct wire_rec_export *ask)
{
    struct wire_rec_export *answer = record(p, WIRE_REC_EXPORTED, sizeof *answer);

    CHECK(answer, "the session is over");
    memset(p->shm->exports[ask->slot], (int)random_number(), WIRE_PAGE_BYTES * ask->count);
    answer->r.region = ask->r.region;
    answer->page = ask->page;
    answer->slot = ask->slot;
    answer->count = random_number() % 3 ? ask->count : 0;
}

static void answer_merge(struct peer *p, const struct wire_rec_merge *ask)
{
    struct wire_rec_result *answer = record(p, WIRE_REC_RESULT, sizeof *answer);

    CHECK(answer, "the session is over");
    answer->r.region = ask->r.region;
    answer->page = ask->page;
    answer->frame = ask->frame;
    answer->count = ask->count;
    answer->why = WIRE_WHY_DIFFERS;
    answer->id = ask->id;
}

/* Exports are garbage or impossible, merges differ, however often. Until nothing comes for a while. */
static void answer_wrongly(struct peer *p, unsigned wait_ms, struct asked *asked)
{
    _Alignas(8) uint8_t buf[WIRE_REC_BYTES_MAX];
    const struct wire_rec *rec = (void *)buf;
    uint64_t end_ns = clock_now_ns() + wait_ms * CLOCK_MS;

    while (clock_now_ns() < end_ns) {
        if (ring_pop(&p->down, buf, sizeof buf) <= 0) {
            is_over(p); /* for a millisecond */
            continue;
        }
        if (rec->type == WIRE_REC_EXPORT) {
            answer_export(p, (void *)buf);
            asked->exports++;
        } else if (rec->type == WIRE_REC_MERGE) {
            answer_merge(p, (void *)buf);
            asked->merges++;
        }
        peer_kick(p);
    }
}

static void attack_stubborn(void)
{
    static struct peer p;
    struct asked asked = {0};
    uint64_t hash[WIRE_HASHES_MAX];

    peer_join(&p, run_dir, "hostile", domain);
    for (unsigned round = 0; round < 300; round++) {
        for (uint32_t i = 0; i < WIRE_HASHES_MAX; i++)
            hash[i] = XXH3_64bits(&(uint64_t){i % 16}, 8);
        CHECK(tell_hashes(&p, (round & 1) * 256, WIRE_HASHES_MAX, hash), "the session is over");
        answer_wrongly(&p, 2, &asked);
    }
    answer_wrongly(&p, 200, &asked);
    CHECK(asked.exports > 0, "nothing was asked for");
    CHECK(!asked.merges, "garbage has become a frame");
    for (unsigned round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < WIRE_HASHES_MAX; i++)
            hash[i] = (uint64_t)random_number() << 32 | random_number() % 8;
        CHECK(tell_hashes(&p, 512, WIRE_HASHES_MAX, hash), "the session is over");
        for (uint32_t i = 0; i < PEER_PAGES; i++)
            atomic_store(&p.map->entry[i], (uint64_t)random_number() << 32 | random_number());
        answer_wrongly(&p, 1, &asked);
    }
    memset((void *)&p.shm->stats, 0xff, sizeof p.shm->stats);
    atomic_store(&p.shm->down.tail, 12345);
    answer_wrongly(&p, 500, &asked);
    CHECK(!is_over(&p), "a lie has ended the session");
}

/* ---------------------------------------------------------------- flood */

static void attack_flood(unsigned seconds)
{
    static struct peer p;
    uint64_t end_ns = clock_now_ns() + seconds * CLOCK_S, hash[WIRE_HASHES_MAX], sent = 0;

    peer_join(&p, run_dir, "hostile", domain);
    while (clock_now_ns() < end_ns) {
        for (uint32_t i = 0; i < WIRE_HASHES_MAX; i++)
            hash[i] = random_number() % 4 ? (uint64_t)random_number() << 32 | random_number() : 1 + i % 100;
        bool taken = tell_hashes(&p, random_number() % (PEER_PAGES / 256) * 256, WIRE_HASHES_MAX, hash);
        CHECK(taken, "the session is over");
        sent += WIRE_HASHES_MAX;
    }
    printf("%llu hashes taken in %u s\n", (unsigned long long)sent, seconds);
    CHECK(sent > 10000, "hardly anything was taken");
}

/* ---------------------------------------------------------------- random */

static void random_record(struct peer *p)
{
    static const uint16_t types[] = {1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 16, 18, 22};
    uint16_t type = types[random_number() % COUNT(types)];
    uint32_t bytes = type == WIRE_REC_RESULT    ? sizeof(struct wire_rec_result)
                     : type == WIRE_REC_HASHES  ? 16 + 8 * (1 + random_number() % 256)
                     : type == WIRE_REC_DROPPED ? sizeof(struct wire_rec_dropped)
                                                : 8 + 8 * (random_number() % 12);
    uint8_t *rec = record(p, type, bytes);

    for (uint32_t at = sizeof(struct wire_rec); rec && at < bytes; at += sizeof(uint32_t))
        memcpy(rec + at, &(uint32_t){random_number() % 4 ? random_number() % 64 : random_number()},
               sizeof(uint32_t));
    if (!rec)
        return;
    ((struct wire_rec *)rec)->region = random_number() % 8 == 0;
    if (type == WIRE_REC_HASHES) {
        ((struct wire_rec_hashes *)rec)->page = random_number() % PEER_PAGES;
        ((struct wire_rec_hashes *)rec)->count = (uint16_t)((bytes - 16) / 8);
    }
}

static void drop(struct peer *p)
{
    const int fds[] = {p->sock, p->kick_up, p->kick_down, p->map_fd};

    for (size_t i = 0; i < COUNT(fds); i++)
        close(fds[i]);
}

static void attack_random(unsigned sessions)
{
    for (unsigned s = 0; s < sessions; s++) {
        struct peer p;
        peer_join(&p, run_dir, "hostile", domain);
        for (unsigned i = 1 + random_number() % 50; i > 0; i--)
            random_record(&p);
        peer_kick(&p);
        if (random_number() % 2)
            is_over(&p);
        drop(&p);
    }
}

/* ---------------------------------------------------------------- collide */

/* A frame with the other page's bytes, under the hash they share. Both pages go on holding it. */
static void attack_collide(void)
{
    static struct peer p;
    static uint8_t page[2][WIRE_PAGE_BYTES];
    struct wire_rec_export ask;
    struct wire_rec_merge merge;

    collision_make(page[0], page[1]);
    uint64_t hash = XXH3_64bits(page[0], sizeof page[0]);
    CHECK(hash == XXH3_64bits(page[1], sizeof page[1]) && memcmp(page[0], page[1], sizeof page[0]),
          "there is no collision");
    peer_join(&p, run_dir, "hostile", domain);
    CHECK(tell_hashes(&p, 0, 2, (uint64_t[]){hash, hash}), "the session is over");
    peer_await(&p, WIRE_REC_EXPORT, &ask, sizeof ask);
    memcpy(p.shm->exports[ask.slot], page[1], sizeof page[1]);
    struct wire_rec_export *answer = record(&p, WIRE_REC_EXPORTED, sizeof *answer);
    CHECK(answer && ask.count == 1, "one page was to be shown");
    answer->page = ask.page;
    answer->slot = ask.slot;
    answer->count = 1;
    peer_kick(&p);
    peer_await(&p, WIRE_REC_MERGE, &merge, sizeof merge);
    printf("ready\n");
    fflush(stdout);
    getchar();
}

static void make_image(const char *path, unsigned mib)
{
    static uint8_t page[2][WIRE_PAGE_BYTES], other[WIRE_PAGE_BYTES];
    FILE *file = fopen(path, "w");

    collision_make(page[0], page[1]);
    for (unsigned i = 0; file && i < mib * 256; i++) {
        for (size_t at = 0; at < sizeof other; at += 4)
            memcpy(other + at, &(uint32_t){random_number()}, 4);
        const uint8_t *from = i % 4 ? other : page[0];
        if (fwrite(from, WIRE_PAGE_BYTES, 1, file) != 1)
            exit(1);
    }
    if (!file || fclose(file))
        exit(1);
}

int main(int argc, char **argv)
{
    const char *attack = argc > 1 ? argv[1] : "";
    unsigned count = argc > 4 ? (unsigned)atoi(argv[4]) : 1;

    if (argc < 4) {
        fprintf(stderr, "usage: %s ATTACK RUN_DIR DOMAIN [COUNT] | image FILE MIB\n", argv[0]);
        return 2;
    }
    snprintf(run_dir, sizeof run_dir, "%s", argv[2]);
    domain = argv[3];
    if (!strcmp(attack, "image"))
        make_image(argv[2], (unsigned)atoi(argv[3]));
    else if (!strcmp(attack, "stubborn"))
        attack_stubborn();
    else if (!strcmp(attack, "flood"))
        attack_flood(count);
    else if (!strcmp(attack, "random"))
        attack_random(count);
    else if (!strcmp(attack, "collide"))
        attack_collide();
    else
        return 2;
    return 0;
}
