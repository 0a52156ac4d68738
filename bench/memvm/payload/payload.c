/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memvm's payload: the program every vCPU of the guest runs.
 *
 * Freestanding, no globals, integer registers only. Each vCPU fills the data pages it owns, notes the
 * checksum of each in the table, and then goes round: look at the doorbell, do a slice of every workload that
 * is due, sleep when none is. Workloads are paced by the clock, in pages a second:
 *
 *   churn   rewrites pages chosen at random with unique content and counts the writes in page and table
 *   toggle  changes one word of pages chosen at random, so that four writes bring the old content back: equal
 *           pages keep coming and going, by the smallest write there is
 *   sweep   reads pages one after the other
 *   verify  compares every page with its table entry, round and round
 *
 * and there are requests, numbered by the VMM and answered with the same number:
 *
 *   rewrite rewrites every page once, in slices between the other workloads
 *   job     random dependent reads of the hot pages, a fixed number, nothing else meanwhile but for a cold
 *           page now and then
 *   discard gives pages up to the VMM, by a call or by a free-page report, and expects zeros afterwards
 *
 * and there is a balloon: balloon.c.
 *
 * A page is compared with its entry before it is overwritten too: no workload can hide damage from verify.
 * After a mismatch the entry takes over what was found, so that each is reported once.
 *
 * The file is also compiled into the VMM itself (see machine.h) and then runs on host threads.
 */
#include "bench/memvm/payload/guest.h"

#define SLICE_PAGES        256u /* looked at between two looks at the clock */
#define LOAD_PAGES         256u
#define JOB_SLICE_ACCESSES (1u << 18)
#define COLD_ACCESSES      (1u << 24) /* of jobs for one of a cold page */
#define IDLE_MAX_NS        1000000000ull
#define IDLE_MIN_NS        1000000ull
#define RATE_MAX           (1ull << 32) /* keeps the sums below in 64 bits */
#define SECOND_NS          1000000000ull
#define BACKLOG_NS         (SECOND_NS / 4)

static uint64_t guest_random(struct guest *g, uint64_t bound)
{
    g->random = g->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint64_t)(((unsigned __int128)page_mix(g->random, 0) * bound) >> 64);
}

/* State and answers are published with release: the VMM that reads them may rely on what they say is done. */
static void guest_publish(struct guest *g, _Atomic uint64_t *field, uint64_t value)
{
    atomic_store_explicit(field, value, memory_order_release);
    machine_notify(&g->m);
}

static int guest_stopping(const struct guest *g)
{
    return look(&g->ctl->stop) != 0;
}

/* ---------------------------------------------------------------- checks */

static void __attribute__((noinline))
guest_mismatch(struct guest *g, uint64_t page, uint64_t sum, enum abi_where where)
{
    struct abi_entry *entry = &g->table[page];

    g->me->arg[2] = sum;
    g->me->arg[3] = entry->writes;
    g->me->arg[4] = guest_page(g, page)[1];
    g->me->arg[5] = where;
    guest_call(g, ABI_CALL_MISMATCH, page, entry->sum);
    entry->sum = sum;
    entry->stamped = 0;
}

void guest_check(struct guest *g, uint64_t page, enum abi_where where)
{
    uint64_t sum;

    if (!page_matches(guest_page(g, page), g->seed, page, &g->table[page], &sum))
        guest_mismatch(g, page, sum, where);
    count(&g->me->verify_checks, 1);
}

void guest_rewrite(struct guest *g, uint64_t page)
{
    struct abi_entry *entry = &g->table[page];

    guest_check(g, page, ABI_WHERE_WRITE);
    entry->writes++;
    entry->stamped = 1;
    entry->sum = page_fill_unique(guest_page(g, page), g->seed, page, entry->writes);
}

static void guest_toggle_page(struct guest *g, uint64_t page)
{
    struct abi_entry *entry = &g->table[page];
    uint64_t *words = guest_page(g, page), word;

    guest_check(g, page, ABI_WHERE_WRITE);
    word = words[PAGE_TOGGLE_WORD] ^ (entry->writes & PAGE_TOGGLE_MASK);
    entry->writes++;
    entry->stamped = 0;
    word ^= entry->writes & PAGE_TOGGLE_MASK;
    entry->sum = page_sum_with(words, PAGE_TOGGLE_WORD, word);
    /* After the sum: a store that gets lost must not be read back into it. */
    *(volatile uint64_t *)&words[PAGE_TOGGLE_WORD] = word;
}

/* ---------------------------------------------------------------- first content */

static void guest_fill_page(struct guest *g, uint64_t page, int loaded)
{
    struct abi_entry *entry = &g->table[page];
    uint64_t *words = guest_page(g, page);

    entry->writes = 0;
    entry->stamped = entry->ballooned = 0;
    if (page_mix(g->seed ^ PAGE_MUL, page) % 100 < g->ctl->zero_percent) {
        entry->sum = page_fill_zero(words);
    } else if (loaded) {
        entry->sum = page_sum(words);
    } else if (g->ctl->synthesize && page_mix(g->seed ^ PAGE_GOLDEN, page) % 100 < g->ctl->shared_percent) {
        entry->sum = page_fill_shared(words, page);
    } else if (g->ctl->synthesize) {
        entry->stamped = 1;
        entry->sum = page_fill_unique(words, g->seed, page, 0);
    } else {
        entry->sum = g->zero_sum; /* fresh memory reads as zeros; stays untouched until verify looks */
    }
}

static void guest_fill(struct guest *g)
{
    for (uint64_t page = g->first; page < g->end && !guest_stopping(g);) {
        uint64_t n = g->end - page < LOAD_PAGES ? g->end - page : LOAD_PAGES;
        int64_t bytes = guest_call(g, ABI_CALL_LOAD, g->data_off + page * ABI_PAGE_BYTES, n * ABI_PAGE_BYTES);
        uint64_t loaded = bytes < 0 ? 0 : (uint64_t)bytes / ABI_PAGE_BYTES;

        for (uint64_t i = 0; i < n; i++)
            guest_fill_page(g, page + i, i < loaded);
        page += n;
    }
}

/* ---------------------------------------------------------------- paced workloads */

static void pace_set(struct pace *pace, uint64_t rate, const struct guest *g, uint64_t now_ns)
{
    uint64_t pages = g->ctl->data_pages;

    if (rate > RATE_MAX && rate != ABI_UNLIMITED)
        rate = RATE_MAX;
    if (rate != ABI_UNLIMITED)
        rate = (rate * (g->end - g->first) + pages - 1) / pages;
    if (rate == pace->rate)
        return;
    *pace = (struct pace){.rate = rate, .last_ns = now_ns};
}

/* Pages due now, a slice at most. What a slow guest has not done within BACKLOG_NS is forgiven. */
static uint64_t pace_take(struct pace *pace, uint64_t now_ns)
{
    uint64_t elapsed_ns = now_ns - pace->last_ns, due;

    pace->last_ns = now_ns;
    if (pace->rate == ABI_UNLIMITED)
        return SLICE_PAGES;
    if (elapsed_ns > BACKLOG_NS)
        elapsed_ns = BACKLOG_NS;
    pace->credit += elapsed_ns * pace->rate;
    if (pace->credit > BACKLOG_NS * pace->rate + SECOND_NS)
        pace->credit = BACKLOG_NS * pace->rate + SECOND_NS;
    due = pace->credit / SECOND_NS;
    if (due > SLICE_PAGES)
        due = SLICE_PAGES;
    pace->credit -= due * SECOND_NS;
    return due;
}

/* Nanoseconds until a page is due. */
static uint64_t pace_wait_ns(const struct pace *pace)
{
    if (pace->rate == 0)
        return IDLE_MAX_NS;
    if (pace->rate == ABI_UNLIMITED || pace->credit >= SECOND_NS)
        return 0;
    return (SECOND_NS - pace->credit) / pace->rate + 1;
}

static inline uint64_t guest_next(const struct guest *g, uint64_t *cursor)
{
    uint64_t page = *cursor;

    *cursor = page + 1 < g->end ? page + 1 : g->first;
    return page;
}

static uint64_t guest_churn(struct guest *g, uint64_t now_ns)
{
    uint64_t n = pace_take(&g->churn, now_ns);

    for (uint64_t i = 0; i < n; i++)
        guest_rewrite(g, g->first + guest_random(g, g->end - g->first));
    count(&g->me->churn_writes, n);
    return n;
}

static uint64_t guest_toggle(struct guest *g, uint64_t now_ns)
{
    uint64_t n = pace_take(&g->toggle, now_ns);

    for (uint64_t i = 0; i < n; i++)
        guest_toggle_page(g, g->first + guest_random(g, g->end - g->first));
    count(&g->me->toggle_writes, n);
    return n;
}

static uint64_t guest_sweep(struct guest *g, uint64_t now_ns)
{
    uint64_t n = pace_take(&g->sweep, now_ns);

    for (uint64_t i = 0; i < n; i++) {
        const volatile uint64_t *words = guest_page(g, guest_next(g, &g->sweep_at));
        for (unsigned w = 0; w < PAGE_WORDS; w += 8)
            (void)words[w];
    }
    count(&g->me->sweep_pages, n);
    return n;
}

static uint64_t guest_verify(struct guest *g, uint64_t now_ns)
{
    uint64_t n = pace_take(&g->verify, now_ns);

    for (uint64_t i = 0; i < n; i++) {
        guest_check(g, guest_next(g, &g->verify_at), ABI_WHERE_VERIFY);
        if (g->verify_at == g->first)
            count(&g->me->verify_passes, 1);
    }
    return n;
}

/* ---------------------------------------------------------------- requests */

/* A slice of the pass asked for; returns the pages done. */
static uint64_t guest_serve_rewrite(struct guest *g)
{
    uint64_t gen = request(&g->ctl->rewrite_gen), n = 0;

    if (gen == look(&g->me->rewrite_done))
        return 0;
    if (g->rewrite_at == g->first)
        g->rewrite_gen = gen; /* requests that come during the pass ask for another one */
    for (; g->rewrite_at < g->end && n < SLICE_PAGES; n++)
        guest_rewrite(g, g->rewrite_at++);
    count(&g->me->rewrite_writes, n);
    if (g->rewrite_at >= g->end) {
        g->rewrite_at = g->first;
        guest_publish(g, &g->me->rewrite_done, g->rewrite_gen);
    }
    return n;
}

static void guest_read_cold(struct guest *g, uint64_t accesses)
{
    uint64_t pages = g->end - g->first, page;

    g->job_accesses += accesses;
    if (g->job_accesses < COLD_ACCESSES)
        return;
    g->job_accesses = 0;
    do
        page = guest_random(g, pages);
    while (page_is_hot(page, pages, g->ctl->hot_percent));
    (void)*(volatile uint64_t *)guest_page(g, g->first + page);
}

/*
 * Each address depends on the word read before, as in a pointer chase, so that the time is that of the reads;
 * the dependence is hidden in a mask the compiler does not know to be zero. Reads only: the job must not undo
 * what it measures.
 */
static void guest_serve_job(struct guest *g)
{
    uint64_t gen = request(&g->ctl->job_gen), pages = page_hot_count(g->end - g->first, g->ctl->hot_percent);
    uint32_t hot = g->ctl->hot_percent;
    int some = hot < 100 && pages > 0;
    uint64_t left = look(&g->ctl->job_accesses) / g->ctl->nvcpus;
    uint64_t x = page_mix(g->first, 1), mask = 0, sum = 0;

    if (gen == look(&g->me->job_done))
        return;
    if (!some)
        pages = g->end - g->first;
    __asm__ volatile("" : "+r"(mask));
    while (left > 0 && !guest_stopping(g)) {
        uint64_t n = left < JOB_SLICE_ACCESSES ? left : JOB_SLICE_ACCESSES;
        left -= n;
        if (some)
            guest_read_cold(g, n);
        while (n-- > 0) {
            x = x * 6364136223846793005ull + 1442695040888963407ull;
            uint64_t i = (uint64_t)(((unsigned __int128)x * pages) >> 64);
            uint64_t word = guest_page(g, g->first + (some ? page_hot(i, hot) : i))[(x >> 8) % PAGE_WORDS];
            x += word & mask;
            sum += word;
        }
    }
    atomic_store_explicit(&g->me->job_sum, sum, memory_order_relaxed);
    guest_publish(g, &g->me->job_done, gen);
}

static void guest_serve_discard(struct guest *g)
{
    uint64_t gen = request(&g->ctl->discard_gen);
    uint64_t from = look(&g->ctl->discard_first), to = from + look(&g->ctl->discard_pages);
    uint64_t report = look(&g->ctl->discard_report);
    int64_t result = 0;

    if (gen == look(&g->me->discard_done))
        return;
    if (from < g->first)
        from = g->first;
    if (to > g->end)
        to = g->end;
    for (uint64_t page = from; page < to; page++)
        guest_check(g, page, ABI_WHERE_DISCARD);
    if (from < to && report)
        result = guest_report(g, from, to);
    else if (from < to)
        result = guest_call(g, ABI_CALL_DISCARD, from, to - from);
    for (uint64_t page = from; page < to && result == 0; page++) {
        if (report) {
            guest_check_fresh(g, page);
            continue;
        }
        g->table[page].sum = g->zero_sum;
        g->table[page].stamped = 0;
        guest_check(g, page, ABI_WHERE_DISCARD);
    }
    atomic_store_explicit(&g->me->discard_result, result, memory_order_relaxed);
    guest_publish(g, &g->me->discard_done, gen);
}

/* ---------------------------------------------------------------- the round */

static void guest_idle(struct guest *g, uint64_t ns)
{
    if (ns < IDLE_MIN_NS)
        ns = IDLE_MIN_NS; /* one exit then does the work of several */
    guest_call(g, ABI_CALL_IDLE, ns, g->doorbell);
}

/* Until the first of the paced workloads is due. */
static uint64_t guest_wait_ns(const struct guest *g)
{
    const struct pace *paces[] = {&g->churn, &g->toggle, &g->sweep, &g->verify};
    uint64_t least_ns = IDLE_MAX_NS;

    for (size_t i = 0; i < sizeof paces / sizeof *paces; i++) {
        uint64_t ns = pace_wait_ns(paces[i]);
        least_ns = ns < least_ns ? ns : least_ns;
    }
    return least_ns;
}

static void guest_hold(struct guest *g)
{
    guest_publish(g, &g->me->state, ABI_STATE_HELD);
    while (look(&g->ctl->hold) && !guest_stopping(g)) {
        guest_idle(g, IDLE_MAX_NS);
        g->doorbell = atomic_load_explicit(&g->ctl->doorbell, memory_order_acquire);
    }
    guest_publish(g, &g->me->state, ABI_STATE_RUNNING);
}

static void guest_work(struct guest *g)
{
    while (!guest_stopping(g)) {
        uint64_t now_ns, done = 0;

        g->doorbell = atomic_load_explicit(&g->ctl->doorbell, memory_order_acquire);
        if (look(&g->ctl->hold))
            guest_hold(g);
        guest_serve_discard(g);
        guest_serve_job(g);
        now_ns = machine_clock_ns(&g->m);
        pace_set(&g->churn, look(&g->ctl->churn_rate), g, now_ns);
        pace_set(&g->toggle, look(&g->ctl->toggle_rate), g, now_ns);
        pace_set(&g->sweep, look(&g->ctl->sweep_rate), g, now_ns);
        pace_set(&g->verify, look(&g->ctl->verify_rate), g, now_ns);
        done += g->churn.rate ? guest_churn(g, now_ns) : 0;
        done += g->toggle.rate ? guest_toggle(g, now_ns) : 0;
        done += g->sweep.rate ? guest_sweep(g, now_ns) : 0;
        done += g->verify.rate ? guest_verify(g, now_ns) : 0;
        done += guest_serve_rewrite(g);
        done += g->ctl->balloon ? guest_balloon(g) : 0;
        if (done > 0)
            continue;
        guest_idle(g, guest_wait_ns(g));
    }
}

void payload_main(struct machine m, unsigned index)
{
    struct abi_ctl *ctl = machine_ram(&m, ABI_CTL_OFF);
    uint64_t zero_lane[4] = PAGE_LANES;
    struct guest g = {
        .m = m,
        .index = index,
        .ctl = ctl,
        .me = m.me,
        .table = machine_ram(&m, ABI_TABLE_OFF),
        .seed = ctl->seed,
        .data_off = ctl->data_first * ABI_PAGE_BYTES,
        .first = abi_share(ctl->data_pages, index, ctl->nvcpus),
        .end = abi_share(ctl->data_pages, index + 1, ctl->nvcpus),
        .random = page_mix(ctl->seed, index),
        .balloon_irqs = UINT64_MAX, /* the target may have been set before */
    };

    for (size_t i = 0; i < PAGE_WORDS; i++)
        zero_lane[i % 4] = page_step(zero_lane[i % 4], 0);
    g.zero_sum = page_fold(zero_lane);
    g.sweep_at = g.verify_at = g.rewrite_at = g.first;
    g.all_end = g.end;

    guest_publish(&g, &g.me->state, ABI_STATE_FILLING);
    guest_fill(&g);
    guest_balloon_start(&g);
    if (!guest_stopping(&g)) {
        guest_publish(&g, &g.me->state, ABI_STATE_RUNNING);
        guest_work(&g);
    }
    guest_publish(&g, &g.me->state, ABI_STATE_DONE);
    guest_call(&g, ABI_CALL_EXIT, 0, 0);
}

#ifndef MEMVM_PAYLOAD_HOST

/* Compilers turn loops and initialisers into calls of these two, freestanding or not. */
void *memset(void *dst, int byte, size_t n);
void *memcpy(void *dst, const void *src, size_t n);

void *memset(void *dst, int byte, size_t n)
{
    void *at = dst;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(byte) : "memory");
    return dst;
}

void *memcpy(void *dst, const void *src, size_t n)
{
    void *at = dst;

    __asm__ volatile("rep movsb" : "+D"(at), "+S"(src), "+c"(n) : : "memory");
    return dst;
}

/* Entered by the VMM with the vCPU's number in rdi and its stack in rsp; there is nobody to return to. */
__attribute__((section(".text.start"), noreturn)) void payload_start(uint64_t index);

void payload_start(uint64_t index)
{
    struct machine m = {.me = (struct abi_vcpu *)(ABI_VCPU_OFF + index * ABI_PAGE_BYTES)};

    payload_main(m, (unsigned)index);
    for (;;)
        machine_call(&m, ABI_CALL_EXIT);
}

#endif
