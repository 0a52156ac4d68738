/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy-sim: options and the report; what there is is told in sim.h. */
#include "bench/policy-sim/sim.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define VMS_MAX     100000.0
#define SECONDS_MAX 31536000.0

static const char help[] =
    "Usage: policy-sim [OPTION]...\n\n"
    "memd's memory policy, its own code, on a modelled host: who gives memory back, what it costs them, and\n"
    "whether reservations, limits and the budget are kept. docs/benchmarks.md tells what the model is.\n\n"
    "  --vms N            VMs that are made up (default 1000)\n"
    "  --host SIZE        the budget, e.g. 256G (default 1T)\n"
    "  --overcommit X     guest memory, times the budget (default 1.6)\n"
    "  --seconds N        of the model's time (default 3600; of a trace: as long as it is)\n"
    "  --seed N           for what is made up (default 1)\n"
    "  --trace FILE       what VMs want is read from here; - is standard input\n"
    "  --idle-tax P, --refault-limit P, --stall P   as memd's options, and how long the host waits, in "
    "percent\n"
    "  --swap-us US, --swap-mbps N   of the swap device: to read a page (100), to write and to read (4000)\n"
    "  --troubles on|off  user's jobs, pauses, engines that do not answer (default on)\n"
    "  --record SECONDS   write a trace of the memd that MEMCTL asks, in place of all that\n"
    "  --memctl FILE      that (default: memctl)\n"
    "  --json             the report as JSON\n"
    "  --help             this text\n\n"
    "Exit codes: 0 all that must hold held, 1 it did not, or the run failed, 2 usage.\n";

struct options {
    double vms, host, overcommit, seconds, seed, idle_tax, refault_limit, stall, swap_us, swap_mbps, record;
    const char *trace, *memctl;
    bool json, no_troubles;
};

/* ---------------------------------------------------------------- options */

/* A number, perhaps with K, M, G or T behind it. */
static bool parse(const char *text, double min, double max, double *ret_value)
{
    static const char units[] = "KMGT";
    char *end;
    double value = strtod(text, &end);

    if (end == text)
        return false;
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        value = ldexp(value, 10 * (int)(unit - units + 1));
        end++;
    }
    *ret_value = value;
    return !*end && value >= min && value <= max;
}

static int usage(const char *name, const char *value)
{
    fprintf(stderr, "policy-sim: --%s: '%.40s' makes no sense; see policy-sim --help\n", name, value);
    return 2;
}

/* -1: go on; else the exit code. */
static int read_options(int argc, char *argv[], struct options *o)
{
    const struct {
        const char *name;
        double *value, min, max;
    } numbers[] = {
        {"vms", &o->vms, 1, VMS_MAX},
        {"host", &o->host, 0x1p26, 0x1p50},
        {"overcommit", &o->overcommit, 0.1, 20},
        {"seconds", &o->seconds, 1, SECONDS_MAX},
        {"seed", &o->seed, 0, 0x1p32},
        {"idle-tax", &o->idle_tax, 0, 99},
        {"refault-limit", &o->refault_limit, 0, 1000},
        {"stall", &o->stall, 0, 100},
        {"swap-us", &o->swap_us, 1, 1e6},
        {"swap-mbps", &o->swap_mbps, 1, 1e6},
        {"record", &o->record, 1, SECONDS_MAX},
    };
    enum { NUMBERS = sizeof numbers / sizeof numbers[0], TRACE = NUMBERS, MEMCTL, TROUBLES, JSON, HELP, ALL };
    struct option options[ALL + 1] = {[TRACE] = {"trace", required_argument, NULL, 0},
                                      [MEMCTL] = {"memctl", required_argument, NULL, 0},
                                      [TROUBLES] = {"troubles", required_argument, NULL, 0},
                                      [JSON] = {"json", no_argument, NULL, 0},
                                      [HELP] = {"help", no_argument, NULL, 0}};
    int index, result;

    for (int i = 0; i < NUMBERS; i++)
        options[i] = (struct option){numbers[i].name, required_argument, NULL, 0};
    while (!(result = getopt_long(argc, argv, "", options, &index))) {
        if (index < NUMBERS && !parse(optarg, numbers[index].min, numbers[index].max, numbers[index].value))
            return usage(numbers[index].name, optarg);
        if (index == TROUBLES && strcmp(optarg, "on") && strcmp(optarg, "off"))
            return usage("troubles", optarg);
        if (index == HELP) {
            fputs(help, stdout);
            return 0;
        }
        if (index == TRACE)
            o->trace = optarg;
        if (index == MEMCTL)
            o->memctl = optarg;
        if (index == TROUBLES)
            o->no_troubles = !strcmp(optarg, "off");
        o->json |= index == JSON;
    }
    if (result != -1 || optind < argc) {
        if (result == -1)
            fprintf(stderr, "policy-sim: '%.40s' is no option; see policy-sim --help\n", argv[optind]);
        return 2;
    }
    return -1;
}

/* ---------------------------------------------------------------- the report */

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

static json_t *report_json(const struct sim_result *r, const struct sim_vm *vms, size_t n)
{
    json_t *states = json_object();

    for (int s = 0; s < BUDGET_STATES; s++)
        json_object_set_new(states, budget_state_name((enum budget_state)s),
                            json_real(percent(r->state_s[s], r->seconds)));
    return json_pack(
        "{s:f, s:I, s:I, s:I, s:I, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:I, s:s}",
        "seconds", r->seconds, "vms", (json_int_t)n, "looks", (json_int_t)r->looks, "orders",
        (json_int_t)r->orders, "refused", (json_int_t)r->refused, "state_percent", states,
        "over_budget_percent", percent(r->over_s, r->seconds), "overshoot_percent", 100 * r->overshoot,
        "state_changes_per_minute", (double)r->state_changes * 60 / r->seconds, "reclaimed_gib",
        r->reclaimed / 262144, "refaults_packed_gib", r->refaults_packed / 262144, "refaults_swapped_gib",
        r->refaults_swapped / 262144, "refault_percent", percent(r->moved_home, r->reclaimed),
        "taken_in_use_percent", percent(r->taken_hot, r->reclaimed), "giveback_ms_p50",
        wait_us(r->waits, 0.5) / 1000, "giveback_ms_p99", wait_us(r->waits, 0.99) / 1000, "groups",
        groups_json(vms, n), "violations", (json_int_t)r->violations, "first_violation", r->first_violation);
}

static void print_report(const json_t *report)
{
    const json_t *group, *value;
    const char *key;
    size_t i;

    json_object_foreach((json_t *)report, key, value)
    {
        if (json_is_number(value))
            printf("%-26s %.6g\n", key, json_number_value(value));
        else if (json_is_string(value) && json_string_length(value))
            printf("%-26s %s\n", key, json_string_value(value));
    }
    printf("%-26s", "state_percent");
    json_object_foreach(json_object_get(report, "state_percent"), key, value)
        printf(" %s %.1f", key, json_number_value(value));
    printf("\n\n%-8s %7s %5s %10s %9s %11s %10s %8s\n", "KIND", "SHARES", "VMS", "RESIDENT%", "IN USE%",
           "RECLAIMED%", "REFAULTS%", "LOST%");
    json_array_foreach(json_object_get(report, "groups"), i, group) printf(
        "%-8s %7d %5d %10.1f %9.1f %11.1f %10.1f %8.3f\n", json_string_value(json_object_get(group, "kind")),
        (int)json_integer_value(json_object_get(group, "shares")),
        (int)json_integer_value(json_object_get(group, "vms")),
        json_real_value(json_object_get(group, "resident_percent")),
        json_real_value(json_object_get(group, "working_set_percent")),
        json_real_value(json_object_get(group, "reclaimed_percent")),
        json_real_value(json_object_get(group, "refault_percent")),
        json_real_value(json_object_get(group, "lost_percent")));
}

/* ---------------------------------------------------------------- the run */

static int load(const struct options *o, struct sim_config *config, struct sim_vm **ret_vms)
{
    char error[120];
    double seconds;

    if (!o->trace) {
        size_t n = (size_t)o->vms;
        *ret_vms = calloc(n, sizeof **ret_vms);
        if (!*ret_vms)
            return -1;
        config->seconds = o->seconds ? o->seconds : 3600;
        sim_load_make(*ret_vms, n, config->host, o->overcommit, config->seconds, (uint64_t)o->seed);
        return (int)n;
    }
    FILE *in = strcmp(o->trace, "-") ? fopen(o->trace, "re") : stdin;
    if (!in) {
        fprintf(stderr, "policy-sim: %s: %s\n", o->trace, strerror(errno));
        return -1;
    }
    int n = sim_load_read(in, (uint64_t)o->seed, ret_vms, &seconds, error, sizeof error);
    if (in != stdin)
        fclose(in);
    if (n < 0)
        fprintf(stderr, "policy-sim: %s, %s\n", o->trace, error);
    config->seconds = o->seconds ? o->seconds : seconds;
    return n;
}

static int simulate(const struct options *o)
{
    struct sim_config config = {
        .host = o->host / SIM_PAGE,
        .device = {.packed_us = 15,
                   .swapped_us = o->swap_us,
                   .read_pages_per_s = o->swap_mbps * 1e6 / SIM_PAGE,
                   .write_pages_per_s = o->swap_mbps * 1e6 / SIM_PAGE,
                   .pack_pages_per_s = 60000,
                   .faults_at_once = 4},
        .policy = {o->idle_tax / 100, o->refault_limit, 1, POLICY_SHORT_NS * 1e-9, o->stall, 0},
        .thresholds = {.soft = 90, .hard = 96, .low = 100, .back = 2},
        .troubles = !o->no_troubles,
    };
    struct sim_result result;
    struct sim_vm *vms;
    int n = load(o, &config, &vms);

    if (n < 0)
        return 1;
    clock_t begun = clock();
    if (sim_run(&config, vms, (size_t)n, &result)) {
        fprintf(stderr, "policy-sim: out of memory\n");
        sim_load_free(vms, (size_t)n);
        return 1;
    }
    double cpu_s = (double)(clock() - begun) / CLOCKS_PER_SEC;
    json_t *report = report_json(&result, vms, (size_t)n);
    if (o->json)
        json_dumpf(report, stdout, JSON_INDENT(2)), putchar('\n');
    else
        print_report(report);
    fprintf(stderr, "%.1f s of CPU time: %.0f times as fast as the model's\n", cpu_s,
            cpu_s > 0 ? result.seconds / cpu_s : 0);
    json_decref(report);
    sim_load_free(vms, (size_t)n);
    return result.violations ? 1 : 0;
}

int main(int argc, char *argv[])
{
    struct options o = {.vms = 1000,
                        .host = 0x1p40,
                        .overcommit = 1.6,
                        .seed = 1,
                        .idle_tax = 75,
                        .refault_limit = 1,
                        .swap_us = 100,
                        .swap_mbps = 4000,
                        .memctl = "memctl"};
    int result = read_options(argc, argv, &o);

    if (result >= 0)
        return result;
    return o.record ? sim_record(o.memctl, (unsigned)o.record, stdout) : simulate(&o);
}
