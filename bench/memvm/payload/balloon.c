/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The payload's balloon: one driver (balloon-driver/guest), which all vCPUs share under a lock. Each gives up
 * its part of the target from the end of the pages it owns: `end` moves down and up again, and is all that
 * workloads and requests know of. A page is checked before it goes; one that comes back must hold zeros or
 * what it held, and is rewritten.
 *
 * There are no interrupts. The VMM counts them in the control page and rings the doorbell.
 */
#include "balloon-driver/guest/balloon.h"
#include "bench/memvm/payload/guest.h"

#define RESULT_EIO     5
#define BALLOON_LEAVES 256u /* pages of each vCPU stay out of the balloon */
#define REPORT_BYTES   (64u << 20)
#define TAG_FREE       4u
#define TAG_TOTAL      5u

/* At ABI_BALLOON_OFF behind the driver's own memory; all vCPUs use the one driver. */
struct balloon_shared {
    _Atomic uint64_t lock; /* guards what follows, but `ready` */
    _Atomic uint64_t ready;
    uint64_t pages; /* in the balloon */
    struct balloon_guest driver;
};
_Static_assert(BALLOON_GUEST_BYTES + sizeof(struct balloon_shared) <= ABI_BALLOON_BYTES, "balloon driver");

static uint32_t balloon_reg_read(void *ctx, uint32_t offset)
{
    return machine_virtio_read(ctx, offset);
}

static void balloon_reg_write(void *ctx, uint32_t offset, uint32_t value)
{
    machine_virtio_write(ctx, offset, value);
}

static void balloon_relax(void *ctx)
{
    (void)ctx;
    __asm__ volatile("pause");
}

static const struct balloon_ops balloon_machine = {balloon_reg_read, balloon_reg_write, balloon_relax};

static struct balloon_shared *balloon_take(struct guest *g)
{
    struct balloon_shared *shared = machine_ram(&g->m, ABI_BALLOON_OFF + BALLOON_GUEST_BYTES);

    while (atomic_exchange_explicit(&shared->lock, 1, memory_order_acquire))
        __asm__ volatile("pause");
    shared->driver.ctx = &g->m;
    return shared;
}

static void balloon_give(struct balloon_shared *shared)
{
    atomic_store_explicit(&shared->lock, 0, memory_order_release);
}

static uint64_t guest_gpa(const struct guest *g, uint64_t page)
{
    uint64_t offset = g->data_off + page * ABI_PAGE_BYTES;

    return offset < g->ctl->low_bytes ? offset : g->ctl->high_gpa + (offset - g->ctl->low_bytes);
}

static void guest_send_stats(const struct guest *g, struct balloon_shared *shared)
{
    const struct balloon_stat stats[] = {
        {TAG_TOTAL, (g->ctl->data_pages - shared->pages) * ABI_PAGE_BYTES},
        {TAG_FREE, 0},
    };

    balloon_send_stats(&shared->driver, stats, sizeof stats / sizeof *stats);
}

void guest_balloon_start(struct guest *g)
{
    struct balloon_shared *shared;

    if (!g->ctl->balloon || g->index != 0)
        return;
    shared = balloon_take(g);
    if (balloon_start(&shared->driver, &balloon_machine, &g->m, machine_ram(&g->m, ABI_BALLOON_OFF),
                      ABI_BALLOON_OFF, BALLOON_F_MUST_TELL_HOST | BALLOON_F_STATS | BALLOON_F_REPORTING, 0,
                      0) == BALLOON_OK) {
        guest_send_stats(g, shared);
        atomic_store_explicit(&shared->ready, 1, memory_order_release);
    }
    balloon_give(shared);
}

void guest_check_fresh(struct guest *g, uint64_t page)
{
    struct abi_entry *entry = &g->table[page];

    entry->ballooned = 0;
    if (page_sum(guest_page(g, page)) == g->zero_sum) {
        entry->sum = g->zero_sum;
        entry->stamped = 0;
    }
    guest_check(g, page, ABI_WHERE_DISCARD);
}

/* Send `n` pages, the nearest to the end of the pages in use first. */
static void guest_balloon_move(struct guest *g, uint64_t n, int inflate)
{
    uint32_t pfns[BALLOON_PAGES_MAX];
    struct balloon_shared *shared;
    int error;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t page = inflate ? g->end - 1 - i : g->end + i;
        pfns[i] = (uint32_t)(guest_gpa(g, page) / ABI_PAGE_BYTES);
        if (inflate) {
            guest_check(g, page, ABI_WHERE_DISCARD);
            g->table[page].ballooned = 1;
        }
    }
    if (inflate)
        g->end -= n;
    shared = balloon_take(g);
    if (inflate)
        error = balloon_inflate(&shared->driver, pfns, (uint32_t)n);
    else
        error = balloon_deflate(&shared->driver, pfns, (uint32_t)n);
    if (error == BALLOON_OK) {
        shared->pages += inflate ? n : -n;
        balloon_set_actual(&shared->driver, (uint32_t)shared->pages);
    }
    balloon_give(shared);
    g->balloon_broken = error != BALLOON_OK;
    for (uint64_t i = 0; i < n && !inflate && !error; i++) {
        guest_check_fresh(g, g->end);
        guest_rewrite(g, g->end++);
    }
}

/* Learn this vCPU's share of the target, and answer what the device asks. */
static void guest_balloon_interrupt(struct guest *g)
{
    struct balloon_shared *shared = balloon_take(g);
    uint64_t target = balloon_target(&shared->driver), most = g->all_end - g->first;
    unsigned n = g->ctl->nvcpus;

    if (g->index == 0 && balloon_poll(&shared->driver) & BALLOON_STATS_WANTED)
        guest_send_stats(g, shared);
    balloon_give(shared);
    most = most > BALLOON_LEAVES ? most - BALLOON_LEAVES : 0;
    target = abi_share(target, g->index + 1, n) - abi_share(target, g->index, n);
    g->balloon_target = target < most ? target : most;
}

uint64_t guest_balloon(struct guest *g)
{
    struct balloon_shared *shared = machine_ram(&g->m, ABI_BALLOON_OFF + BALLOON_GUEST_BYTES);
    uint64_t irqs = request(&g->ctl->balloon_irqs), have = g->all_end - g->end, n;

    if (!request(&shared->ready) || g->balloon_broken)
        return 0;
    if (irqs != g->balloon_irqs) {
        g->balloon_irqs = irqs;
        guest_balloon_interrupt(g);
    }
    n = have < g->balloon_target ? g->balloon_target - have : have - g->balloon_target;
    n = n < BALLOON_PAGES_MAX ? n : BALLOON_PAGES_MAX;
    if (n == 0)
        return 0;
    guest_balloon_move(g, n, have < g->balloon_target);
    if (g->sweep_at >= g->end)
        g->sweep_at = g->first;
    if (g->verify_at >= g->end)
        g->verify_at = g->first;
    return n;
}

/* In ranges that are one in guest-physical memory. */
int64_t guest_report(struct guest *g, uint64_t from, uint64_t to)
{
    struct balloon_shared *shared = balloon_take(g);
    int error = request(&shared->ready) ? BALLOON_OK : BALLOON_NO_DEVICE;

    while (from < to && error == BALLOON_OK) {
        uint64_t gpa = guest_gpa(g, from), n = 1;
        while (from + n < to && n < REPORT_BYTES / ABI_PAGE_BYTES &&
               guest_gpa(g, from + n) == gpa + n * ABI_PAGE_BYTES)
            n++;
        error = balloon_report(&shared->driver, gpa, (uint32_t)(n * ABI_PAGE_BYTES));
        from += n;
    }
    balloon_give(shared);
    return error ? -RESULT_EIO : 0;
}
