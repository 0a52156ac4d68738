/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see peer.h. */
#include "tests/faults/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "memd/common/clock.h"

#define FDS_MAX 16

uint32_t peer_hello_flags;

void peer_fail(const char *file, int line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* ---------------------------------------------------------------- the socket */

void peer_connect(struct peer *peer, const char *run_dir)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    *peer = (struct peer){.kick_up = -1, .kick_down = -1, .map_fd = -1};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%.80s/" WIRE_SOCKET_NAME, run_dir);
    peer->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(!connect(peer->sock, (struct sockaddr *)&addr, sizeof addr), "%s: %s", addr.sun_path,
          strerror(errno));
}

int peer_send(struct peer *peer, const void *packet, size_t bytes, const int *fds, size_t nfds)
{
    _Alignas(8) char control[CMSG_SPACE(FDS_MAX * sizeof(int))] = {0};
    struct iovec iov = {(void *)packet, bytes};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nfds) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(nfds * sizeof *fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(nfds * sizeof *fds);
        memcpy(CMSG_DATA(c), fds, nfds * sizeof *fds);
    }
    return sendmsg(peer->sock, &header, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int peer_say(struct peer *peer, uint16_t type, void *msg, size_t bytes, int fd)
{
    struct wire_msg header = {WIRE_MAGIC, type, (uint16_t)bytes};

    memcpy(msg, &header, sizeof header);
    return peer_send(peer, msg, bytes, &fd, fd >= 0);
}

size_t peer_hear(struct peer *peer, void *ret_msg, size_t bytes, int *ret_fds, size_t *ret_nfds)
{
    _Alignas(8) char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
    struct iovec iov = {ret_msg, bytes};
    struct msghdr header = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct pollfd p = {peer->sock, POLLIN, 0};

    CHECK(poll(&p, 1, PEER_WAIT_MS) == 1, "memd says nothing");
    ssize_t n = recvmsg(peer->sock, &header, MSG_CMSG_CLOEXEC);
    *ret_nfds = 0;
    if (n <= 0)
        return 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    if (c) {
        *ret_nfds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(ret_fds, CMSG_DATA(c), *ret_nfds * sizeof(int));
    }
    return (size_t)n;
}

int peer_end(struct peer *peer, char ret_reason[WIRE_REASON_BYTES])
{
    struct wire_msg_refused refused;
    int fds[FDS_MAX], error = 0;
    size_t n, nfds;

    ret_reason[0] = 0;
    while ((n = peer_hear(peer, &refused, sizeof refused, fds, &nfds))) {
        for (size_t i = 0; i < nfds; i++)
            close(fds[i]);
        if (n == sizeof refused && refused.h.type == WIRE_REFUSED) {
            error = refused.error;
            memcpy(ret_reason, refused.reason, sizeof refused.reason);
        }
    }
    return error;
}

/* ---------------------------------------------------------------- the way to a live session */

/* Of the oldest engine, too, or of this one. */
static uint16_t map_version(void)
{
    return peer_hello_flags ? WIRE_MAP_VERSION_MAX : WIRE_MAP_VERSION_MIN;
}

struct wire_msg_hello peer_hello(const char *name, const char *domain)
{
    struct wire_msg_hello hello = {.version_min = WIRE_VERSION_MIN,
                                   .version_max = WIRE_VERSION_MAX,
                                   .map_version_min = WIRE_MAP_VERSION_MIN,
                                   .map_version_max = map_version(),
                                   .flags = peer_hello_flags,
                                   .release = "test"};

    snprintf(hello.name, sizeof hello.name, "%s", name);
    snprintf(hello.domain, sizeof hello.domain, "%s", domain);
    return hello;
}

void peer_welcome(struct peer *peer, const char *run_dir, const char *name, const char *domain)
{
    struct wire_msg_hello hello = peer_hello(name, domain);
    union {
        struct wire_msg_welcome welcome;
        struct wire_msg_refused refused;
    } answer = {0};
    int fds[FDS_MAX];
    size_t nfds;

    peer_connect(peer, run_dir);
    CHECK(!peer_say(peer, WIRE_HELLO, &hello, sizeof hello, -1), "HELLO");
    size_t n = peer_hear(peer, &answer, sizeof answer, fds, &nfds);
    CHECK(n == sizeof answer.welcome && answer.welcome.h.type == WIRE_WELCOME, "refused: %s",
          answer.refused.reason);
    CHECK(nfds == 3u + answer.welcome.nstores, "%zu descriptors came", nfds);
    CHECK(answer.welcome.map_version == map_version(), "page maps of version %u", answer.welcome.map_version);
    peer->welcome = answer.welcome;
    peer->kick_up = fds[1];
    peer->kick_down = fds[2];
    peer->shm = mmap(NULL, sizeof *peer->shm, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    CHECK(peer->shm != MAP_FAILED, "%s", strerror(errno));
    ring_init(&peer->up, &peer->shm->up, peer->shm->up_data);
    ring_init(&peer->down, &peer->shm->down, peer->shm->down_data);
}

int peer_map(uint64_t npages, uint64_t bytes, int seals, struct wire_map **ret_map)
{
    int fd = memfd_create("page-map", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && !ftruncate(fd, (off_t)bytes), "%s", strerror(errno));
    CHECK(!seals || !fcntl(fd, F_ADD_SEALS, seals), "%s", strerror(errno));
    *ret_map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(*ret_map != MAP_FAILED, "%s", strerror(errno));
    (*ret_map)->magic = WIRE_MAP_MAGIC;
    (*ret_map)->version = map_version();
    (*ret_map)->npages = npages;
    (*ret_map)->hva = 1ull << 32;
    return fd;
}

struct wire_msg_region_add peer_region(const struct wire_map *map)
{
    return (struct wire_msg_region_add){.node = -1, .hva = map->hva, .npages = map->npages, .gpa = map->gpa};
}

void peer_ready(struct peer *peer)
{
    union {
        struct wire_msg msg;
        char room[512];
    } answer;
    int fds[FDS_MAX];
    size_t nfds;

    CHECK(!peer_say(peer, WIRE_READY, &answer.msg, sizeof answer.msg, -1), "READY");
    CHECK(peer_hear(peer, &answer, sizeof answer, fds, &nfds) && answer.msg.type == WIRE_ADOPTED,
          "not adopted");
}

void peer_join(struct peer *peer, const char *run_dir, const char *name, const char *domain)
{
    peer_welcome(peer, run_dir, name, domain);
    peer->map_fd = peer_map(PEER_PAGES, sizeof(struct wire_map) + PEER_PAGES * sizeof(uint64_t),
                            F_SEAL_SHRINK, &peer->map);
    struct wire_msg_region_add add = peer_region(peer->map);
    CHECK(!peer_say(peer, WIRE_REGION_ADD, &add, sizeof add, peer->map_fd), "REGION_ADD");
    peer_ready(peer);
}

/* ---------------------------------------------------------------- the rings */

void peer_kick(struct peer *peer)
{
    uint64_t one = 1;

    ring_publish(&peer->up);
    CHECK(write(peer->kick_up, &one, sizeof one) == sizeof one, "%s", strerror(errno));
}

static void nap(void)
{
    const struct timespec ms = {.tv_nsec = 1000000};
    nanosleep(&ms, NULL);
}

void *peer_record(struct peer *peer, uint16_t type, size_t bytes)
{
    uint64_t end_ns = clock_now_ns() + PEER_WAIT_MS * CLOCK_MS;
    void *record;

    while (!(record = ring_reserve(&peer->up, type, (uint32_t)bytes))) {
        CHECK(clock_now_ns() < end_ns, "the ring stays full");
        peer_kick(peer);
        nap();
    }
    memset((char *)record + sizeof(struct wire_rec), 0, bytes - sizeof(struct wire_rec));
    return record;
}

void peer_await(struct peer *peer, uint16_t type, void *ret_record, size_t bytes)
{
    _Alignas(8) char buf[WIRE_REC_BYTES_MAX];
    uint64_t end_ns = clock_now_ns() + PEER_WAIT_MS * CLOCK_MS;

    for (;;) {
        int n = ring_pop(&peer->down, buf, sizeof buf);
        CHECK(n >= 0, "the daemon's ring is malformed");
        if (n && ((struct wire_rec *)buf)->type == type) {
            CHECK((size_t)n == bytes, "a record of type %u has %d bytes", type, n);
            memcpy(ret_record, buf, bytes);
            return;
        }
        peer->merges_passed += n && ((struct wire_rec *)buf)->type == WIRE_REC_MERGE;
        CHECK(clock_now_ns() < end_ns, "no record of type %u came", type);
        if (!n)
            nap();
    }
}

void peer_hash(struct peer *peer, uint32_t page, uint64_t hash)
{
    struct wire_rec_hashes *rec = peer_record(peer, WIRE_REC_HASHES, sizeof *rec + sizeof hash);

    atomic_store(&peer->map->entry[page], (uint64_t)wire_tag_of_hash(hash) << WIRE_PAGE_TAG_SHIFT);
    rec->page = page;
    rec->count = 1;
    rec->node = -1;
    rec->hash[0] = hash;
}
