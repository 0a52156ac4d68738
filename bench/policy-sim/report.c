/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report: what came out, as JSON, and that as text. */
#include "bench/policy-sim/sim.h"

#include <math.h>

#define GIB_PAGES 262144.0

/* VMs of a kind, with the shares of their size, or twice as many. */
struct group {
    size_t n;
    double guest, resident, used, taken, home, lost_s, seconds;
};

static struct group group_of(const struct sim_vm *vms, size_t n, enum sim_kind kind, bool double_shares)
{
    struct group g = {0};

    for (size_t i = 0; i < n; i++) {
        const struct sim_vm *vm = &vms[i];
        /* terms of another kind decide of the others how much they keep */
        if (vm->load.kind != kind || vm->double_shares != double_shares || !vm->seconds ||
            vm->terms.reservation_bytes || vm->terms.limit_bytes)
            continue;
        g.n++;
        g.guest += vm->guest;
        g.resident += vm->resident_sum / vm->seconds;
        g.used += vm->hot_sum / vm->seconds;
        g.taken += vm->taken - vm->taken_before;
        g.home += vm->packed_faults + vm->swapped_faults - vm->home_before;
        g.lost_s += vm->lost_s - vm->lost_before_s;
        g.seconds += vm->seconds;
    }
    return g;
}

/* The microseconds that `part` of the pages did not wait longer than. */
static double wait_us(const double waits[SIM_WAITS], double part)
{
    double all = 0, sum = 0;

    for (int i = 0; i < SIM_WAITS; i++)
        all += waits[i];
    for (int i = 0; i < SIM_WAITS && all > 0; i++) {
        sum += waits[i];
        if (sum >= all * part)
            return ldexp(1 + (i % 4 + 1) / 4.0, i / 4); /* the bucket's end */
    }
    return 0;
}

static double percent(double part, double of)
{
    return of > 0 ? 100 * part / of : 0;
}

static json_t *groups_json(const struct sim_vm *vms, size_t n)
{
    json_t *list = json_array();

    for (int kind = 0; kind < SIM_KINDS; kind++)
        for (int twice = 0; twice < 2; twice++) {
            struct group g = group_of(vms, n, (enum sim_kind)kind, twice);
            if (!g.n)
                continue;
            json_array_append_new(
                list, json_pack("{s:s, s:i, s:I, s:f, s:f, s:f, s:f, s:f}", "kind", sim_kind_name(kind),
                                "shares", twice + 1, "vms", (json_int_t)g.n, "resident_percent",
                                percent(g.resident, g.guest), "working_set_percent", percent(g.used, g.guest),
                                "reclaimed_percent", percent(g.taken, g.guest), "refault_percent",
                                percent(g.home, g.taken), "lost_percent", percent(g.lost_s, g.seconds)));
        }
    return list;
}

/* ---------------------------------------------------------------- balloons */

/* By who speaks for the guest: all their VMs, over the whole run but for what they keep. */
static json_t *guests_json(const struct sim_vm *vms, size_t n)
{
    json_t *list = json_array();

    for (int speaks = 0; speaks < SIM_SPEAKS; speaks++) {
        double guest = 0, resident = 0, used = 0, balloon = 0, lost = 0, seconds = 0;
        json_int_t all = 0, needs = 0, kills = 0, own = 0;
        double waits[SIM_WAITS] = {0};
        for (size_t i = 0; i < n; i++) {
            const struct sim_vm *vm = &vms[i];
            if (vm->kernel.speaks != (enum sim_speaks)speaks || !vm->seconds)
                continue;
            all++;
            guest += vm->guest;
            resident += vm->resident_sum / vm->seconds;
            used += vm->hot_sum / vm->seconds;
            balloon += vm->balloon_sum / vm->seconds;
            lost += vm->lost_s - vm->lost_before_s;
            seconds += vm->seconds;
            needs += (json_int_t)vm->balloons.needs;
            kills += (json_int_t)vm->balloons.kills;
            own += (json_int_t)vm->balloons.kills_own;
            for (int w = 0; w < SIM_WAITS; w++)
                waits[w] += vm->balloons.waits[w];
        }
        if (all)
            json_array_append_new(
                list,
                json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:I, s:f, s:f, s:I, s:I}", "guest",
                          sim_speaks_name((enum sim_speaks)speaks), "vms", all, "resident_percent",
                          percent(resident, guest), "working_set_percent", percent(used, guest),
                          "balloon_percent", percent(balloon, guest), "lost_percent", percent(lost, seconds),
                          "needs", needs, "back_ms_p50", wait_us(waits, 0.5) / 1000, "back_ms_p99",
                          wait_us(waits, 0.99) / 1000, "oom_kills", kills, "oom_kills_own", own));
    }
    return list;
}

/* What was taken by each means, and what of it came back. */
static json_t *rungs_json(const struct sim_result *r)
{
    const struct {
        const char *name;
        double taken, back;
    } rungs[] = {
        {"balloon", r->balloons.filled, r->balloons.emptied},
        {"parked", r->parked, r->unparked},
        {"packed", r->reclaimed, r->refaults_packed},
        {"swapped", r->written, r->refaults_swapped},
    };
    json_t *list = json_array();

    for (size_t i = 0; i < sizeof rungs / sizeof rungs[0]; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:f, s:f}", "rung", rungs[i].name, "taken_gib",
                                        rungs[i].taken / GIB_PAGES, "back_gib", rungs[i].back / GIB_PAGES));
    return list;
}

static json_t *balloons_json(const struct sim_balloons *b)
{
    json_t *back = json_object();

    for (int rule = 0; rule < BALLOON_RULES; rule++)
        if (b->given_back[rule] > 0)
            json_object_set_new(back, balloon_rule_name((enum balloon_rule)rule),
                                json_real(b->given_back[rule] / GIB_PAGES));
    if (b->on_oom > 0)
        json_object_set_new(back, "oom", json_real(b->on_oom / GIB_PAGES));
    return json_pack("{s:I, s:f, s:f, s:f, s:o, s:f, s:f}", "steps", (json_int_t)b->steps, "asked_gib",
                     b->asked / GIB_PAGES, "filled_gib", b->filled / GIB_PAGES, "host_got_gib",
                     b->returned / GIB_PAGES, "given_back_gib", back, "cache_dropped_gib",
                     b->dropped / GIB_PAGES, "cache_read_again_gib", b->read_again / GIB_PAGES);
}

/* ---------------------------------------------------------------- the host */

static json_t *series_json(const struct sim_result *r, double host)
{
    json_t *list = json_array();

    for (size_t i = 0; i < r->nsamples; i++) {
        const struct sim_sample *at = &r->sample[i];
        json_array_append_new(list,
                              json_pack("{s:f, s:s, s:f, s:f, s:f, s:f}", "second", at->second, "state",
                                        budget_state_name(at->state), "used_percent", percent(at->used, host),
                                        "balloon_gib", at->balloons / GIB_PAGES, "packed_gib",
                                        at->packed / GIB_PAGES, "swapped_gib", at->swapped / GIB_PAGES));
    }
    return list;
}

/* Jain's index of what VMs keep beyond what they use, by their shares: 1 if a share is worth the same in all
 * of them. Those that something else decides of are left out. */
static double fairness(const struct sim_vm *vms, size_t n)
{
    double sum = 0, squares = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        const struct sim_vm *vm = &vms[i];
        if (!vm->seconds || vm->terms.reservation_bytes || vm->terms.limit_bytes || vm->terms.swap_never)
            continue;
        double shares = vm->terms.shares ? vm->terms.shares : vm->guest,
               idle = vm->resident_sum - vm->hot_sum;
        if (vm->terms.shares) /* of its size in MiB */
            shares *= 256.0 / BUDGET_SHARES_PER_MIB;
        double worth = idle > 0 ? idle / vm->seconds / shares : 0;
        sum += worth;
        squares += worth * worth;
        all++;
    }
    return squares > 0 ? sum * sum / (all * squares) : 1;
}

static json_t *states_json(const struct sim_result *r)
{
    json_t *states = json_object();

    for (int s = 0; s < BUDGET_STATES; s++)
        json_object_set_new(states, budget_state_name((enum budget_state)s),
                            json_real(percent(r->state_s[s], r->seconds)));
    return states;
}

json_t *sim_report(const struct sim_result *r, const struct sim_config *config, const struct sim_vm *vms,
                   size_t n)
{
    const struct sim_balloons *b = &r->balloons;
    json_t *host = json_pack(
        "{s:f, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "seconds",
        r->seconds, "vms", (json_int_t)n, "looks", (json_int_t)r->looks, "orders", (json_int_t)r->orders,
        "refused", (json_int_t)r->refused, "state_percent", states_json(r), "over_budget_percent",
        percent(r->over_s, r->seconds), "overshoot_percent", 100 * r->overshoot, "state_changes_per_minute",
        (double)r->state_changes * 60 / r->seconds, "reclaimed_gib", r->reclaimed / GIB_PAGES,
        "refaults_packed_gib", r->refaults_packed / GIB_PAGES, "refaults_swapped_gib",
        r->refaults_swapped / GIB_PAGES, "refault_percent", percent(r->moved_home, r->reclaimed),
        "taken_in_use_percent", percent(r->taken_hot, r->reclaimed), "giveback_ms_p50",
        wait_us(r->waits, 0.5) / 1000, "giveback_ms_p99", wait_us(r->waits, 0.99) / 1000);
    json_t *guests = json_pack(
        "{s:I, s:f, s:f, s:f, s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o, s:I, s:s}", "needs",
        (json_int_t)b->needs, "memory_back_ms_p50", wait_us(b->waits, 0.5) / 1000, "memory_back_ms_p99",
        wait_us(b->waits, 0.99) / 1000, "memory_back_ms_max", b->longest_s * 1000, "oom_kills",
        (json_int_t)b->kills, "oom_kills_own", (json_int_t)b->kills_own, "fairness", fairness(vms, n),
        "rungs", rungs_json(r), "balloons", balloons_json(b), "groups", groups_json(vms, n), "guests",
        guests_json(vms, n), "series", series_json(r, config->host), "violations", (json_int_t)r->violations,
        "first_violation", r->first_violation);

    json_object_update_missing(host, guests);
    json_decref(guests);
    return host;
}

/* ---------------------------------------------------------------- as text */

#define SERIES_ROWS 12u

static double real(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *word(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* An object of numbers in one line. */
static void print_line(const json_t *report, const char *name, const char *unit)
{
    const json_t *value;
    const char *key;

    printf("%-26s", name);
    json_object_foreach(json_object_get(report, name), key, value) if (json_is_number(value))
        printf(" %s %.1f%s", key, json_number_value(value), unit);
    printf("\n");
}

static void print_tables(const json_t *report)
{
    const json_t *row;
    size_t i;

    printf("\n%-8s %10s %10s\n", "RUNG", "TAKEN GiB", "BACK GiB");
    json_array_foreach(json_object_get(report, "rungs"), i, row)
        printf("%-8s %10.1f %10.1f\n", word(row, "rung"), real(row, "taken_gib"), real(row, "back_gib"));
    printf("\n%-8s %7s %5s %10s %9s %11s %10s %8s\n", "KIND", "SHARES", "VMS", "RESIDENT%", "IN USE%",
           "RECLAIMED%", "REFAULTS%", "LOST%");
    json_array_foreach(json_object_get(report, "groups"), i, row)
        printf("%-8s %7.0f %5.0f %10.1f %9.1f %11.1f %10.1f %8.3f\n", word(row, "kind"), real(row, "shares"),
               real(row, "vms"), real(row, "resident_percent"), real(row, "working_set_percent"),
               real(row, "reclaimed_percent"), real(row, "refault_percent"), real(row, "lost_percent"));
    printf("\n%-8s %5s %10s %9s %9s %8s %6s %11s %11s %9s %8s\n", "GUEST", "VMS", "RESIDENT%", "IN USE%",
           "BALLOON%", "LOST%", "NEEDS", "BACK ms p50", "BACK ms p99", "OOM KILLS", "ITS OWN");
    json_array_foreach(json_object_get(report, "guests"), i, row) printf(
        "%-8s %5.0f %10.1f %9.1f %9.1f %8.3f %6.0f %11.0f %11.0f %9.0f %8.0f\n", word(row, "guest"),
        real(row, "vms"), real(row, "resident_percent"), real(row, "working_set_percent"),
        real(row, "balloon_percent"), real(row, "lost_percent"), real(row, "needs"), real(row, "back_ms_p50"),
        real(row, "back_ms_p99"), real(row, "oom_kills"), real(row, "oom_kills_own"));
    const json_t *series = json_object_get(report, "series");
    size_t every = (json_array_size(series) + SERIES_ROWS - 1) / SERIES_ROWS;
    printf("\n%8s %-5s %6s %12s %11s %12s\n", "SECOND", "STATE", "USED%", "BALLOONS GiB", "PACKED GiB",
           "SWAPPED GiB");
    json_array_foreach(series, i, row) if ((i + 1) % every == 0)
        printf("%8.0f %-5s %6.1f %12.1f %11.1f %12.1f\n", real(row, "second"), word(row, "state"),
               real(row, "used_percent"), real(row, "balloon_gib"), real(row, "packed_gib"),
               real(row, "swapped_gib"));
}

void sim_report_print(const json_t *report)
{
    const json_t *value, *balloons = json_object_get(report, "balloons");
    const char *key;

    json_object_foreach((json_t *)report, key, value)
    {
        if (json_is_number(value))
            printf("%-26s %.6g\n", key, json_number_value(value));
        else if (json_is_string(value) && json_string_length(value))
            printf("%-26s %s\n", key, json_string_value(value));
    }
    print_line(report, "state_percent", "");
    print_line(report, "balloons", "");
    print_line(balloons, "given_back_gib", "");
    print_tables(report);
}
