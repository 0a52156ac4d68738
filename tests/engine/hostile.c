/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A daemon that talks nonsense: proposals out of every bound, malformed records, broken rings, wrong
 * messages, unusable shared memory. The engine refuses, or ends the session and comes back; the guest's bytes
 * are untouched, no descriptor is left behind, and afterwards everything works.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES 1024u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct rig hostile_open(void)
{
    static struct wire_rec_budget budget;
    struct script_options options = {.budget = &budget};

    budget = script_budget_full();
    return rig_open(&options, NPAGES, unique);
}

static uint64_t sessions_of(struct script_vm *vm)
{
    pthread_mutex_lock(&vm->script->lock);
    uint64_t n = vm->sessions_seen;
    pthread_mutex_unlock(&vm->script->lock);
    return n;
}

/* ---- proposals out of bounds: each is answered, none is carried out */

struct nonsense {
    uint32_t region, page, frame, count;
};

#define STORE_FRAMES (64u * SCRIPT_BLOCK_FRAMES)
#define GOOD         SCRIPT_BLOCK_FRAMES /* a frame that exists */

static const struct nonsense nonsense[] = {
    {1, 0, GOOD, 1},
    {63, 0, GOOD, 1},
    {64, 0, GOOD, 1},
    {UINT32_MAX, 0, GOOD, 1},
    {0, NPAGES, GOOD, 1},
    {0, UINT32_MAX, GOOD, 1},
    {0, UINT32_MAX - 3, GOOD, 8},
    {0, NPAGES - 1, GOOD, 2},
    {0, 0, GOOD, 0},
    {0, 0, GOOD, 513},
    {0, 0, GOOD, 65535},
    {0, 511, GOOD, 2}, /* over the end of a chunk */
    {0, 0, 0, 1},      /* no frame */
    {0, 0, STORE_FRAMES, 1},
    {0, 0, STORE_FRAMES - 1, 2},
    {0, 0, WIRE_FRAME_INDEX_MASK, 1},
    {0, 0, WIRE_FRAME_INDEX_MASK - 3, 8},
    {0, 0, (1u << WIRE_FRAME_NODE_SHIFT) + GOOD, 1}, /* a store that is not there */
    {0, 0, (7u << WIRE_FRAME_NODE_SHIFT) + GOOD, 1},
    {0, 0, UINT32_MAX, 1},
    {0, 0, UINT32_MAX, 512},
    {0, 0, GOOD, 512}, /* in bounds, and never equal: the frames are empty */
};

static void proposals(void **state)
{
    struct rig rig = hostile_open();
    uint32_t n = sizeof nonsense / sizeof *nonsense;

    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        struct wire_rec_merge rec = {.page = nonsense[i].page,
                                     .frame = nonsense[i].frame,
                                     .count = (uint16_t)nonsense[i].count,
                                     .id = SCRIPT_ID_NONSENSE + i};
        CHECK(script_send(rig.vm, WIRE_REC_MERGE, nonsense[i].region, &rec, sizeof rec), "the session ended");
    }
    CHECK(script_fence(rig.vm), "the session ended");
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->nonsense, n);
    EQUALS(rig.vm->sessions_seen, 1);
    pthread_mutex_unlock(&rig.script->lock);
    rig_check(&rig, unique);
    EQUALS(kit_stats(rig.memd).merged_pages, 0);
    rig_close(&rig);
}

static bool exports_answered(struct script_vm *vm, void *arg)
{
    (void)arg;
    return !vm->exports_asked;
}

static void exports_and_breaks(void **state)
{
    static const struct {
        uint32_t region, page;
        uint16_t count, slot;
    } bad[] = {
        {1, 0, 1, 0},          {64, 0, 1, 0},         {UINT32_MAX, 0, 1, 0}, {0, NPAGES, 1, 0},
        {0, UINT32_MAX, 1, 0}, {0, NPAGES - 1, 2, 0}, {0, 0, 33, 0},         {0, 0, 65535, 0},
        {0, 0, 1, 32},         {0, 0, 1, 65535},      {0, 0, 2, 31},         {0, 0, 65535, 1},
    };
    uint32_t n = sizeof bad / sizeof *bad;
    struct rig rig = hostile_open();

    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        script_export(rig.vm, bad[i].region, bad[i].page, bad[i].count, bad[i].slot);
        script_break(rig.vm, bad[i].region, bad[i].page);
    }
    CHECK(script_fence(rig.vm), "the session ended");
    CHECK(script_wait(rig.vm, exports_answered, NULL, SCRIPT_WAIT_MS), "EXPORT has no answer");
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->exported, 0);
    EQUALS(rig.vm->not_exported, n);
    EQUALS(rig.vm->sessions_seen, 1);
    pthread_mutex_unlock(&rig.script->lock);
    rig_check(&rig, unique);
    rig_close(&rig);
}

static void budgets(void **state)
{
    const uint32_t values[] = {0, 1, 1000, UINT32_MAX / 2, UINT32_MAX};
    struct rig rig = hostile_open();
    unsigned seed = 5;

    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        struct wire_rec_budget b = {.flags = (uint32_t)rand_r(&seed),
                                    .scan_pages_per_s = values[rand_r(&seed) % 5],
                                    .quiet_ms = values[rand_r(&seed) % 5],
                                    .round_ms_max = values[rand_r(&seed) % 5],
                                    .vmas_max = values[rand_r(&seed) % 5],
                                    .heal_pages_per_s = values[rand_r(&seed) % 5]};
        CHECK(script_send(rig.vm, WIRE_REC_BUDGET, 0, &b, sizeof b), "the session ended");
        uint32_t frame = script_frame(rig.script, rig_page(&rig, i));
        script_merge(rig.vm, rig.region, i, frame, 1);
        CHECK(script_fence(rig.vm), "the session ended");
    }
    struct wire_rec_budget off = {.flags = 0}, on = script_budget_full();
    script_budget(rig.vm, &off);
    script_budget(rig.vm, &on);
    CHECK(rig_merge(&rig, 512, 512) == 512, "after nonsense, sense does not work");
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- records and rings that make no sense: the session ends, and begins anew */

/* A record whose header says something else than what lies there. */
static void send_malformed(struct script_vm *vm, uint16_t type, uint16_t said, uint32_t real)
{
    struct wire_rec *rec = orders_reserve(vm, WIRE_REC_MERGE, 0, real);

    CHECK(rec, "no room in the ring");
    memset(rec + 1, 0xff, real - sizeof *rec);
    rec->type = type;
    rec->bytes = said;
    orders_publish(vm);
}

static void unknown_type(struct script_vm *vm)
{
    send_malformed(vm, 99, 24, 24);
}

static void type_of_the_other_side(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_RESULT, 88, 88);
}

static void short_merge(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_MERGE, 16, 16);
}

static void long_merge(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_MERGE, 2048, 2048);
}

static void no_length(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_FENCE, 0, 24);
}

static void odd_length(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_FENCE, 13, 24);
}

static void length_beyond_head(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_FENCE, 4096, 24);
}

static void length_wraps(struct script_vm *vm)
{
    send_malformed(vm, WIRE_REC_PAD, 65528, 24);
}

static void head_far_away(struct script_vm *vm)
{
    vm->down.pos += 2 * WIRE_RING_BYTES;
    orders_publish(vm);
}

static void head_goes_back(struct script_vm *vm)
{
    vm->down.pos -= 8;
    orders_publish(vm);
}

static void head_unaligned(struct script_vm *vm)
{
    vm->down.pos += 4;
    orders_publish(vm);
}

/* Garbage messages on the socket. */
static void bad_magic(struct script_vm *vm)
{
    uint8_t msg[64];

    memset(msg, 0x5a, sizeof msg);
    CHECK(send(vm->sock, msg, sizeof msg, MSG_NOSIGNAL) == sizeof msg, "send");
}

static void tiny_message(struct script_vm *vm)
{
    CHECK(send(vm->sock, "x", 1, MSG_NOSIGNAL) == 1, "send");
}

static void huge_message(struct script_vm *vm)
{
    static char msg[8192];

    CHECK(send(vm->sock, msg, sizeof msg, MSG_NOSIGNAL) == sizeof msg, "send");
}

static void lying_length(struct script_vm *vm)
{
    struct wire_msg msg = {WIRE_MAGIC, WIRE_ADOPTED, 200};

    CHECK(send(vm->sock, &msg, sizeof msg, MSG_NOSIGNAL) == sizeof msg, "send");
}

static void adopted_again(struct script_vm *vm)
{
    struct wire_msg msg;

    OK(script_send_fds(vm->sock, &msg, WIRE_ADOPTED, sizeof msg, NULL, 0));
}

static void welcome_again(struct script_vm *vm)
{
    struct wire_msg_welcome w = {.version = 1, .map_version = 1, .nstores = 1, .store_bytes = PAGE};
    const int fds[] = {vm->shm_fd, vm->kick_up, vm->kick_down, vm->script->store_fd};

    OK(script_send_fds(vm->sock, &w, WIRE_WELCOME, sizeof w, fds, 4));
}

static void unwanted_fds(struct script_vm *vm)
{
    const int fds[] = {vm->shm_fd, vm->kick_up, vm->kick_down, vm->script->store_fd};
    struct wire_msg msg;

    OK(script_send_fds(vm->sock, &msg, WIRE_HELLO, sizeof msg, fds, 4));
}

static void wait_back(struct rig *rig, uint64_t before, const char *what)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;

    while (sessions_of(rig->vm) == before) {
        CHECK(kit_ms() < limit, "%s: the session goes on", what);
        usleep(1000);
    }
    script_wait_back(rig->vm, before);
}

static void attacks(void **state)
{
    static const struct {
        const char *name;
        void (*attack)(struct script_vm *vm);
    } table[] = {
        {"a record of unknown type", unknown_type},
        {"a record of the other side", type_of_the_other_side},
        {"a MERGE too short", short_merge},
        {"a MERGE too long", long_merge},
        {"a record of length 0", no_length},
        {"a record of odd length", odd_length},
        {"a record longer than what is there", length_beyond_head},
        {"padding over the end", length_wraps},
        {"a head too far", head_far_away},
        {"a head that goes back", head_goes_back},
        {"a head between records", head_unaligned},
        {"a message without magic", bad_magic},
        {"a message of one byte", tiny_message},
        {"a message too long", huge_message},
        {"a message with the wrong length", lying_length},
        {"ADOPTED twice", adopted_again},
        {"WELCOME twice", welcome_again},
        {"descriptors with a message that has none", unwanted_fds},
    };
    struct rig rig = hostile_open();
    unsigned fds = 0, vmas = 0;

    (void)state;
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        uint64_t before = sessions_of(rig.vm);
        EQUALS(rig_merge(&rig, 0, 512), 512);
        pthread_mutex_lock(&rig.script->lock);
        table[i].attack(rig.vm);
        pthread_mutex_unlock(&rig.script->lock);
        wait_back(&rig, before, table[i].name);
        rig_check(&rig, unique);
        EQUALS(script_count_state(rig.vm, rig.region, WIRE_PAGE_SHARED), 512);
        EQUALS(script_unmerge(rig.vm), 0);
        script_merging(rig.vm, false);
        script_merging(rig.vm, true);
        if (i == 1) {
            fds = kit_count_fds();
            vmas = kit_count_vmas();
        }
        if (i > 1)
            kit_wait_count(table[i].name, kit_count_fds, fds);
        CHECK(i < 2 || kit_count_vmas() <= vmas + 8, "%s: %u mappings, %u before", table[i].name,
              kit_count_vmas(), vmas);
    }
    rig_close(&rig);
}

/* The consumer of the engine's ring moves tail as it likes: at worst the ring looks full. */
static void hostile_tail(void **state)
{
    struct rig rig = hostile_open();
    unsigned seed = 3;

    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        for (uint32_t p = 0; p < NPAGES; p += 7)
            guest_fill(rig_page(&rig, p), unique(p) + (i % 2) * 5000);
        pthread_mutex_lock(&rig.script->lock);
        if (rig.vm->state == VM_LIVE)
            atomic_store(&rig.vm->shm->up.tail, (uint32_t)rand_r(&seed));
        pthread_mutex_unlock(&rig.script->lock);
        usleep(20000);
    }
    for (uint32_t p = 0; p < NPAGES; p++)
        CHECK(guest_differs(rig_page(&rig, p), unique(p) + (p % 7 ? 0 : 5000)) < 0, "page %u differs", p);
    uint64_t before = sessions_of(rig.vm);
    script_vanish(rig.script);
    pthread_mutex_lock(&rig.script->lock);
    rig.script->violations = 0; /* records were lost through no fault of the engine */
    pthread_mutex_unlock(&rig.script->lock);
    script_appear(rig.script);
    script_wait_back(rig.vm, before);
    CHECK(rig_merge(&rig, 512, 512) == 512, "after nonsense, sense does not work");
    rig_close(&rig);
}

/* ---- WELCOMEs that cannot be used */

enum flaw {
    FLAW_NONE,
    NO_STORES,
    MANY_STORES,
    NO_STORE_BYTES,
    ODD_STORE_BYTES,
    STORE_TOO_SHORT,
    FEW_FDS,
    SHM_TOO_SHORT,
    SHM_UNSEALED,
    SHM_EMPTY,
    SHM_IS_A_SOCKET,
    WRONG_VERSION,
    FLAWS
};

static int flawed_shm(enum flaw flaw)
{
    struct wire_shm *shm;
    size_t bytes = flaw == SHM_TOO_SHORT ? 4096 : sizeof *shm;
    int fd = memfd_create("shm", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && !ftruncate(fd, (off_t)bytes), "memfd: %s", strerror(errno));
    if (flaw != SHM_EMPTY && flaw != SHM_TOO_SHORT) {
        shm = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(shm != MAP_FAILED, "mmap: %s", strerror(errno));
        shm->magic = WIRE_MAGIC;
        shm->version = WIRE_VERSION_MAX;
        shm->ring_bytes = WIRE_RING_BYTES;
        shm->export_slots = WIRE_EXPORT_SLOTS;
        munmap(shm, bytes);
    }
    if (flaw != SHM_UNSEALED)
        CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), "seal");
    return fd;
}

static void send_welcome(int peer, enum flaw flaw)
{
    int store = memfd_create("memd-store", MFD_CLOEXEC);
    struct wire_msg_welcome w = {.version = flaw == WRONG_VERSION ? WIRE_VERSION_MAX + 1 : WIRE_VERSION_MAX,
                                 .map_version = WIRE_MAP_VERSION_MAX,
                                 .nstores = flaw == NO_STORES     ? 0
                                            : flaw == MANY_STORES ? 9
                                                                  : 1,
                                 .incarnation = 9,
                                 .store_bytes = flaw == NO_STORE_BYTES    ? 0
                                                : flaw == ODD_STORE_BYTES ? CHUNK + 12
                                                                          : CHUNK};
    int fds[8] = {flawed_shm(flaw), eventfd(0, EFD_NONBLOCK), eventfd(0, EFD_NONBLOCK), store};
    unsigned n = flaw == NO_STORES ? 3 : flaw == MANY_STORES ? 8 : flaw == FEW_FDS ? 2 : 4;

    CHECK(!ftruncate(store, flaw == STORE_TOO_SHORT ? (off_t)PAGE : (off_t)CHUNK), "ftruncate");
    for (unsigned i = 4; i < n; i++)
        fds[i] = store;
    if (flaw == SHM_IS_A_SOCKET) {
        close(fds[0]);
        fds[0] = socket(AF_UNIX, SOCK_STREAM, 0);
    }
    OK(script_send_fds(peer, &w, WIRE_WELCOME, sizeof w, fds, n));
    for (unsigned i = 0; i < 4; i++)
        close(fds[i]);
}

static void welcomes(void **state)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    unsigned fds = 0, vmas = 0;
    char dir[96];

    (void)state;
    snprintf(dir, sizeof dir, "%s/liar.XXXXXX", kit_tmp());
    CHECK(mkdtemp(dir), "%s: %s", dir, strerror(errno));
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s", dir, WIRE_SOCKET_NAME);
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(!bind(sock, (struct sockaddr *)&addr, sizeof addr) && !listen(sock, 4), "bind");
    char *ram = guest_map(CHUNK, false);
    guest_fill(ram, 1);
    struct memd *m = kit_engine("vm", dir);
    kit_region(m, ram, CHUNK);
    for (enum flaw flaw = NO_STORES; flaw <= FLAWS; flaw++) {
        struct timeval patience = {20, 0};
        uint8_t msg[512];
        int peer = accept(sock, NULL, NULL);
        CHECK(peer >= 0 && recv(peer, msg, sizeof msg, 0) == sizeof(struct wire_msg_hello), "no HELLO");
        /* what came with the last WELCOME is gone by the time the engine greets again */
        if (flaw == NO_STORES + 1) {
            fds = kit_count_fds();
            vmas = kit_count_vmas();
        }
        CHECK(flaw <= NO_STORES + 1 || kit_count_fds() == fds, "flaw %d: %u descriptors, %u before", flaw - 1,
              kit_count_fds(), fds);
        CHECK(flaw <= NO_STORES + 1 || kit_count_vmas() <= vmas + 1, "flaw %d: %u mappings, %u before",
              flaw - 1, kit_count_vmas(), vmas);
        if (flaw == FLAWS) {
            close(peer);
            break;
        }
        setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        send_welcome(peer, flaw);
        /* it says nothing more than good-bye */
        CHECK(recv(peer, msg, sizeof msg, 0) == 0, "WELCOME with flaw %d is taken", flaw);
        EQUALS(kit_stats(m).connected, 0);
        close(peer);
    }
    OK(memd_close(m, KIT_CLOSE_MS));
    CHECK(guest_differs(ram, 1) < 0, "page 0 differs");
    close(sock);
    guest_unmap(ram, CHUNK);
    unlink(addr.sun_path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(proposals), cmocka_unit_test(exports_and_breaks), cmocka_unit_test(budgets),
        cmocka_unit_test(attacks),   cmocka_unit_test(hostile_tail),       cmocka_unit_test(welcomes),
    };

    kit_begin();
    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
