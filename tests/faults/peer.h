/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * peer: an engine played by a test, against a real memd: the protocol of memd/wire.h by hand, so that any
 * part of it can be done wrong. One session a process. What fails ends the process with 1.
 */
#ifndef TESTS_FAULTS_PEER_H
#define TESTS_FAULTS_PEER_H

#include "memd/common/ring.h"
#include "memd/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PEER_PAGES   1024u
#define PEER_WAIT_MS 10000

struct peer {
    int sock, kick_up, kick_down;
    struct wire_shm *shm;
    struct ring up, down;
    struct wire_map *map; /* of region 0 */
    int map_fd;
    unsigned merges_passed; /* MERGEs peer_await() passed over */
    struct wire_msg_welcome welcome;
};

/* Flags of the HELLOs to come; 0 at first: those of the oldest engine, whose page maps are used then, too. */
extern uint32_t peer_hello_flags;

void peer_fail(const char *file, int line, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
#define CHECK(condition, ...)                                                      \
    do {                                                                           \
        if (!(condition))                                                          \
            peer_fail(__FILE__, __LINE__, "not so: " #condition ": " __VA_ARGS__); \
    } while (0)

/* ---- the socket */
void peer_connect(struct peer *peer, const char *run_dir);
struct wire_msg_hello peer_hello(const char *name, const char *domain);
/* Send a packet as it is. Returns 0 or -errno. */
int peer_send(struct peer *peer, const void *packet, size_t bytes, const int *fds, size_t nfds);
/* Fill in the header and send. */
int peer_say(struct peer *peer, uint16_t type, void *msg, size_t bytes, int fd);
/* The next message, its descriptors in ret_fds. Returns its bytes, 0 if the session has ended; fails after
 * PEER_WAIT_MS. */
size_t peer_hear(struct peer *peer, void *ret_msg, size_t bytes, int *ret_fds, size_t *ret_nfds);
/* memd ends the session: returns the error it gives, 0 if it only hangs up. */
int peer_end(struct peer *peer, char ret_reason[WIRE_REASON_BYTES]);

/* ---- the way to a live session */
void peer_welcome(struct peer *peer, const char *run_dir, const char *name, const char *domain);
/* A page map; `seals` as of fcntl(2). */
int peer_map(uint64_t npages, uint64_t bytes, int seals, struct wire_map **ret_map);
struct wire_msg_region_add peer_region(const struct wire_map *map);
/* All of it, with one region of PEER_PAGES. */
void peer_join(struct peer *peer, const char *run_dir, const char *name, const char *domain);
/* Say READY and wait for ADOPTED. */
void peer_ready(struct peer *peer);

/* ---- the rings */
/* A record of `bytes`, waiting for room; then peer_kick(). */
void *peer_record(struct peer *peer, uint16_t type, size_t bytes);
void peer_kick(struct peer *peer);
/* The next record of this type; others are passed over. */
void peer_await(struct peer *peer, uint16_t type, void *ret_record, size_t bytes);
/* Note the page's hash in the map, and report it. */
void peer_hash(struct peer *peer, uint32_t page, uint64_t hash);

#endif
