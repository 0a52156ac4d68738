/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The public API, function by function: documented errors, threads, pause and resume, close, statistics,
 * several engines in a process, and that opening and closing leaves nothing behind.
 */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#define NPAGES  1024u
#define REGIONS 64u
#define ENGINES 4u

static uint64_t unique(uint32_t page)
{
    return 1 + page;
}

static struct wire_rec_budget full;

static struct rig plain_open(bool scan)
{
    struct script_options options = {.budget = &full};

    full = script_budget_full();
    full.scan_pages_per_s = scan ? UINT32_MAX : 0;
    return rig_open(&options, NPAGES, unique);
}

/* ---- errors */

static void open_errors(void **state)
{
    static char long_name[MEMD_NAME_MAX + 2], long_dir[4096];
    const struct memd_options good = {.size = sizeof good, .name = "vm", .flags = MEMD_OPEN_NO_DAEMON};
    struct memd_options o;
    struct memd *m = NULL;

    (void)state;
    memset(long_name, 'x', MEMD_NAME_MAX + 1);
    memset(long_dir, '/', sizeof long_dir - 1);
    EQUALS(memd_open(NULL, &m), -EINVAL);
    EQUALS(memd_open(&good, NULL), -EINVAL);
#define BAD(field, value)                                                  \
    do {                                                                   \
        o = good;                                                          \
        o.field = (value);                                                 \
        CHECK(memd_open(&o, &m) == -EINVAL, "memd_open takes %s", #field); \
    } while (0)
    BAD(size, sizeof o - 8);
    BAD(size, 0);
    BAD(name, NULL);
    BAD(name, "");
    BAD(name, "a/b");
    BAD(name, "a b");
    BAD(name, "a\n");
    BAD(name, long_name);
    BAD(domain, "");
    BAD(domain, "x/y");
    BAD(domain, long_name);
    BAD(thread_prefix, "ninebytes");
    BAD(worker_nice, -1);
    BAD(worker_nice, 20);
    BAD(flags, 2);
    BAD(flags, UINT32_MAX);
    BAD(run_dir, long_dir);
#undef BAD
    CHECK(!m, "a failed memd_open() has an output");
    o = good;
    long_name[MEMD_NAME_MAX] = 0; /* the longest allowed */
    o.name = long_name;
    o.thread_prefix = "eightbyt";
    o.worker_nice = 19;
    OK(memd_open(&o, &m));
    OK(memd_close(m, 0));
    EQUALS(memd_close(NULL, 0), -EINVAL);
    assert_string_equal(memd_version(), MEMD_VERSION);
}

static void region_errors(void **state)
{
    struct memd *m = kit_engine("vm", NULL);
    char *ram = guest_map(REGIONS * 4 * PAGE + CHUNK, false);
    const struct memd_region_desc good = {.size = sizeof good, .hva = ram, .bytes = 2 * PAGE, .node = -1};
    struct memd_region_desc d;
    uint32_t region = 99;

    (void)state;
    EQUALS(memd_region_add(NULL, &good, &region), -EINVAL);
    EQUALS(memd_region_add(m, NULL, &region), -EINVAL);
    EQUALS(memd_region_add(m, &good, NULL), -EINVAL);
#define BAD(field, value)                                                                      \
    do {                                                                                       \
        d = good;                                                                              \
        d.field = (value);                                                                     \
        CHECK(memd_region_add(m, &d, &region) == -EINVAL, "memd_region_add takes %s", #field); \
    } while (0)
    BAD(size, sizeof d - 8);
    BAD(hva, NULL);
    BAD(hva, ram + 1);
    BAD(hva, ram + 2048);
    BAD(bytes, 0);
    BAD(bytes, 1);
    BAD(bytes, PAGE + 1);
    BAD(bytes, UINT64_MAX - PAGE + 1);
    BAD(bytes, 1ull << 52);
    BAD(flags, 2);
    BAD(flags, UINT32_MAX);
#undef BAD
    EQUALS(region, 99);
    /* a page each, with gaps */
    for (uint32_t i = 0; i < REGIONS; i++) {
        d = good;
        d.hva = ram + i * 4 * PAGE;
        OK(memd_region_add(m, &d, &region));
        EQUALS(region, i);
        EQUALS(memd_region_add(m, &d, &region), -EEXIST);
        d.hva = ram + i * 4 * PAGE + PAGE;
        EQUALS(memd_region_add(m, &d, &region), -EEXIST);
    }
    d = good;
    d.hva = ram + REGIONS * 4 * PAGE;
    EQUALS(memd_region_add(m, &d, &region), -ENOSPC);
    EQUALS(kit_stats(m).guest_bytes, REGIONS * 2 * PAGE);
    OK(memd_region_del(m, 17, 100));
    EQUALS(memd_region_del(m, 17, 100), -ENOENT);
    EQUALS(memd_region_del(m, REGIONS, 100), -ENOENT);
    EQUALS(memd_region_del(m, UINT32_MAX, 100), -ENOENT);
    EQUALS(memd_region_del(NULL, 0, 100), -EINVAL);
    OK(memd_region_add(m, &d, &region));
    EQUALS(region, 17);
    OK(memd_close(m, KIT_CLOSE_MS));
    guest_unmap(ram, REGIONS * 4 * PAGE + CHUNK);
}

static void range_errors(void **state)
{
    struct rig rig = plain_open(false);
    struct memd *m = rig.memd;
    const uint64_t end = NPAGES * PAGE;
    int (*const calls[])(struct memd *, uint32_t, uint64_t, uint64_t) = {memd_discard, memd_pin, memd_unpin};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        EQUALS(calls[i](NULL, 0, 0, PAGE), -EINVAL);
        EQUALS(calls[i](m, 1, 0, PAGE), -ENOENT);
        EQUALS(calls[i](m, UINT32_MAX, 0, PAGE), -ENOENT);
        EQUALS(calls[i](m, 0, 1, PAGE), -EINVAL);
        EQUALS(calls[i](m, 0, 0, PAGE - 1), -EINVAL);
        EQUALS(calls[i](m, 0, end, PAGE), -EINVAL);
        EQUALS(calls[i](m, 0, end - PAGE, 2 * PAGE), -EINVAL);
        EQUALS(calls[i](m, 0, PAGE, UINT64_MAX - PAGE + 1), -EINVAL);
        EQUALS(calls[i](m, 0, UINT64_MAX - PAGE + 1, PAGE), -EINVAL);
    }
    EQUALS(memd_unpin(m, 0, 0, PAGE), -EINVAL); /* not pinned */
    OK(memd_pin(m, 0, 0, PAGE));
    EQUALS(memd_unpin(m, 0, 0, CHUNK + PAGE), -EINVAL); /* the second chunk is not */
    EQUALS(memd_discard(m, 0, 0, end), -EBUSY);
    rig_check(&rig, unique); /* nothing was discarded */
    OK(memd_discard(m, 0, CHUNK, PAGE));
    EQUALS(guest_read(rig_page(&rig, 512)), 0);
    guest_fill(rig_page(&rig, 512), unique(512));
    /* 255 deep */
    for (unsigned i = 1; i < 255; i++)
        OK(memd_pin(m, 0, PAGE, PAGE));
    CHECK(memd_pin(m, 0, 0, PAGE) < 0, "pinned 256 deep");
    CHECK(memd_pin(m, 0, 0, 2 * CHUNK) < 0, "pinned 256 deep");
    EQUALS(memd_unpin(m, 0, CHUNK, PAGE), -EINVAL); /* the failed call has undone what it did */
    for (unsigned i = 0; i < 255; i++)
        OK(memd_unpin(m, 0, 0, PAGE));
    EQUALS(memd_unpin(m, 0, 0, PAGE), -EINVAL);
    OK(memd_discard(m, 0, 0, PAGE));
    EQUALS(guest_read(rig_page(&rig, 0)), 0);
    rig_close(&rig);
}

/* Merged pages, single pages that are the VM's own, the same one twice, and what can't be: each as by itself.
 */
static void many_ranges(void **state)
{
    struct rig rig = plain_open(false);
    struct memd *m = rig.memd;
    struct memd_range ranges[NPAGES / 2];
    unsigned n = 0;

    (void)state;
    EQUALS(rig_merge(&rig, 512, 64), 64);
    EQUALS(memd_discard_ranges(NULL, 0, ranges, 1), -EINVAL);
    EQUALS(memd_discard_ranges(m, 0, NULL, 1), -EINVAL);
    OK(memd_discard_ranges(m, 0, NULL, 0));
    rig_check(&rig, unique);

    OK(memd_pin(m, 0, 0, PAGE)); /* the first chunk */
    ranges[n++] = (struct memd_range){0, PAGE};
    ranges[n++] = (struct memd_range){NPAGES * PAGE, PAGE};
    for (uint32_t page = 512; page < NPAGES && n + 2 < NPAGES / 2; page += 3)
        ranges[n++] = (struct memd_range){page * PAGE, PAGE};
    ranges[n++] = (struct memd_range){512 * PAGE, 8 * PAGE};
    EQUALS(memd_discard_ranges(m, 0, ranges, n), -EBUSY);
    for (uint32_t page = 0; page < NPAGES; page++) {
        bool gone = page >= 512 && (page < 520 || page % 3 == 512 % 3);
        long at = guest_differs(rig_page(&rig, page), gone ? 0 : unique(page));
        CHECK(at < 0, "page %u differs at %ld", page, at);
        if (gone)
            guest_fill(rig_page(&rig, page), unique(page));
    }
    OK(memd_unpin(m, 0, 0, PAGE));
    EQUALS(memd_discard_ranges(m, 0, &ranges[1], 1), -EINVAL);
    EQUALS(memd_discard_ranges(m, 1, ranges, n), -ENOENT);
    rig_check(&rig, unique);
    rig_close(&rig);
}

/* ---- pause */

static bool many_hashes(struct script_vm *vm, void *at_least)
{
    return vm->hashes >= *(uint64_t *)at_least;
}

static void pause_and_resume(void **state)
{
    struct rig rig = plain_open(true);
    uint64_t want = NPAGES;

    (void)state;
    CHECK(script_wait(rig.vm, many_hashes, &want, SCRIPT_WAIT_MS), "not all pages were hashed");
    uint32_t frame = script_frames(rig.script, rig.ram, 512);
    OK(memd_pause(rig.memd));
    OK(memd_pause(rig.memd));
    EQUALS(kit_stats(rig.memd).paused, 1);
    uint64_t scans = kit_stats(rig.memd).full_scans;
    script_merge(rig.vm, rig.region, 0, frame, 512);
    for (uint32_t i = 512; i < 600; i++)
        guest_fill(rig_page(&rig, i), 7000 + i);
    usleep(200000); /* to do wrong in */
    OK(memd_resume(rig.memd));
    EQUALS(kit_stats(rig.memd).paused, 1);
    usleep(100000);
    struct memd_stats st = kit_stats(rig.memd);
    EQUALS(st.merges, 0);
    CHECK(st.full_scans <= scans + 1, "rounds go on in a pause");
    pthread_mutex_lock(&rig.script->lock);
    EQUALS(rig.vm->hashes, want);
    EQUALS(rig.vm->results, 0);
    pthread_mutex_unlock(&rig.script->lock);
    OK(memd_discard(rig.memd, rig.region, 700 * PAGE, PAGE)); /* the API works all the same */
    EQUALS(guest_read(rig_page(&rig, 700)), 0);
    OK(memd_resume(rig.memd));
    EQUALS(kit_stats(rig.memd).paused, 0);
    CHECK(script_fence(rig.vm), "the session is over");
    EQUALS(kit_stats(rig.memd).merges, 512);
    want = NPAGES + 88;
    CHECK(script_wait(rig.vm, many_hashes, &want, SCRIPT_WAIT_MS), "scanning does not go on");
    EQUALS(memd_pause(NULL), -EINVAL);
    EQUALS(memd_resume(NULL), -EINVAL);
    rig_close(&rig);
}

/* ---- threads */

struct engine_thread {
    pid_t tid;
    int nice;
    cpu_set_t cpus;
    char blocked[32];
};

static bool find_thread(const char *name, struct engine_thread *ret_thread)
{
    DIR *d = opendir("/proc/self/task");
    bool found = false;

    for (struct dirent *e; d && !found && (e = readdir(d));) {
        char path[300], line[128] = "";
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
        FILE *f = fopen(path, "re");
        struct engine_thread t = {.tid = (pid_t)atoi(e->d_name)};
        while (f && fgets(line, sizeof line, f)) {
            line[strcspn(line, "\n")] = 0;
            if (!strncmp(line, "Name:\t", 6))
                found = !strcmp(line + 6, name);
            if (!strncmp(line, "SigBlk:\t", 8))
                snprintf(t.blocked, sizeof t.blocked, "%.20s", line + 8);
        }
        if (f)
            fclose(f);
        t.nice = getpriority(PRIO_PROCESS, (id_t)t.tid);
        sched_getaffinity(t.tid, sizeof t.cpus, &t.cpus);
        if (found)
            *ret_thread = t;
    }
    if (d)
        closedir(d);
    return found;
}

static struct engine_thread wait_thread(const char *name)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;
    struct engine_thread t = {0};

    while (!find_thread(name, &t)) {
        CHECK(kit_ms() < limit, "no thread %s", name);
        usleep(1000);
    }
    return t;
}

static void check_nice(const char *thread, int nice)
{
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;

    while (wait_thread(thread).nice != nice) {
        CHECK(kit_ms() < limit, "%s has niceness %d, not %d", thread, wait_thread(thread).nice, nice);
        usleep(1000);
    }
}

static void threads(void **state)
{
    int base = getpriority(PRIO_PROCESS, 0);
    cpu_set_t cpus, mine;
    struct memd_options o = {.size = sizeof o,
                             .name = "vm",
                             .flags = MEMD_OPEN_NO_DAEMON,
                             .thread_prefix = "eightbyt",
                             .cpu_set = &cpus,
                             .cpu_set_bytes = sizeof cpus,
                             .worker_nice = 11};
    struct memd *m, *other;

    (void)state;
    sched_getaffinity(0, sizeof mine, &mine);
    CPU_ZERO(&cpus);
    for (int i = CPU_SETSIZE - 1; i >= 0 && !CPU_COUNT(&cpus); i--)
        if (CPU_ISSET(i, &mine))
            CPU_SET(i, &cpus);
    unsigned before = kit_count_threads();
    OK(memd_open(&o, &m));
    other = kit_engine("other", NULL);
    EQUALS(kit_count_threads(), before + 4);
    const char *const names[] = {"eightbyt-work", "eightbyt-fault", "memd-work", "memd-fault"};
    for (unsigned i = 0; i < 4; i++) {
        struct engine_thread t = wait_thread(names[i]);
        CHECK(CPU_EQUAL(&t.cpus, i < 2 ? &cpus : &mine), "%s runs on the wrong CPUs", names[i]);
        CHECK(!strncmp(t.blocked, "ffff", 4) || !strncmp(t.blocked, "fffffffe7ffbfeff", 16),
              "%s takes signals: %s blocked", names[i], t.blocked);
    }
    check_nice("eightbyt-work", base + 11 > 19 ? 19 : base + 11);
    check_nice("memd-work", base + 5 > 19 ? 19 : base + 5);
    EQUALS(wait_thread("memd-fault").nice, base);
    OK(memd_close(m, KIT_CLOSE_MS));
    OK(memd_close(other, KIT_CLOSE_MS));
    kit_wait_count("threads", kit_count_threads, before);
}

/* ---- without a daemon, callbacks, environment */

static void no_daemon(void **state)
{
    struct memd *m = kit_engine("vm", NULL);
    char *ram = guest_map(CHUNK, false);
    uint64_t limit = kit_ms() + SCRIPT_WAIT_MS;

    (void)state;
    for (uint32_t i = 0; i < 512; i++)
        guest_fill(ram + i * PAGE, i % 2 ? 7 : 0);
    kit_region(m, ram, CHUNK);
    while (kit_stats(m).zero_pages < 256) {
        CHECK(kit_ms() < limit, "%llu zero pages dropped", (unsigned long long)kit_stats(m).zero_pages);
        usleep(2000);
    }
    struct memd_stats st = kit_stats(m);
    EQUALS(st.zero_pages, 256);
    EQUALS(st.merged_pages, 0);
    EQUALS(st.connected, 0);
    EQUALS(kit_smaps(ram, CHUNK).anon_bytes, 256 * PAGE);
    for (uint32_t i = 0; i < 512; i++)
        CHECK(guest_differs(ram + i * PAGE, i % 2 ? 7 : 0) < 0, "page %u differs", i);
    OK(memd_close(m, KIT_CLOSE_MS));
    guest_unmap(ram, CHUNK);
}

struct lines {
    atomic_uint n, errors;
};

static void hear_line(void *ctx, enum memd_log_level level, const char *message)
{
    struct lines *l = ctx;

    CHECK(level >= MEMD_LOG_ERROR && level <= MEMD_LOG_DEBUG && *message && !strchr(message, '\n'),
          "a strange line: %s", message);
    atomic_fetch_add(&l->n, 1);
}

static void log_and_environment(void **state)
{
    struct script_options options = {.budget = NULL};
    struct script *s = script_open(&options);
    struct lines lines = {0};
    struct memd_options o = {.size = sizeof o, .name = "vm", .log = hear_line, .ctx = &lines};
    struct memd *m;

    (void)state;
    setenv("MEMD_RUN_DIR", s->run_dir, 1);
    OK(memd_open(&o, &m));
    script_wait_vm(s, "vm");
    kit_wait_connected(m);
    unsetenv("MEMD_RUN_DIR");
    script_vanish(s);
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; !atomic_load(&lines.n);) {
        CHECK(kit_ms() < limit, "nothing is said about a daemon that went away");
        usleep(1000);
    }
    OK(memd_close(m, KIT_CLOSE_MS));
    script_close(s);
}

/* ---- statistics */

static void statistics(void **state)
{
    struct rig rig = plain_open(true);
    struct memd_stats st = {.size = sizeof st - 8};
    uint64_t want = NPAGES;

    (void)state;
    EQUALS(memd_stats(rig.memd, &st), -EINVAL);
    EQUALS(memd_stats(rig.memd, NULL), -EINVAL);
    EQUALS(memd_stats(NULL, &st), -EINVAL);
    CHECK(script_wait(rig.vm, many_hashes, &want, SCRIPT_WAIT_MS), "not all pages were hashed");
    st = kit_stats(rig.memd);
    EQUALS(st.guest_bytes, NPAGES * PAGE);
    EQUALS(st.unshared_pages, NPAGES);
    EQUALS(st.connected, 1);
    EQUALS(st.vmas_limit, 60000);
    CHECK(st.metadata_bytes > NPAGES * 8 && st.metadata_bytes < NPAGES * 64 + (2u << 20), "metadata: %llu",
          (unsigned long long)st.metadata_bytes);
    EQUALS(rig_merge(&rig, 0, 512), 512);
    guest_write(rig_page(&rig, 5), 1);
    script_wait_rounds(rig.vm, 3);
    st = kit_stats(rig.memd);
    EQUALS(st.merges, 512);
    EQUALS(st.merged_pages, 511);
    EQUALS(st.cow_breaks, 1);
    CHECK(st.broken_pages + st.heals >= 1, "the written page is nowhere");
    CHECK(st.vmas_used >= 1 && st.vmas_used < 8, "%llu mappings for one run",
          (unsigned long long)st.vmas_used);
    CHECK(st.cpu_ns > 0 && st.full_scans >= 3, "no work was done");
    guest_fill(rig_page(&rig, 600), 0);
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; kit_stats(rig.memd).zero_drops != 1; usleep(1000))
        CHECK(kit_ms() < limit, "a zero page is not dropped");
    EQUALS(kit_stats(rig.memd).zero_pages, 1);
    OK(memd_discard(rig.memd, rig.region, 0, 10 * PAGE));
    st = kit_stats(rig.memd);
    EQUALS(st.merged_pages, 502);
    /* whoever hears that an unmerge is done finds it in what the daemon reads, too */
    for (unsigned turn = 0; turn < 20; turn++) {
        script_merging(rig.vm, true);
        script_wait_rounds(rig.vm, 1);
        rig_merge(&rig, 512, 64);
        EQUALS(script_unmerge(rig.vm), 0);
        EQUALS(atomic_load(&rig.vm->shm->stats.merged_pages), 0);
        EQUALS(atomic_load(&rig.vm->shm->stats.heals), kit_stats(rig.memd).heals);
        script_merging(rig.vm, false);
    }
    rig_close(&rig);
}

static unsigned vmas_of(const struct rig *rig)
{
    return kit_smaps(rig->ram, NPAGES * PAGE).vmas;
}

/* The number of mappings the engine says it uses is the number that is there; and what is healed joins its
 * neighbours again, or a long life would use up all a process may have. */
static void vma_count(void **state)
{
    struct rig rig = plain_open(false);
    unsigned before = vmas_of(&rig);

    (void)state;
    for (unsigned turn = 0; turn < 3; turn++) {
        for (uint32_t page = 0; page < 200; page += 10) {
            uint32_t frame = script_frame(rig.script, rig_page(&rig, page));
            EQUALS(rig_propose(&rig, page, frame, 1).merged, 1);
        }
        unsigned more = vmas_of(&rig) - before;
        uint64_t said = kit_stats(rig.memd).vmas_used;
        CHECK(more == 39 && said >= 39 && said <= 41, "turn %u: %u mappings more, it says %llu", turn, more,
              (unsigned long long)said);
        if (turn == 1) /* written ones are brought back another way */
            for (uint32_t page = 0; page < 200; page += 20)
                guest_write(rig_page(&rig, page) + 8, unique(page));
        EQUALS(script_unmerge(rig.vm), 0);
        EQUALS(vmas_of(&rig), before);
        EQUALS(kit_stats(rig.memd).vmas_used, 0);
        script_merging(rig.vm, false);
        script_merging(rig.vm, true);
    }
    rig_close(&rig);
}

/* Discarded and written again, in single pages: one mapping, as before. */
static void vma_count_discard(void **state)
{
    struct rig rig = plain_open(false);
    unsigned before = vmas_of(&rig);

    (void)state;
    EQUALS(rig_merge(&rig, 0, 512), 512);
    for (uint32_t page = 0; page < 512; page += 3) {
        OK(memd_discard(rig.memd, rig.region, page * PAGE, PAGE));
        guest_fill(rig_page(&rig, page), unique(page));
    }
    EQUALS(script_unmerge(rig.vm), 0);
    rig_check(&rig, unique);
    unsigned after = vmas_of(&rig);
    CHECK(after <= before + 1, "%u mappings, %u before", after, before);
    rig_close(&rig);
}

/* ---- several engines, and all over again */

static void several_engines(void **state)
{
    struct script_options options = {.budget = &full, .match = SCRIPT_MATCH_EQUAL};
    struct memd *m[ENGINES];
    char *ram[ENGINES], name[16];
    uint32_t merged = 0;

    (void)state;
    full = script_budget_full();
    struct script *s = script_open(&options);
    for (unsigned i = 0; i < ENGINES; i++) {
        snprintf(name, sizeof name, "vm%u", i);
        ram[i] = guest_map(CHUNK, false);
        for (uint32_t p = 0; p < 512; p++)
            guest_fill(ram[i] + p * PAGE, 1 + p);
        m[i] = kit_engine(name, s->run_dir);
        kit_region(m[i], ram[i], CHUNK);
    }
    for (uint64_t limit = kit_ms() + SCRIPT_WAIT_MS; merged < ENGINES * 512; usleep(5000)) {
        CHECK(kit_ms() < limit, "%u of %u pages merged", merged, ENGINES * 512);
        merged = 0;
        for (unsigned i = 0; i < ENGINES; i++)
            merged += (uint32_t)kit_stats(m[i]).merged_pages;
    }
    for (uint32_t p = 0; p < 512; p++)
        for (unsigned i = 0; i < ENGINES; i++)
            CHECK(guest_differs(ram[i] + p * PAGE, 1 + p) < 0, "engine %u, page %u differs", i, p);
    EQUALS(script_count(s).shared, 512);
    const unsigned order[ENGINES] = {2, 0, 3, 1};
    for (unsigned i = 0; i < ENGINES; i++) {
        OK(memd_close(m[order[i]], KIT_CLOSE_MS));
        EQUALS(kit_smaps(ram[order[i]], CHUNK).file_vmas, 0);
        for (unsigned k = 0; k < ENGINES; k++)
            for (uint32_t p = 0; p < 512; p += 17)
                CHECK(guest_differs(ram[k] + p * PAGE, 1 + p) < 0, "engine %u, page %u differs", k, p);
    }
    for (unsigned i = 0; i < ENGINES; i++)
        guest_unmap(ram[i], CHUNK);
    script_close(s);
}

static bool is_over(struct script_vm *vm, void *arg)
{
    (void)arg;
    return vm->state == VM_OVER;
}

static void nothing_left_behind(void **state)
{
    struct script_options options = {.budget = &full};
    uint64_t turns = kit_scaled(200, 6);
    unsigned fds = 0, threads_before = 0, vmas = 0;

    (void)state;
    full = script_budget_full();
    struct script *s = script_open(&options);
    char *ram = guest_map(2 * CHUNK, false);
    for (uint64_t turn = 0; turn < turns; turn++) {
        for (uint32_t p = 0; p < NPAGES; p++)
            guest_fill(ram + p * PAGE, 1 + p % 300);
        struct memd *m = kit_engine("vm", s->run_dir);
        uint32_t region = kit_region(m, ram, 2 * CHUNK);
        struct script_vm *vm = script_wait_vm(s, "vm");
        script_wait_region(vm, region);
        uint32_t frame = script_frames(s, ram, 300);
        CHECK(frame, "the store is full: references are not given back");
        script_merge(vm, region, 0, frame, 300);
        script_merge(vm, region, 600, frame, 300);
        CHECK(script_fence(vm), "the session is over");
        guest_write(ram + 3 * PAGE, 4);
        if (turn % 2)
            OK(memd_region_del(m, region, KIT_CLOSE_MS));
        OK(memd_close(m, KIT_CLOSE_MS));
        script_retire(s, frame);
        CHECK(script_wait(vm, is_over, NULL, SCRIPT_WAIT_MS), "the session does not end");
        /* at most: what it still held is counted by its maps */
        for (uint64_t limit = kit_ms() + 1000; script_count(s).shared && kit_ms() < limit;)
            usleep(1000);
        script_recycle(s);
        if (turn == 3) {
            fds = kit_count_fds();
            threads_before = kit_count_threads();
            vmas = kit_count_vmas();
        }
    }
    kit_wait_count("descriptors", kit_count_fds, fds);
    kit_wait_count("threads", kit_count_threads, threads_before);
    CHECK(kit_count_vmas() <= vmas + 4, "%u mappings, %u before", kit_count_vmas(), vmas);
    EQUALS(kit_smaps(ram, 2 * CHUNK).vmas, 1); /* joined again, as if nothing had been */
    guest_unmap(ram, 2 * CHUNK);
    script_close(s);
}

/* ---- close that has to wait */

static void close_with_pins(void **state)
{
    struct rig rig = plain_open(false);
    struct io_uring ring;

    (void)state;
    if (io_uring_queue_init(2, &ring, 0)) {
        print_message("skipped: no io_uring\n");
        skip();
    }
    EQUALS(rig_merge(&rig, 0, 512), 512);
    /* pinned for writing: the kernel copies the pages inside the store mapping, and the device has these */
    struct iovec iov = {rig_page(&rig, 100), 4 * PAGE};
    OK(io_uring_register_buffers(&ring, &iov, 1));
    uint64_t pfn = kit_pagemap(iov.iov_base) & PAGEMAP_PFN, start = kit_ms();
    EQUALS(memd_close(rig.memd, 300), -EBUSY);
    uint64_t took = kit_ms() - start;
    CHECK(took >= 250 && (took < 5000 || kit_sanitized()), "EBUSY after %llu ms, not 300",
          (unsigned long long)took);
    EQUALS(kit_pagemap(iov.iov_base) & PAGEMAP_PFN, pfn);
    EQUALS(kit_stats(rig.memd).guest_bytes, NPAGES * PAGE); /* open, and serving */
    EQUALS(memd_region_del(rig.memd, rig.region, 50), -EBUSY);
    OK(memd_discard(rig.memd, rig.region, 700 * PAGE, PAGE));
    EQUALS(guest_read(rig_page(&rig, 700)), 0);
    guest_fill(rig_page(&rig, 700), unique(700));
    rig_check(&rig, unique);
    EQUALS(kit_pagemap(iov.iov_base) & PAGEMAP_PFN, pfn);
    OK(io_uring_unregister_buffers(&ring));
    io_uring_queue_exit(&ring);
    OK(memd_close(rig.memd, 10000));
    rig_check(&rig, unique);
    EQUALS(kit_smaps(rig.ram, NPAGES * PAGE).file_vmas, 0);
    script_close(rig.script);
    guest_unmap(rig.ram, NPAGES * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_errors),         cmocka_unit_test(region_errors),
        cmocka_unit_test(range_errors),        cmocka_unit_test(many_ranges),
        cmocka_unit_test(pause_and_resume),    cmocka_unit_test(threads),
        cmocka_unit_test(no_daemon),           cmocka_unit_test(log_and_environment),
        cmocka_unit_test(statistics),          cmocka_unit_test(vma_count),
        cmocka_unit_test(vma_count_discard),   cmocka_unit_test(several_engines),
        cmocka_unit_test(nothing_left_behind), cmocka_unit_test(close_with_pins),
    };

    kit_begin();
    return cmocka_run_group_tests_name("api", tests, NULL, NULL);
}
