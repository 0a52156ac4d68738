/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon vanishes, at any point, and comes back as another incarnation. The engine goes on serving, is
 * back within 2 s, and offers page maps that name exactly what the guest maps; nothing is lost meanwhile, and
 * no reference is taken or given back while the new daemon counts (script.c and records.c check that).
 */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NPAGES   1024u
#define BACK_MS  2000u
#define SLOT(i)  (8u * (((i)*37u) % 512u))
#define VANISH_N 200u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static uint64_t sessions_of(struct script_vm *vm)
{
    pthread_mutex_lock(&vm->script->lock);
    uint64_t n = vm->sessions_seen;
    pthread_mutex_unlock(&vm->script->lock);
    return n;
}

/* ---- a guest that counts all the while, in one page of 8 */

struct guest {
    struct rig *rig;
    atomic_bool stop;
    uint64_t count[NPAGES];
};

static void *guest_main(void *arg)
{
    struct guest *g = arg;

    for (uint32_t i = 0; !atomic_load(&g->stop); i = (i + 8) % NPAGES) {
        char *word = rig_page(g->rig, i) + SLOT(i);
        CHECK(guest_read(word) == g->count[i], "page %u: %llu, not %llu", i,
              (unsigned long long)guest_read(word), (unsigned long long)g->count[i]);
        guest_write(word, ++g->count[i]);
        CHECK(guest_differs(rig_page(g->rig, i + 1), unique(i + 1)) < 0, "page %u differs", i + 1);
        if (i % 64 == 0)
            usleep(300);
    }
    return NULL;
}

static void guest_begin(struct guest *g, struct rig *rig, pthread_t *thread)
{
    *g = (struct guest){.rig = rig};
    for (uint32_t i = 0; i < NPAGES; i += 8)
        guest_write(rig_page(rig, i) + SLOT(i), 0);
    CHECK(!pthread_create(thread, NULL, guest_main, g), "pthread_create");
}

static void guest_end(struct guest *g, pthread_t thread)
{
    atomic_store(&g->stop, true);
    pthread_join(thread, NULL);
    for (uint32_t i = 0; i < NPAGES; i++) {
        if (i % 8) {
            CHECK(guest_differs(rig_page(g->rig, i), unique(i)) < 0, "page %u differs", i);
        } else {
            EQUALS(guest_read(rig_page(g->rig, i) + SLOT(i)), g->count[i]);
        }
    }
}

/* What the accounts say at the end must be what the page maps say. */
static void check_accounts(struct rig *rig)
{
    CHECK(script_fence(rig->vm), "the session is over");
    EQUALS(script_unmerge(rig->vm), 0);
    struct script_counts n = script_count(rig->script);
    EQUALS(n.shared, 0);
    EQUALS(n.sharing, 0);
    EQUALS(script_count_state(rig->vm, rig->region, WIRE_PAGE_SHARED), 0);
}

/* Proposals until the daemon vanishes under them. */
static void propose_some(struct rig *rig, unsigned *seed)
{
    for (unsigned i = 0; i < 4; i++) {
        uint32_t page = (uint32_t)rand_r(seed) % 2 * 512;
        uint32_t frame = script_frames(rig->script, rig_page(rig, page), 512);
        if (!frame)
            break;
        for (uint32_t p = 0; p < 512; p += 32)
            script_merge(rig->vm, rig->region, page + p, frame + p, 32);
        script_retire(rig->script, frame);
    }
}

static void vanish_anywhere(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget, .store_blocks = 64};
    struct rig rig = rig_open(&options, NPAGES, unique);
    uint64_t turns = kit_scaled(VANISH_N, 4), merges = 0;
    unsigned seed = 7, slowest = 0, late = 0;
    static struct guest guest;
    pthread_t thread;

    (void)state;
    guest_begin(&guest, &rig, &thread);
    for (uint64_t i = 0; i < turns; i++) {
        uint64_t before = sessions_of(rig.vm);
        propose_some(&rig, &seed);
        if (i % 3)
            usleep((unsigned)rand_r(&seed) % 30000);
        else if (i % 2)
            script_fence(rig.vm);
        script_vanish(rig.script);
        usleep((unsigned)rand_r(&seed) % 20000);
        script_appear(rig.script);
        unsigned took = script_wait_back(rig.vm, before);
        slowest = took > slowest ? took : slowest;
        late += took > BACK_MS;
        CHECK(script_fence(rig.vm), "the session is over");
        if (i % 4 == 3) {
            EQUALS(script_unmerge(rig.vm), 0);
            script_merging(rig.vm, false);
            script_merging(rig.vm, true);
        }
        script_recycle(rig.script);
    }
    merges = kit_stats(rig.memd).merges;
    printf("%llu times gone, %llu merges, back in %u ms at the slowest\n", (unsigned long long)turns,
           (unsigned long long)merges, slowest);
    /* on a busy machine it can be long before the engine gets a CPU */
    CHECK(late <= turns / 2 || kit_sanitized(), "the engine was late %u times, %u ms at the slowest", late,
          slowest);
    CHECK(merges > 0, "nothing was merged");
    check_accounts(&rig);
    guest_end(&guest, thread);
    rig_close(&rig);
}

static bool is_ready(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->state == VM_READY;
}

/* Between READY and ADOPTED the guest writes, discards, pins: no frame field of the map may change. */
static void slow_to_adopt(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);

    (void)state;
    for (unsigned turn = 0; turn < 3; turn++) {
        script_merging(rig.vm, false);
        script_merging(rig.vm, true);
        for (uint32_t i = 0; i < NPAGES; i++)
            guest_fill(rig_page(&rig, i), unique(i));
        uint32_t merged = rig_merge(&rig, 0, 512) + rig_merge(&rig, 512, 512);
        CHECK(merged == NPAGES || turn, "%u of %u pages merged", merged, NPAGES);
        uint64_t before = sessions_of(rig.vm);
        script_vanish(rig.script);
        pthread_mutex_lock(&rig.script->lock);
        rig.script->hold_adopted = true;
        pthread_mutex_unlock(&rig.script->lock);
        script_appear(rig.script);
        for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(rig.memd).connected && kit_ms() < limit;)
            usleep(1000);
        for (uint32_t i = 0; i < NPAGES; i += 3)
            guest_write(rig_page(&rig, i), i);
        OK(memd_discard(rig.memd, rig.region, 600 * PAGE, 100 * PAGE));
        if (turn == 1) {
            OK(memd_pin(rig.memd, rig.region, 0, CHUNK));
            OK(memd_unpin(rig.memd, rig.region, 0, CHUNK));
        }
        CHECK(script_wait(rig.vm, is_ready, NULL, SCRIPT_WAIT_MS), "the engine does not come back");
        usleep(300000); /* rounds would pass */
        pthread_mutex_lock(&rig.script->lock);
        EQUALS(rig.vm->state, VM_READY);
        rig.script->hold_adopted = false;
        pthread_mutex_unlock(&rig.script->lock);
        script_wait_back(rig.vm, before);
        script_wait_rounds(rig.vm, 3);
        for (uint32_t i = 0; i < NPAGES; i++) {
            if (i >= 600 && i < 700)
                EQUALS(guest_read(rig_page(&rig, i)), 0);
            else if (i % 3 == 0)
                EQUALS(guest_read(rig_page(&rig, i)), i);
            else
                CHECK(guest_differs(rig_page(&rig, i), unique(i)) < 0, "page %u differs", i);
        }
        EQUALS(script_unmerge(rig.vm), 0);
        EQUALS(script_count(rig.script).shared, 0);
    }
    rig_close(&rig);
}

/* Regions that come and go while there is no daemon. */
static void regions_without_daemon(void **state)
{
    struct wire_rec_budget budget = script_budget_full();
    struct script_options options = {.budget = &budget};
    struct rig rig = rig_open(&options, NPAGES, unique);
    char *more = guest_map(CHUNK, false);
    uint64_t before = sessions_of(rig.vm);

    (void)state;
    for (uint32_t i = 0; i < 512; i++)
        guest_fill(more + i * PAGE, 5000 + i);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    script_vanish(rig.script);
    uint32_t region = kit_region(rig.memd, more, CHUNK);
    script_appear(rig.script);
    script_wait_back(rig.vm, before);
    uint32_t frame = script_frames(rig.script, more, 512);
    script_merge(rig.vm, region, 0, frame, 512);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(script_count_state(rig.vm, region, WIRE_PAGE_SHARED), 512);
    before = sessions_of(rig.vm);
    script_vanish(rig.script);
    OK(memd_region_del(rig.memd, region, KIT_CLOSE_MS));
    for (uint32_t i = 0; i < 512; i++)
        CHECK(guest_differs(more + i * PAGE, 5000 + i) < 0, "page %u differs", i);
    EQUALS(kit_smaps(more, CHUNK).file_vmas, 0);
    script_appear(rig.script);
    script_wait_back(rig.vm, before);
    EQUALS(script_count(rig.script).shared, 512); /* of the first region */
    guest_unmap(more, CHUNK);
    check_accounts(&rig);
    rig_close(&rig);
}

/* A socket in a directory of its own, with nobody behind it but the test. */
static int listen_in(char dir[96])
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    snprintf(dir, 96, "%s/mute.XXXXXX", kit_tmp());
    CHECK(mkdtemp(dir), "%s: %s", dir, strerror(errno));
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s", dir, WIRE_SOCKET_NAME);
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(!bind(sock, (struct sockaddr *)&addr, sizeof addr) && !listen(sock, 4), "bind");
    return sock;
}

static void listen_end(int sock, const char *dir)
{
    char path[128];

    close(sock);
    snprintf(path, sizeof path, "%s/%s", dir, WIRE_SOCKET_NAME);
    unlink(path);
    rmdir(dir);
}

/* A child that fork handlers do not see, and that holds whatever is open. */
static pid_t clone_helper(void)
{
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    CHECK(pid > 0, "clone: %s", strerror(errno));
    return pid;
}

/* The daemon sees the end of a session whose descriptor somebody else holds. */
static void helper_holds_the_socket(void **state)
{
    char dir[96], buf[512];
    struct timeval limit = {.tv_sec = 20};

    (void)state;
    int sock = listen_in(dir);
    struct memd *m = kit_engine("vm", dir);
    int peer = accept(sock, NULL, NULL);
    CHECK(peer >= 0 && recv(peer, buf, sizeof buf, 0) == sizeof(struct wire_msg_hello), "no HELLO");
    pid_t pid = clone_helper();
    CHECK(send(peer, "nonsense", 8, 0) == 8, "send: %s", strerror(errno));
    CHECK(!setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), "SO_RCVTIMEO");
    ssize_t n = recv(peer, buf, sizeof buf, 0);
    CHECK(n == 0, "the session looks alive: %zd, %s", n, n < 0 ? strerror(errno) : "a message");
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, NULL, 0) == pid, "waitpid");
    close(peer);
    OK(memd_close(m, KIT_CLOSE_MS));
    listen_end(sock, dir);
}

/* The daemon does not answer, or takes its leave in the middle of the handshake. */
static void mute_daemon(void **state)
{
    char dir[96];

    (void)state;
    int sock = listen_in(dir);
    char *ram = guest_map(CHUNK, false);
    guest_fill(ram, 1);
    struct memd *m = kit_engine("vm", dir);
    uint32_t region = kit_region(m, ram, CHUNK);
    for (unsigned i = 0; i < 3; i++) {
        char hello[512];
        int peer = accept(sock, NULL, NULL);
        CHECK(peer >= 0 && recv(peer, hello, sizeof hello, 0) == sizeof(struct wire_msg_hello), "no HELLO");
        EQUALS(kit_stats(m).connected, 0);
        OK(memd_discard(m, region, PAGE, PAGE)); /* nothing waits for the daemon */
        close(peer);
    }
    int peer = accept(sock, NULL, NULL);
    uint64_t start = kit_ms();
    OK(memd_close(m, 30000));
    CHECK(kit_ms() - start < 20000, "close waits for the daemon"); /* which would be for its whole time-out */
    CHECK(guest_differs(ram, 1) < 0, "page 0 differs");
    close(peer);
    listen_end(sock, dir);
    guest_unmap(ram, CHUNK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_to_adopt),   cmocka_unit_test(regions_without_daemon),
        cmocka_unit_test(mute_daemon),     cmocka_unit_test(helper_holds_the_socket),
        cmocka_unit_test(vanish_anywhere),
    };

    kit_begin();
    return cmocka_run_group_tests_name("daemon_gone", tests, NULL, NULL);
}
