/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see why.h. */
#include "memd/daemon/why.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES 4096u
#define FIRST      4u /* entries of a ring at first: most VMs need no more */

/* ---------------------------------------------------------------- the ring */

/* `next` decides as `last` did. */
static bool is_same(const struct why_entry *last, const struct why_entry *next)
{
    const struct budget_why *a = &last->why, *b = &next->why;
    bool goes_on = a->reason == BUDGET_ORDERED && b->reason == BUDGET_AT_IT;

    if (a->by != b->by || a->state != b->state || last->dry_run != next->dry_run)
        return false;
    if (goes_on)
        return true;
    if (a->reason == BUDGET_GIVEN_BACK && last->balloon.rule != next->balloon.rule)
        return false;
    return a->reason == b->reason && last->vm.excluded == next->vm.excluded &&
           last->order.depth == next->order.depth && last->order.all == next->order.all &&
           last->order.swap == next->order.swap;
}

static void fold(struct why_entry *last, const struct why_entry *next)
{
    bool goes_on = last->why.reason != next->why.reason;
    struct why_entry sum = goes_on ? *last : *next;

    sum.first_ns = last->first_ns;
    sum.last_ns = next->last_ns;
    sum.looks = last->looks + next->looks;
    sum.orders = last->orders + next->orders;
    sum.ordered_bytes = last->ordered_bytes + next->ordered_bytes;
    sum.answer = next->answer;
    *last = sum;
}

/* Room for one more, or false. Entries are in their order afterwards, from the first one on. */
static bool make_room(struct why_ring *ring)
{
    unsigned capacity = ring->capacity ? 2 * ring->capacity : FIRST;

    static_assert(!(WHY_KEPT & (WHY_KEPT - 1)) && WHY_KEPT >= FIRST, "doubled, it is met exactly");
    if (ring->n < ring->capacity)
        return true;
    if (ring->capacity == WHY_KEPT)
        return false;
    struct why_entry *grown = realloc(ring->entry, capacity * sizeof *grown); /* it has not wrapped yet */
    if (!grown)
        return false;
    ring->entry = grown;
    ring->capacity = capacity;
    return true;
}

void why_note(struct why_ring *ring, const struct why_entry *entry)
{
    if (ring->n) {
        struct why_entry *last = &ring->entry[(ring->at + ring->n - 1) % ring->capacity];
        if (is_same(last, entry)) {
            fold(last, entry);
            return;
        }
    }
    if (make_room(ring)) {
        ring->entry[(ring->at + ring->n++) % ring->capacity] = *entry;
    } else if (ring->capacity == WHY_KEPT) {
        ring->entry[ring->at] = *entry;
        ring->at = (ring->at + 1) % ring->capacity;
    }
}

const struct why_entry *why_entry_at(const struct why_ring *ring, unsigned back)
{
    return back < ring->n ? &ring->entry[(ring->at + ring->n - 1 - back) % ring->capacity] : NULL;
}

void why_free(struct why_ring *ring)
{
    free(ring->entry);
    *ring = (struct why_ring){0};
}

size_t why_bytes(const struct why_ring *ring)
{
    return ring->capacity * sizeof *ring->entry;
}

struct why_entry why_of(const struct policy_look *look, size_t i, const struct policy_vm *vm, bool dry_run,
                        uint64_t now_ns)
{
    const struct budget_plan *plan = &look->plans[i];

    return (struct why_entry){.first_ns = now_ns,
                              .last_ns = now_ns,
                              .looks = 1,
                              .orders = plan->order.pages ? 1 : 0,
                              .ordered_bytes = plan->order.pages * PAGE_BYTES,
                              .dry_run = dry_run,
                              .why = plan->why,
                              .order = plan->order,
                              .vm = look->vms[i],
                              .target_bytes = plan->target_bytes,
                              .tax = look->policy.tax,
                              .stall_some = look->policy.stall_some,
                              .stall_full = look->policy.stall_full,
                              .refault_percent = look->policy.refault_percent,
                              .stall_percent = look->policy.stall_percent,
                              .dry_until_ns = policy_dry_until_ns(vm),
                              .no_swap_ns = vm->no_swap_ns,
                              .answer = vm->answer};
}

/* ---------------------------------------------------------------- words */

struct text {
    char *at;
    size_t bytes, used;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *text, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text->at + text->used, text->bytes - text->used, format, args);
    va_end(args);
    if (n > 0)
        text->used = text->used + (size_t)n < text->bytes ? text->used + (size_t)n : text->bytes - 1;
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Who asks, in which state, and for how much. */
static void put_scope(struct text *text, const struct why_entry *e)
{
    const struct budget_why *w = &e->why;

    if (w->by == BUDGET_BY_LIMIT)
        put(text, "it has %.1f MiB, its limit is %.1f", mib(w->charged_bytes), mib(w->budget_bytes));
    else
        put(text, "the %s's memory is %s (%.1f of %.1f MiB), %.1f MiB are wanted", budget_by_name(w->by),
            budget_state_name(w->state), mib(w->charged_bytes), mib(w->budget_bytes), mib(w->wanted_bytes));
}

static void put_excluded(struct text *text, const struct why_entry *e)
{
    static const char *const words[] = {
        [BUDGET_INCLUDED] = "",
        [BUDGET_JOB] = "a user's pageout or pagein has precedence",
        [BUDGET_LOST] = "its engine is not connected",
        [BUDGET_JOINING] = "it is joining, and what it holds is not known yet",
        [BUDGET_PAUSED] = "it is paused, by its VMM or because a forked child shares its memory",
        [BUDGET_CLOSING] = "it is leaving",
        [BUDGET_SILENT] = "nothing has moved since its last order: neither asked again nor counted on",
    };

    static_assert(sizeof words / sizeof words[0] == BUDGET_EXCLUDED_COUNT, "words for each");
    put(text, "excluded (%s): %s; ", budget_excluded_name(e->vm.excluded), words[e->vm.excluded]);
    put_scope(text, e);
}

static void put_dry(struct text *text, const struct why_entry *e, uint64_t now_ns)
{
    static const char *const depth[] = {"any", "cold pages to pack", "cold pages to pack or swap",
                                        "any pages"};

    static_assert(sizeof depth / sizeof depth[0] == BUDGET_STATES, "words for each depth");
    put(text, "back-off: a search for %s came back with %" PRIu64 " of %" PRIu64 " pages", depth[e->vm.dry],
        e->answer.returned_pages, e->answer.asked_pages);
    if (e->dry_until_ns > now_ns)
        put(text, ", the next in %.1f s", (double)(e->dry_until_ns - now_ns) / 1e9);
    put(text, "; ");
    put_scope(text, e);
}

/* What it pays, and what others do. */
static void put_price(struct text *text, const struct why_entry *e)
{
    const struct budget_why *w = &e->why;

    if (e->vm.dry)
        put(text, "it has %.1f MiB, and a search has found nothing cold", mib(w->has_bytes));
    else if (e->vm.working_set_bytes >= w->has_bytes)
        put(text, "all of its %.1f MiB are in use", mib(w->has_bytes));
    else if (e->vm.working_set_bytes)
        put(text, "%.1f MiB of its %.1f are in use, with idle tax it is charged for %.1f",
            mib(e->vm.working_set_bytes), mib(w->has_bytes), w->taxed_bytes / (1 << 20));
    else
        put(text, "it has %.1f MiB, all of it taken to be in use", mib(w->has_bytes));
    put(text, ": %.2f KiB a share, and the price is %.2f", w->taxed_bytes / w->shares / 1024,
        w->price / 1024);
}

static void put_ordered(struct text *text, const struct why_entry *e)
{
    const struct budget_why *w = &e->why;
    const struct budget_order *o = &e->order;

    put(text, "%s: ", w->by == BUDGET_BY_LIMIT ? "limit" : "shares and idle tax");
    put_scope(text, e);
    if (w->by != BUDGET_BY_LIMIT) {
        put(text, "; ");
        put_price(text, e);
    }
    if (o->pages)
        put(text, "; %s %.1f MiB%s, %s%s", e->dry_run ? "would be asked for" : "asked for",
            mib(o->pages * PAGE_BYTES), w->paced ? " (the most at a time)" : "",
            o->all ? "any pages" : "cold pages", o->swap ? ", packed and swapped" : ", packed");
    if (w->state == BUDGET_SOFT && w->ease < 1)
        put(text, ", gently (%.0f%%) for what it needs back", 100 * w->ease);
}

static void put_spared(struct text *text, const struct why_entry *e, uint64_t now_ns)
{
    const struct budget_why *w = &e->why;

    switch (w->reason) {
    case BUDGET_EXCLUDED:
        put_excluded(text, e);
        return;
    case BUDGET_DRY:
        put_dry(text, e, now_ns);
        return;
    case BUDGET_AT_IT:
        put(text, "at it: its order of %.1f MiB is not answered yet; ", mib(e->vm.pending_bytes));
        break;
    case BUDGET_INELIGIBLE:
        put(text, "ineligible: %.1f MiB of it are locked, pinned, shared or huge, and nothing else is left; ",
            mib(e->vm.ineligible_bytes));
        break;
    case BUDGET_NOTHING_LEFT:
        put(text, "nothing left: it has no pages of its own that could leave; ");
        break;
    case BUDGET_REFAULTS:
        put(text,
            "refault limit: it needs back %.0f packed and %.0f swapped pages a second, more than %.2g%% of "
            "its "
            "working set a minute; ",
            e->vm.rates.packed_per_s, e->vm.rates.swapped_per_s, e->refault_percent);
        break;
    case BUDGET_STALLS:
        put(text,
            "stall limit: the host waits for memory (some %.2f%%, full %.2f%% of the time, limit %.2f%%); ",
            e->stall_some, e->stall_full, e->stall_percent);
        break;
    case BUDGET_RESERVED:
        put(text, "reservation: it has %.1f MiB, of which %.1f are reserved", mib(e->vm.resident_bytes),
            mib(e->vm.terms.reservation_bytes));
        if (e->vm.loose_bytes)
            put(text, " and %.1f may leave anyway", mib(e->vm.loose_bytes));
        put(text, "; ");
        break;
    default:
        put(text, "too small: what it would give is less than an order is worth; ");
        break;
    }
    put_scope(text, e);
}

static void put_given_back(struct text *text, const struct why_entry *e)
{
    const struct balloon_verdict *v = &e->balloon;

    if (v->rule == BALLOON_RULE_NEED)
        put(text, "given back: the guest needs memory, it has %.1f MiB available and %.1f are its reserve",
            mib(v->available_bytes), mib(v->reserve_bytes));
    else if (v->rule == BALLOON_RULE_REREADS)
        put(text, "given back: the guest reads again what it had to drop");
    else if (v->rule == BALLOON_RULE_GROWS)
        put(text,
            "given back: the guest begins to use more, it has %.1f MiB available, and memory is not short",
            mib(v->available_bytes));
    else if (v->rule == BALLOON_RULE_STALE)
        put(text, "given back: nobody has heard for long how the guest does");
    else
        put(text, "given back: there is room for all that balloons hold");
    put(text, "; it has %.1f MiB and gets %.1f", mib(v->actual_bytes), mib(v->set_bytes));
}

static void put_balloon(struct text *text, const struct why_entry *e)
{
    static const char *const words[] = {
        [BALLOON_OFF] = "it is off",
        [BALLOON_NOT_READY] = "not ready",
        [BALLOON_BLIND] = "its VMM does not say how far the guest has got",
        [BALLOON_MUTE] = "neither statistics nor an agent say what it can spare",
        [BALLOON_RISKY] = "no agent says in time that it needs memory, and it has no deflate-on-oom",
        [BALLOON_MIGRATING] = "it migrates",
        [BALLOON_LOCKED] = "its memory is locked or pinned (mlock, VFIO)"};
    const struct balloon_verdict *v = &e->balloon;

    static_assert(sizeof words / sizeof words[0] == BALLOON_EXCLUDED_COUNT, "words for each");
    put(text, "; balloon (%s): ", balloon_rule_name(v->rule));
    if (v->rule == BALLOON_RULE_EXCLUDED) {
        put(text, "%s", words[v->excluded]);
        return;
    }
    if (e->balloon_bytes)
        put(text, "%s %.1f MiB, ", e->dry_run ? "would be asked for" : "asked for", mib(e->balloon_bytes));
    put(text, "the guest has %.1f MiB, %.1f available, and can spare %.1f", mib(v->actual_bytes),
        mib(v->available_bytes), mib(v->spare_bytes));
    if (v->hold_ns)
        put(text, ", left alone for %.1f s", (double)v->hold_ns / 1e9);
    if (v->returned < 1)
        put(text, ", %.0f%% of the last step came back", 100 * v->returned);
}

const char *why_text(const struct why_entry *e, uint64_t now_ns, char bytes[WHY_TEXT_BYTES])
{
    struct text text = {bytes, WHY_TEXT_BYTES, 0};

    bytes[0] = '\0';
    switch (e->why.reason) {
    case BUDGET_UNASKED:
        put(&text, "not asked: no budget it counts for is short%s",
            e->vm.terms.limit_bytes ? ", and it is within its limit" : "");
        break;
    case BUDGET_ENOUGH:
        put(&text, "enough: what VMs are at already is all that is wanted; ");
        put_scope(&text, e);
        break;
    case BUDGET_PRICE:
        put(&text, "shares and idle tax: others have more for their shares; ");
        put_price(&text, e);
        put(&text, "; ");
        put_scope(&text, e);
        break;
    case BUDGET_ORDERED:
        put_ordered(&text, e);
        break;
    case BUDGET_GIVEN_BACK:
        put_given_back(&text, e);
        break;
    default:
        put_spared(&text, e, now_ns);
        break;
    }
    if (e->has_balloon && e->why.reason != BUDGET_GIVEN_BACK)
        put_balloon(&text, e);
    return bytes;
}
