/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see lies.h. Each function tells one lie on a session of its own, and goes. */
#include "tests/faults/lies.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

char run_dir[108];

/* ---------------------------------------------------------------- at the door */

static void no_protocol(struct peer *p)
{
    char packet[64] = "GET / HTTP/1.0\r\n\r\n";

    peer_connect(p, run_dir);
    CHECK(!peer_send(p, packet, sizeof packet, NULL, 0), "send");
}

static void a_lonely_byte(struct peer *p)
{
    peer_connect(p, run_dir);
    CHECK(!peer_send(p, "x", 1, NULL, 0), "send");
}

static void a_huge_packet(struct peer *p)
{
    static char packet[65536];
    struct wire_msg header = {WIRE_MAGIC, WIRE_HELLO, sizeof(struct wire_msg_hello)};

    peer_connect(p, run_dir);
    memcpy(packet, &header, sizeof header);
    CHECK(!peer_send(p, packet, sizeof packet, NULL, 0), "send");
}

static void an_unknown_message(struct peer *p)
{
    struct wire_msg msg;

    peer_connect(p, run_dir);
    CHECK(!peer_say(p, 0x7fff, &msg, sizeof msg, -1), "send");
}

static void a_message_of_the_daemon(struct peer *p)
{
    struct wire_msg_welcome welcome = {0};

    peer_connect(p, run_dir);
    CHECK(!peer_say(p, WIRE_WELCOME, &welcome, sizeof welcome, -1), "send");
}

static void ready_before_hello(struct peer *p)
{
    struct wire_msg msg;

    peer_connect(p, run_dir);
    CHECK(!peer_say(p, WIRE_READY, &msg, sizeof msg, -1), "send");
}

static void a_region_before_hello(struct peer *p)
{
    struct wire_msg_region_add add = {.npages = 1};

    peer_connect(p, run_dir);
    CHECK(!peer_say(p, WIRE_REGION_ADD, &add, sizeof add, p->sock), "send");
}

static void hello_with_descriptors(struct peer *p)
{
    struct wire_msg_hello hello = peer_hello("liar", "");
    int fds[12];

    peer_connect(p, run_dir);
    hello.h = (struct wire_msg){WIRE_MAGIC, WIRE_HELLO, sizeof hello};
    for (int i = 0; i < 12; i++)
        fds[i] = p->sock;
    CHECK(!peer_send(p, &hello, sizeof hello, fds, 12), "send");
}

static void say_hello(struct peer *p, struct wire_msg_hello hello)
{
    peer_connect(p, run_dir);
    CHECK(!peer_say(p, WIRE_HELLO, &hello, sizeof hello, -1), "send");
}

static void a_name_with_a_slash(struct peer *p)
{
    say_hello(p, peer_hello("../../etc", ""));
}

static void an_endless_name(struct peer *p)
{
    struct wire_msg_hello hello = peer_hello("liar", "");

    memset(hello.name, 'n', sizeof hello.name);
    say_hello(p, hello);
}

static void an_endless_domain(struct peer *p)
{
    struct wire_msg_hello hello = peer_hello("liar", "");

    memset(hello.domain, 'd', sizeof hello.domain);
    say_hello(p, hello);
}

static void a_domain_that_is_not_open(struct peer *p)
{
    say_hello(p, peer_hello("liar", "nobodys"));
}

static void the_domain_of_another_vm(struct peer *p)
{
    say_hello(p, peer_hello("liar", "vm:honest"));
}

static void the_name_of_another_vm(struct peer *p)
{
    say_hello(p, peer_hello("honest", "common"));
}

static void versions_of_the_future(struct peer *p)
{
    struct wire_msg_hello hello = peer_hello("liar", "");

    hello.version_min = hello.version_max = WIRE_VERSION_MAX + 1;
    say_hello(p, hello);
}

static void a_second_engine_of_that_name(struct peer *p)
{
    static struct peer first;

    peer_join(&first, run_dir, "liar", "common");
    say_hello(p, peer_hello("liar", "common"));
}

static void hello_twice(struct peer *p)
{
    struct wire_msg_hello hello = peer_hello("liar", "");

    peer_welcome(p, run_dir, "liar", "");
    CHECK(!peer_say(p, WIRE_HELLO, &hello, sizeof hello, -1), "send");
}

/* ---------------------------------------------------------------- page maps */

static void a_map_without_its_descriptor(struct peer *p)
{
    struct wire_msg_region_add add = {.npages = 1};

    peer_welcome(p, run_dir, "liar", "common");
    CHECK(!peer_say(p, WIRE_REGION_ADD, &add, sizeof add, -1), "send");
}

static void a_map_that_names_frames_it_never_got(struct peer *p)
{
    peer_welcome(p, run_dir, "liar", "common");
    p->map_fd =
        peer_map(PEER_PAGES, sizeof(struct wire_map) + PEER_PAGES * sizeof(uint64_t), F_SEAL_SHRINK, &p->map);
    for (uint64_t i = 0; i < PEER_PAGES; i++)
        atomic_store(&p->map->entry[i], WIRE_PAGE_SHARED | (i + 1) << WIRE_PAGE_FRAME_SHIFT);
    struct wire_msg_region_add add = peer_region(p->map);
    struct wire_msg msg;
    CHECK(!peer_say(p, WIRE_REGION_ADD, &add, sizeof add, p->map_fd), "send");
    CHECK(!peer_say(p, WIRE_READY, &msg, sizeof msg, -1), "send");
}

/* A region that is refused does not end the session: `error` comes for it, then all goes on. */
static void expect_region_refused(struct peer *p, struct wire_msg_region_add add, int fd, int error)
{
    struct wire_msg_region refused;
    int fds[16];
    size_t nfds;

    CHECK(!peer_say(p, WIRE_REGION_ADD, &add, sizeof add, fd), "send");
    CHECK(peer_hear(p, &refused, sizeof refused, fds, &nfds) == sizeof refused &&
              refused.h.type == WIRE_REGION_REFUSED,
          "not refused");
    CHECK(refused.error == error && refused.region == add.region, "refused with %d, not %d", refused.error,
          error);
    close(fd);
}

static void regions_that_cannot_be(struct peer *p)
{
    const uint64_t header = sizeof(struct wire_map), bytes = header + 8 * sizeof(uint64_t);
    struct wire_map *map;
    int pair[2];

    peer_welcome(p, run_dir, "liar", "common");
    int fd = peer_map(8, bytes, 0, &map);
    expect_region_refused(p, peer_region(map), fd, EPERM); /* could be cut short under memd's eyes */
    fd = peer_map(8, bytes - 1, F_SEAL_SHRINK, &map);
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd = peer_map(8, bytes, F_SEAL_SHRINK, &map);
    map->magic++;
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd = peer_map(8, bytes, F_SEAL_SHRINK, &map);
    map->version = 99;
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd = peer_map(0, header, F_SEAL_SHRINK, &map);
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd = peer_map(UINT64_MAX / 8, bytes, F_SEAL_SHRINK, &map);
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd =
        peer_map(1ull << 28, header + (8ull << 28), F_SEAL_SHRINK, &map); /* 1 TiB of guest on this machine */
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd = peer_map(8, bytes, F_SEAL_SHRINK, &map);
    map->hva = -4096ull * 4;
    expect_region_refused(p, peer_region(map), fd, EINVAL);
    fd = peer_map(8, bytes, F_SEAL_SHRINK, &map);
    struct wire_msg_region_add add = peer_region(map);
    add.region = WIRE_REGIONS_MAX;
    expect_region_refused(p, add, fd, EINVAL);
    CHECK(!pipe(pair), "pipe");
    expect_region_refused(p, peer_region(map), pair[0], EPERM);
    expect_region_refused(p, peer_region(map), open("/dev/zero", O_RDWR), EPERM);

    fd = peer_map(8, bytes, F_SEAL_SHRINK, &map);
    add = peer_region(map);
    CHECK(!peer_say(p, WIRE_REGION_ADD, &add, sizeof add, fd), "send");
    expect_region_refused(p, add, dup(fd), EEXIST);
    peer_ready(p);
    /* what is said of refused regions is passed over: this is no lie, the answer was on its way */
    struct wire_rec_hashes *rec = peer_record(p, WIRE_REC_HASHES, sizeof *rec + 8);
    rec->count = 1;
    peer_kick(p);
    struct wire_msg_region del = {.region = 63};
    CHECK(!peer_say(p, WIRE_REGION_DEL, &del, sizeof del, -1), "send"); /* but this is */
}

/* ---------------------------------------------------------------- records */

static void join(struct peer *p)
{
    peer_join(p, run_dir, "liar", "common");
}

static void an_unknown_record(struct peer *p)
{
    join(p);
    peer_record(p, 99, 64);
    peer_kick(p);
}

static void a_record_of_the_daemon(struct peer *p)
{
    join(p);
    peer_record(p, WIRE_REC_MERGE, sizeof(struct wire_rec_merge));
    peer_kick(p);
}

static void hashes_beyond_the_region(struct peer *p)
{
    join(p);
    struct wire_rec_hashes *rec = peer_record(p, WIRE_REC_HASHES, sizeof *rec + 16);
    rec->page = PEER_PAGES - 1;
    rec->count = 2;
    peer_kick(p);
}

static void fewer_hashes_than_it_says(struct peer *p)
{
    join(p);
    struct wire_rec_hashes *rec = peer_record(p, WIRE_REC_HASHES, sizeof *rec + 16);
    rec->count = 200;
    peer_kick(p);
}

static void hashes_of_a_region_that_never_was(struct peer *p)
{
    join(p);
    struct wire_rec_hashes *rec = peer_record(p, WIRE_REC_HASHES, sizeof *rec + 8);
    rec->r.region = 7;
    rec->count = 1;
    peer_kick(p);
}

static void a_region_number_out_of_range(struct peer *p)
{
    join(p);
    struct wire_rec_hashes *rec = peer_record(p, WIRE_REC_HASHES, sizeof *rec + 8);
    rec->r.region = UINT32_MAX;
    rec->count = 1;
    peer_kick(p);
}

static void a_result_nobody_asked_for(struct peer *p)
{
    join(p);
    struct wire_rec_result *rec = peer_record(p, WIRE_REC_RESULT, sizeof *rec);
    rec->frame = 1;
    rec->count = 1;
    rec->merged[0] = 1;
    peer_kick(p);
}

static void frames_dropped_it_never_held(struct peer *p)
{
    join(p);
    struct wire_rec_dropped *rec = peer_record(p, WIRE_REC_DROPPED, sizeof *rec);
    rec->frame = 1;
    rec->count = 16;
    peer_kick(p);
}

static void an_export_nobody_asked_for(struct peer *p)
{
    join(p);
    struct wire_rec_export *rec = peer_record(p, WIRE_REC_EXPORTED, sizeof *rec);
    rec->count = 1;
    rec->slot = 3;
    peer_kick(p);
}

static void an_export_of_no_slot(struct peer *p)
{
    join(p);
    struct wire_rec_export *rec = peer_record(p, WIRE_REC_EXPORTED, sizeof *rec);
    rec->count = 1;
    rec->slot = UINT16_MAX;
    peer_kick(p);
}

static void a_fence_nobody_sent(struct peer *p)
{
    join(p);
    struct wire_rec_token *rec = peer_record(p, WIRE_REC_FENCED, sizeof *rec);
    rec->id = 1000;
    peer_kick(p);
}

static void an_unmerge_nobody_asked_for(struct peer *p)
{
    join(p);
    struct wire_rec_token *rec = peer_record(p, WIRE_REC_DONE, sizeof *rec);
    rec->id = 1;
    peer_kick(p);
}

/* An engine that said nothing of balloons when it said HELLO. */
static void a_balloon_it_does_not_know(struct peer *p)
{
    join(p);
    CHECK(!(p->welcome.flags & WIRE_WELCOME_BALLOON), "an old engine is told of balloons");
    struct wire_rec_balloon *rec = peer_record(p, WIRE_REC_BALLOON, sizeof *rec);
    rec->flags = WIRE_BALLOON_ATTACHED;
    rec->ram_bytes = 1 << 30;
    peer_kick(p);
}

static struct wire_rec_balloon *balloon(struct peer *p)
{
    peer_hello_flags = WIRE_HELLO_BALLOON;
    join(p);
    CHECK(p->welcome.flags & WIRE_WELCOME_BALLOON, "it is not told that balloons are known");
    struct wire_rec_balloon *rec = peer_record(p, WIRE_REC_BALLOON, sizeof *rec);
    rec->flags = WIRE_BALLOON_ATTACHED | WIRE_BALLOON_DRIVER;
    rec->ram_bytes = 1 << 30;
    return rec;
}

static void a_balloon_of_no_ram(struct peer *p)
{
    balloon(p)->ram_bytes = 0;
    peer_kick(p);
}

static void a_balloon_of_more_ram_than_there_can_be(struct peer *p)
{
    balloon(p)->ram_bytes = UINT64_MAX - 4095;
    peer_kick(p);
}

static void a_balloon_larger_than_its_ram(struct peer *p)
{
    balloon(p)->actual_bytes = (1 << 30) + 4096;
    peer_kick(p);
}

static void a_target_larger_than_its_ram(struct peer *p)
{
    balloon(p)->target_bytes = UINT64_MAX;
    peer_kick(p);
}

static void a_balloon_cut_short(struct peer *p)
{
    peer_hello_flags = WIRE_HELLO_BALLOON;
    join(p);
    peer_record(p, WIRE_REC_BALLOON, sizeof(struct wire_rec_balloon) - 8);
    peer_kick(p);
}

static void a_record_longer_than_the_ring(struct peer *p)
{
    join(p);
    struct wire_rec *rec = peer_record(p, WIRE_REC_FENCED, 24);
    rec->bytes = UINT16_MAX - 7;
    peer_kick(p);
}

static void a_record_of_no_length(struct peer *p)
{
    join(p);
    struct wire_rec *rec = peer_record(p, WIRE_REC_PAD, 24);
    rec->bytes = 0;
    peer_kick(p);
}

static void a_head_from_elsewhere(struct peer *p)
{
    join(p);
    atomic_store(&p->shm->up.head, 0x12345678u);
    peer_kick(p);
}

static void a_tail_from_elsewhere(struct peer *p)
{
    join(p);
    atomic_store(&p->shm->down.tail, 0x12345678u); /* the ring looks full for ever: only its own loss */
    struct wire_rec *rec = peer_record(p, 99, 8);
    (void)rec;
    peer_kick(p);
}

/* ---------------------------------------------------------------- who must be told off, and how */

const struct liar lies[] = {
#define LIAR(name, error)  \
    {                      \
#name, name, error \
    }
    LIAR(no_protocol, EPROTO),
    LIAR(a_lonely_byte, EPROTO),
    LIAR(a_huge_packet, EPROTO),
    LIAR(an_unknown_message, EPROTO),
    LIAR(a_message_of_the_daemon, EPROTO),
    LIAR(ready_before_hello, EPROTO),
    LIAR(a_region_before_hello, EPROTO),
    LIAR(hello_with_descriptors, EPROTO),
    LIAR(a_name_with_a_slash, EPROTO),
    LIAR(an_endless_name, EPROTO),
    LIAR(an_endless_domain, EPROTO),
    LIAR(a_domain_that_is_not_open, ENOENT),
    LIAR(the_domain_of_another_vm, ENOENT),
    LIAR(the_name_of_another_vm, EEXIST),
    LIAR(versions_of_the_future, EPROTONOSUPPORT),
    LIAR(a_second_engine_of_that_name, EEXIST),
    LIAR(hello_twice, EPROTO),
    LIAR(a_map_without_its_descriptor, EPROTO),
    LIAR(a_map_that_names_frames_it_never_got, EPROTO),
    LIAR(regions_that_cannot_be, EPROTO),
    LIAR(an_unknown_record, EPROTO),
    LIAR(a_record_of_the_daemon, EPROTO),
    LIAR(hashes_beyond_the_region, EPROTO),
    LIAR(fewer_hashes_than_it_says, EPROTO),
    LIAR(hashes_of_a_region_that_never_was, EPROTO),
    LIAR(a_region_number_out_of_range, EPROTO),
    LIAR(a_result_nobody_asked_for, EPROTO),
    LIAR(frames_dropped_it_never_held, EPROTO),
    LIAR(an_export_nobody_asked_for, EPROTO),
    LIAR(an_export_of_no_slot, EPROTO),
    LIAR(a_fence_nobody_sent, EPROTO),
    LIAR(an_unmerge_nobody_asked_for, EPROTO),
    LIAR(a_balloon_it_does_not_know, EPROTO),
    LIAR(a_balloon_of_no_ram, EPROTO),
    LIAR(a_balloon_of_more_ram_than_there_can_be, EPROTO),
    LIAR(a_balloon_larger_than_its_ram, EPROTO),
    LIAR(a_target_larger_than_its_ram, EPROTO),
    LIAR(a_balloon_cut_short, EPROTO),
    LIAR(a_record_longer_than_the_ring, EPROTO),
    LIAR(a_record_of_no_length, EPROTO),
    LIAR(a_head_from_elsewhere, EPROTO),
    LIAR(a_tail_from_elsewhere, EPROTO),
};
const size_t nlies = sizeof lies / sizeof lies[0];
