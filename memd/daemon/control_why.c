/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control_why: the answer to GET /v1/why/{vm}: each decision in words, and the numbers it was made of.
 *
 * jansson passes a failed allocation on as NULL, from the innermost value to the document.
 */
#include "memd/daemon/control_json.h"

#include <string.h>

#define PAGE_BYTES 4096u

/* Bytes and counts, as JSON keeps them. */
static json_int_t number(uint64_t value)
{
    return (json_int_t)(value > INT64_MAX ? INT64_MAX : value);
}

/* When something was by the daemon's clock, by the calendar: Unix time. */
static json_int_t unix_ms(uint64_t at_ns, uint64_t now_ns, uint64_t real_ns)
{
    uint64_t ago = now_ns > at_ns ? now_ns - at_ns : 0;

    return number((real_ns > ago ? real_ns - ago : 0) / 1000000);
}

static json_int_t ms_until(uint64_t at_ns, uint64_t now_ns)
{
    return at_ns > now_ns ? number((at_ns - now_ns) / 1000000) : 0;
}

static json_t *scope(const struct why_entry *e)
{
    const struct budget_why *w = &e->why;

    return json_pack("{s:s, s:s, s:I, s:I, s:I}", "by", budget_by_name(w->by), "state",
                     budget_state_name(w->state), "budget_bytes", number(w->budget_bytes), "charged_bytes",
                     number(w->charged_bytes), "wanted_bytes", number(w->wanted_bytes));
}

static json_t *memory(const struct why_entry *e)
{
    const struct budget_vm *vm = &e->vm;

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "resident_bytes",
                     number(vm->resident_bytes), "target_bytes", number(e->target_bytes), "floor_bytes",
                     number(e->why.floor_bytes), "reclaimable_bytes", number(vm->reclaimable_bytes),
                     "ineligible_bytes", number(vm->ineligible_bytes), "working_set_bytes",
                     number(vm->working_set_bytes), "pending_bytes", number(vm->pending_bytes),
                     "reservation_bytes", number(vm->terms.reservation_bytes), "limit_bytes",
                     number(vm->terms.limit_bytes), "swap",
                     vm->terms.swap_never ? "never"
                     : vm->can_swap       ? "allowed"
                                          : "full");
}

static json_t *price(const struct why_entry *e)
{
    const struct budget_vm *vm = &e->vm;
    uint64_t resident = vm->resident_bytes, active = vm->working_set_bytes;
    double idle = active && active < resident ? 100 * (double)(resident - active) / (double)resident : 0;

    return json_pack("{s:f, s:f, s:f, s:I, s:f, s:f}", "shares", e->why.shares, "idle_percent", idle,
                     "tax_percent", 100 * e->tax, "taxed_bytes", number((uint64_t)e->why.taxed_bytes),
                     "bytes_per_share", e->why.shares > 0 ? e->why.taxed_bytes / e->why.shares : 0.0,
                     "price_bytes_per_share", e->why.price);
}

static json_t *backoff(const struct why_entry *e, uint64_t now_ns)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:s, s:I}", "packed_refaults_per_s", e->vm.rates.packed_per_s,
                     "swapped_refaults_per_s", e->vm.rates.swapped_per_s, "ease_percent", 100 * e->why.ease,
                     "stall_some_percent", e->stall_some, "stall_full_percent", e->stall_full, "dry",
                     e->vm.dry ? budget_state_name(e->vm.dry) : "no", "dry_ms",
                     ms_until(e->dry_until_ns, now_ns));
}

static json_t *order(const struct why_entry *e)
{
    const struct budget_order *o = &e->order;

    if (!o->pages)
        return json_null();
    return json_pack("{s:I, s:s, s:b, s:b, s:I}", "bytes", number(o->pages * PAGE_BYTES), "depth",
                     budget_state_name(o->depth), "any", o->all, "swap", o->swap, "park_ms",
                     (json_int_t)o->park_ms);
}

static json_t *answer(const struct why_entry *e, uint64_t now_ns, uint64_t real_ns)
{
    const struct policy_answer *a = &e->answer;

    if (!a->at_ns)
        return json_null();
    return json_pack("{s:I, s:I, s:I, s:s}", "at_ms", unix_ms(a->at_ns, now_ns, real_ns), "asked_bytes",
                     number(a->asked_pages * PAGE_BYTES), "returned_bytes",
                     number(a->returned_pages * PAGE_BYTES), "error", a->error ? strerror(a->error) : "");
}

static json_t *balloon(const struct why_entry *e)
{
    const struct balloon_verdict *v = &e->balloon;

    if (!e->has_balloon)
        return json_null();
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "rule",
                     balloon_rule_name(v->rule), "excluded",
                     v->excluded ? balloon_excluded_name(v->excluded) : "no", "asked_bytes",
                     number(e->balloon_bytes), "set_bytes", number(v->set_bytes), "offer_bytes",
                     number(v->offer_bytes), "pending_bytes", number(v->pending_bytes), "available_bytes",
                     number(v->available_bytes), "reserve_bytes", number(v->reserve_bytes), "spare_bytes",
                     number(v->spare_bytes), "actual_bytes", number(v->actual_bytes), "target_bytes",
                     number(v->target_bytes), "hold_ms", number(v->hold_ns / 1000000), "returned_percent",
                     100 * v->returned);
}

static json_t *decision(const struct why_entry *e, uint64_t now_ns, uint64_t real_ns)
{
    char text[WHY_TEXT_BYTES];

    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "first_ms", unix_ms(e->first_ns, now_ns, real_ns), "last_ms",
                     unix_ms(e->last_ns, now_ns, real_ns), "looks", number(e->looks), "orders",
                     number(e->orders), "ordered_bytes", number(e->ordered_bytes), "dry_run", e->dry_run,
                     "reason", budget_reason_name(e->why.reason), "excluded",
                     budget_excluded_name(e->vm.excluded), "text", why_text(e, now_ns, text), "scope",
                     scope(e), "memory", memory(e), "price", price(e), "backoff", backoff(e, now_ns), "order",
                     order(e), "answer", answer(e, now_ns, real_ns), "balloon", balloon(e));
}

json_t *control_json_why(const struct core_why *why, uint64_t real_ns)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < why->n; i++)
        if (json_array_append_new(list, decision(&why->entry[i], why->now_ns, real_ns))) {
            json_decref(list);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:b, s:b, s:o}", "vm", why->vm, "domain", why->domain, "dry_run",
                     why->dry_run, "rests", why->rests, "decisions", list);
}
