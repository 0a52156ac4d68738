/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The KSM state table: processes with known contents, and the exact numbers of merged, zero and unshared
 * pages, after the scenarios of LTP's ksm01 and the kernel's selftests (mm/ksm_tests, ksm_functional_tests).
 * Each process embeds an engine; all are in one domain. Numbers are taken three times: from the engines'
 * page maps, from the references they report, and from the kernel (page frame numbers, mappings).
 */
#include "kit.h"
#include "script.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define NVMS       3u
#define NPAGES     1536u /* three chunks */
#define HOT_PAGES  96u
#define HOT_ROUNDS 16u
#define ROUNDS     4u /* after the expected numbers are there, they must stay */
#define CLOSE_MS   KIT_CLOSE_MS
#define SETTLE_MS  30000u

/* ---- a VM: a child that does as it is told */

enum op { OP_FILL, OP_POKE, OP_VERIFY, OP_DISCARD, OP_ZERO, OP_CLOSE };

struct order {
    enum op op;
    uint32_t page, npages;
    uint64_t what;
};

struct guest {
    pid_t pid;
    int sock;
    struct script_vm *vm;
    uint64_t what[NPAGES]; /* what each page holds */
    uint32_t poked;        /* page with one byte changed; NPAGES: none */
    uint64_t hva;
};

struct host {
    struct script *script;
    struct guest guest[NVMS];
    bool unmerged; /* then there are no rounds */
};

static int carry_out(struct memd *m, uint32_t region, char *ram, const struct order *o)
{
    char *at = ram + o->page * PAGE;

    switch (o->op) {
    case OP_FILL:
        for (uint32_t i = 0; i < o->npages; i++)
            guest_fill(at + i * PAGE, o->what);
        return 0;
    case OP_ZERO:
        memset(at, 0, o->npages * PAGE);
        return 0;
    case OP_POKE:
        *(volatile char *)(at + o->page) ^= 1; /* so that no two pages become equal by it */
        return 0;
    case OP_VERIFY:
        return guest_differs(at, o->what) < 0 ? 0 : 1;
    case OP_DISCARD:
        return memd_discard(m, region, o->page * PAGE, o->npages * PAGE);
    case OP_CLOSE:
        return memd_close(m, CLOSE_MS);
    }
    return -EINVAL;
}

struct birth {
    char name[16];
    int sock;
};

static int vm_main(void *arg)
{
    const struct birth *b = arg;
    char run_dir[128];
    struct order o;

    /* the parent opens its script when all children are there */
    CHECK(recv(b->sock, run_dir, sizeof run_dir, 0) > 0, "no run directory");
    void *ram = guest_map(NPAGES * PAGE, false);
    struct memd *m = kit_engine(b->name, run_dir);
    uint32_t region = kit_region(m, ram, NPAGES * PAGE);

    while (recv(b->sock, &o, sizeof o, 0) == sizeof o) {
        int result = carry_out(m, region, ram, &o);
        CHECK(send(b->sock, &result, sizeof result, 0) == sizeof result, "send: %s", strerror(errno));
        if (o.op == OP_CLOSE && !result)
            return 0;
    }
    return 0;
}

static int tell(struct guest *g, struct order o)
{
    int result;

    CHECK(send(g->sock, &o, sizeof o, MSG_NOSIGNAL) == sizeof o, "send: %s", strerror(errno));
    CHECK(recv(g->sock, &result, sizeof result, 0) == sizeof result, "VM %d is gone", (int)g->pid);
    return result;
}

static void fill(struct guest *g, uint32_t page, uint32_t npages, uint64_t what)
{
    OK(tell(g, (struct order){.op = OP_FILL, .page = page, .npages = npages, .what = what}));
    for (uint32_t i = page; i < page + npages; i++)
        g->what[i] = what;
}

/* One byte changes; the second time it changes back. */
static void poke(struct guest *g, uint32_t page)
{
    OK(tell(g, (struct order){.op = OP_POKE, .page = page}));
    g->poked = g->poked == page ? NPAGES : page;
}

static bool has_region(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->region[0].used;
}

static void host_open(struct host *h)
{
    static struct wire_rec_budget budget;
    struct birth birth[NVMS];

    budget = script_budget_full();
    struct script_options options = {.budget = &budget, .match = SCRIPT_MATCH_EQUAL};
    memset(h, 0, sizeof *h);
    for (unsigned i = 0; i < NVMS; i++) {
        int pair[2];
        CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "socketpair");
        birth[i] = (struct birth){.sock = pair[1]};
        snprintf(birth[i].name, sizeof birth[i].name, "vm%u", i);
        h->guest[i].poked = NPAGES;
        h->guest[i].sock = pair[0];
        h->guest[i].pid = kit_fork(vm_main, &birth[i]);
        close(pair[1]);
    }
    h->script = script_open(&options);
    for (unsigned i = 0; i < NVMS; i++) {
        const char *dir = h->script->run_dir;
        CHECK(send(h->guest[i].sock, dir, strlen(dir) + 1, 0) > 0, "send: %s", strerror(errno));
        h->guest[i].vm = script_wait_vm(h->script, birth[i].name);
        CHECK(script_wait(h->guest[i].vm, has_region, NULL, SCRIPT_WAIT_MS), "no region");
        h->guest[i].hva = h->guest[i].vm->region[0].hva;
    }
}

static void host_close(struct host *h)
{
    for (unsigned i = 0; i < NVMS; i++) {
        struct guest *g = &h->guest[i];
        OK(tell(g, (struct order){.op = OP_CLOSE}));
        kit_reap(g->pid);
        close(g->sock);
    }
    script_close(h->script);
}

/* ---- what must be */

struct table {
    uint64_t merged, zero, shared, sharing, unshared;
};

static struct table numbers(struct host *h)
{
    struct script_counts n = script_count(h->script);
    struct table t = {.shared = n.shared, .sharing = n.sharing};

    for (unsigned i = 0; i < NVMS; i++) {
        t.merged += script_count_state(h->guest[i].vm, 0, WIRE_PAGE_SHARED);
        t.zero += script_count_state(h->guest[i].vm, 0, WIRE_PAGE_ZERO);
        /* KSM has one number for pages that are alone; here, written in a store mapping is another */
        pthread_mutex_lock(&h->script->lock);
        t.unshared += h->guest[i].vm->shm->stats.unshared_pages + h->guest[i].vm->shm->stats.broken_pages;
        pthread_mutex_unlock(&h->script->lock);
    }
    return t;
}

static bool same_table(const struct table *a, const struct table *b)
{
    return !memcmp(a, b, sizeof *a);
}

static void expect(struct host *h, const char *what, struct table want)
{
    uint64_t limit = kit_ms() + SETTLE_MS;
    struct table is = numbers(h);

    while (!same_table(&is, &want) && kit_ms() < limit) {
        usleep(5000);
        is = numbers(h);
    }
    for (unsigned i = 0; same_table(&is, &want) && !h->unmerged && i < NVMS; i++)
        script_wait_rounds(h->guest[i].vm, ROUNDS);
    is = numbers(h);
    CHECK(same_table(&is, &want),
          "%s: merged %llu, zero %llu, shared %llu, sharing %llu, unshared %llu; not %llu, %llu, %llu, %llu, "
          "%llu",
          what, (unsigned long long)is.merged, (unsigned long long)is.zero, (unsigned long long)is.shared,
          (unsigned long long)is.sharing, (unsigned long long)is.unshared, (unsigned long long)want.merged,
          (unsigned long long)want.zero, (unsigned long long)want.shared, (unsigned long long)want.sharing,
          (unsigned long long)want.unshared);
}

static void verify(struct host *h)
{
    for (unsigned i = 0; i < NVMS; i++)
        for (uint32_t p = 0; p < NPAGES; p++) {
            struct guest *g = &h->guest[i];
            int differs = tell(g, (struct order){.op = OP_VERIFY, .page = p, .what = g->what[p]});
            CHECK(differs == (g->poked == p), "VM %u, page %u: wrong content", i, p);
        }
}

struct pfn_of {
    uint64_t what, pfn;
    bool same; /* merged: must be the same everywhere */
};

static int by_pfn(const void *a, const void *b)
{
    const struct pfn_of *x = a, *y = b;

    return x->pfn < y->pfn ? -1 : x->pfn > y->pfn;
}

/* The kernel's word for it: pages that are merged and equal have one page frame, all others have their own.
 * Every page has just been read, so that merged ones are mapped. */
static void check_pfns(struct host *h, bool merged)
{
    static struct pfn_of all[NVMS * NPAGES];
    uint64_t frame_of[64] = {0};
    unsigned n = 0;

    for (unsigned i = 0; i < NVMS; i++)
        for (uint32_t p = 0; p < NPAGES; p++) {
            struct guest *g = &h->guest[i];
            uint64_t e = kit_pagemap_of(g->pid, g->hva + p * PAGE), pfn = e & PAGEMAP_PFN, what = g->what[p];
            bool shared = merged && what && what < 64 && g->poked != p;
            if (!what) /* dropped; read, it is the kernel's zero page, or private again */
                continue;
            CHECK(e & PAGEMAP_PRESENT && pfn, "VM %u, page %u is not present: %#llx", i, p,
                  (unsigned long long)e);
            if (shared && !frame_of[what])
                frame_of[what] = pfn;
            CHECK(!shared || pfn == frame_of[what], "VM %u, page %u has another page frame", i, p);
            if (!shared || frame_of[what] == pfn)
                all[n++] = (struct pfn_of){what, pfn, shared};
        }
    qsort(all, n, sizeof *all, by_pfn);
    for (unsigned i = 1; i < n; i++)
        CHECK(all[i].pfn != all[i - 1].pfn ||
                  (all[i].same && all[i - 1].same && all[i].what == all[i - 1].what),
              "two pages that are not merged share page frame %#llx", (unsigned long long)all[i].pfn);
}

/* ---- scenarios; numbers below 64 are contents that are found in several places */

/* LTP ksm01, with its contents: a, b, c, d, and one byte changed. */
static void ltp_ksm01(void **state)
{
    const uint64_t n = NPAGES, all = NVMS * NPAGES;
    struct host h;

    (void)state;
    host_open(&h);
    fill(&h.guest[0], 0, NPAGES, 'c' - 'a' + 1);
    fill(&h.guest[1], 0, NPAGES, 1);
    fill(&h.guest[2], 0, NPAGES, 1);
    expect(&h, "c a a", (struct table){all, 0, 2, all - 2, 0});
    verify(&h);
    check_pfns(&h, true);
    fill(&h.guest[1], 0, NPAGES, 2);
    expect(&h, "c b a", (struct table){all, 0, 3, all - 3, 0});
    verify(&h);
    check_pfns(&h, true);
    for (unsigned i = 0; i < NVMS; i++)
        fill(&h.guest[i], 0, NPAGES, 4);
    expect(&h, "d d d", (struct table){all, 0, 1, all - 1, 0});
    verify(&h);
    check_pfns(&h, true);
    poke(&h.guest[1], n / 2);
    expect(&h, "one byte changed", (struct table){all - 1, 0, 1, all - 2, 1});
    verify(&h);
    check_pfns(&h, true);
    for (unsigned i = 0; i < NVMS; i++)
        EQUALS(script_unmerge(h.guest[i].vm), 0);
    h.unmerged = true;
    expect(&h, "unmerged", (struct table){0, 0, 0, 0, 0});
    verify(&h);
    check_pfns(&h, false);
    for (unsigned i = 0; i < NVMS; i++) {
        struct kit_smaps s = kit_smaps_of(h.guest[i].pid, h.guest[i].hva, NPAGES * PAGE);
        EQUALS(s.file_vmas, 0);
        EQUALS(s.anon_bytes, NPAGES * PAGE);
    }
    host_close(&h);
}

/* What is zero holds no memory: it is not there, or all of it is one page, the kernel's. */
static void check_zeros(struct host *h)
{
    uint64_t zero = 0, n = 0;

    for (unsigned i = 0; i < NVMS; i++)
        for (uint32_t p = 0; p < NPAGES; p++) {
            uint64_t e = kit_pagemap_of(h->guest[i].pid, h->guest[i].hva + p * PAGE);
            if (h->guest[i].what[p] || !(e & PAGEMAP_PRESENT))
                continue;
            zero = n++ ? zero : e & PAGEMAP_PFN;
            CHECK((e & PAGEMAP_PFN) == zero, "VM %u, zero page %u is still there", i, p);
        }
    CHECK(n != 1, "a zero page is still there");
}

/* Mixed contents: some pages of each kind in every VM, in different places. */
static void mixed(void **state)
{
    uint64_t merged = 0, zero = 0, all = NVMS * NPAGES;
    struct host h;

    (void)state;
    host_open(&h);
    for (unsigned i = 0; i < NVMS; i++)
        for (uint32_t p = 0; p < NPAGES; p++) {
            uint32_t x = (p + i * 7) % 16; /* 1..8: contents everywhere; 9, 10: unique; others zero */
            uint64_t what = x >= 1 && x <= 8 ? x : x == 9 || x == 10 ? 1000 + i * NPAGES + p : 0;
            merged += x >= 1 && x <= 8;
            zero += !what;
            if (what)
                fill(&h.guest[i], p, 1, what);
            else
                OK(tell(&h.guest[i], (struct order){.op = OP_ZERO, .page = p, .npages = 1}));
        }
    expect(&h, "mixed", (struct table){merged, zero, 8, merged - 8, all - merged - zero});
    check_zeros(&h);
    verify(&h);
    check_pfns(&h, true);
    expect(&h, "mixed, all read", (struct table){merged, zero, 8, merged - 8, all - merged - zero});
    host_close(&h);
}

/* A page that is changed and changed back is merged again; pages written one after the other, too. */
static void break_and_again(void **state)
{
    const uint64_t all = NVMS * NPAGES;
    struct host h;

    (void)state;
    host_open(&h);
    for (unsigned i = 0; i < NVMS; i++)
        fill(&h.guest[i], 0, NPAGES, 5);
    expect(&h, "all equal", (struct table){all, 0, 1, all - 1, 0});
    for (uint32_t p = 100; p < 1000; p += 100) {
        poke(&h.guest[0], p);
        expect(&h, "one byte changed", (struct table){all - 1, 0, 1, all - 2, 1});
        poke(&h.guest[0], p);
        expect(&h, "changed back", (struct table){all, 0, 1, all - 1, 0});
    }
    verify(&h);
    check_pfns(&h, true);
    for (uint32_t p = 0; p < 64; p++)
        fill(&h.guest[2], p * 3, 1, 1000 + p);
    expect(&h, "64 pages rewritten", (struct table){all - 64, 0, 1, all - 65, 64});
    verify(&h);
    check_pfns(&h, true);
    host_close(&h);
}

/* What is written in every round is looked at ever more seldom, and found all the same when it rests. */
static void hot(void **state)
{
    const uint64_t all = NVMS * NPAGES;
    struct host h;

    (void)state;
    host_open(&h);
    for (unsigned i = 0; i < NVMS; i++)
        fill(&h.guest[i], 0, NPAGES, 5);
    for (unsigned k = 0; k < HOT_ROUNDS; k++) {
        for (uint32_t p = 0; p < HOT_PAGES; p++) /* contents of their own */
            fill(&h.guest[0], p, 1, 1000 + k * HOT_PAGES + p);
        script_wait_rounds(h.guest[0].vm, 1);
    }
    expect(&h, "written again and again",
           (struct table){all - HOT_PAGES, 0, 1, all - HOT_PAGES - 1, HOT_PAGES});
    verify(&h);
    fill(&h.guest[0], 0, HOT_PAGES, 5);
    expect(&h, "all equal", (struct table){all, 0, 1, all - 1, 0});
    verify(&h);
    check_pfns(&h, true);
    host_close(&h);
}

/* selftests: discarded pages are zero, and lose their references; zero pages come back when written. */
static void discard_and_zero(void **state)
{
    /* discarded pages that were read since: the kernel's zero page, or zero pages of the VM's own */
    const uint64_t all = NVMS * NPAGES, read = kit_reads_take_pages() ? 1000 : 0;
    struct host h;

    (void)state;
    host_open(&h);
    for (unsigned i = 0; i < NVMS; i++)
        fill(&h.guest[i], 0, NPAGES, 6);
    expect(&h, "all equal", (struct table){all, 0, 1, all - 1, 0});
    OK(tell(&h.guest[0], (struct order){.op = OP_DISCARD, .page = 10, .npages = 1000}));
    for (uint32_t p = 10; p < 1010; p++)
        h.guest[0].what[p] = 0;
    expect(&h, "1000 discarded", (struct table){all - 1000, 0, 1, all - 1001, 0});
    verify(&h);
    OK(tell(&h.guest[1], (struct order){.op = OP_ZERO, .page = 0, .npages = NPAGES}));
    for (uint32_t p = 0; p < NPAGES; p++)
        h.guest[1].what[p] = 0;
    expect(&h, "one VM zeroed",
           (struct table){all - 1000 - NPAGES, NPAGES + read, 1, all - 1001 - NPAGES, 0});
    verify(&h);
    fill(&h.guest[1], 0, NPAGES, 6);
    expect(&h, "and filled again", (struct table){all - 1000, read, 1, all - 1001, 0});
    verify(&h);
    check_pfns(&h, true);
    host_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ltp_ksm01),        cmocka_unit_test(mixed),
        cmocka_unit_test(break_and_again),  cmocka_unit_test(hot),
        cmocka_unit_test(discard_and_zero),
    };

    kit_begin();
    return cmocka_run_group_tests_name("states", tests, NULL, NULL);
}
