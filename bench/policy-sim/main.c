/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy-sim: options; what there is is told in sim.h. */
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
    "memd's memory policy, its own code, on a modelled host: who gives memory back, by balloon, packing or\n"
    "swap, what it costs them, and whether reservations, limits and the budget are kept. docs/benchmarks.md\n"
    "tells what the model is.\n\n"
    "  --vms N            VMs that are made up (default 1000)\n"
    "  --host SIZE        the budget, e.g. 256G (default 1T)\n"
    "  --overcommit X     guest memory, times the budget (default 1.6)\n"
    "  --seconds N        of the model's time (default 3600; of a trace: as long as it is)\n"
    "  --seed N           for what is made up (default 1)\n"
    "  --trace FILE       what VMs want is read from here; - is standard input\n"
    "  --idle-tax P, --refault-limit P, --stall P   as memd's options, and how long the host waits, in "
    "percent\n"
    "  --swap-us US, --swap-mbps N   of the swap device: to read a page (100), to write and to read (4000)\n"
    "  --agents P         VMs with a balloon and an agent in the guest, in percent (default 60; of a trace: "
    "as\n"
    "                     it says)\n"
    "  --stats P          VMs with a balloon and no agent (default 20): of ten of them seven say how their "
    "guest\n"
    "                     does and deflate before it kills, two do not deflate, and one says nothing\n"
    "  --no-engine P      VMs with a balloon and without memd's engine, in percent of all (default 0)\n"
    "  --troubles on|off  user's jobs, pauses, engines that do not answer (default on)\n"
    "  --record SECONDS   write a trace of the memd that MEMCTL asks, in place of all that\n"
    "  --memctl FILE      that (default: memctl)\n"
    "  --json             the report as JSON\n"
    "  --help             this text\n\n"
    "Exit codes: 0 all that must hold held, 1 it did not, or the run failed, 2 usage.\n";

struct options {
    double vms, host, overcommit, seconds, seed, idle_tax, refault_limit, stall, swap_us, swap_mbps, record,
        agents, stats, no_engine; /* these three below 0: not said */
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
        {"agents", &o->agents, 0, 100},
        {"stats", &o->stats, 0, 100},
        {"no-engine", &o->no_engine, 0, 100},
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
    int n = sim_trace_read(in, (uint64_t)o->seed, ret_vms, &seconds, error, sizeof error);
    if (in != stdin)
        fclose(in);
    if (n < 0)
        fprintf(stderr, "policy-sim: %s, %s\n", o->trace, error);
    config->seconds = o->seconds ? o->seconds : seconds;
    return n;
}

/* What is not said: made up, most have an agent; of a trace, it is as the trace has it. */
static struct sim_mix mix(const struct options *o)
{
    bool said = o->agents >= 0 || o->stats >= 0, keeps = o->trace && !said;
    double agents = o->agents >= 0 ? o->agents : said ? 0 : 60;
    double stats = o->stats >= 0 ? o->stats : said ? 0 : 20;

    return (struct sim_mix){keeps ? -1 : agents / 100, keeps ? -1 : stats / 100,
                            o->no_engine >= 0 || !o->trace ? fmax(0, o->no_engine) / 100 : -1};
}

static int simulate(const struct options *o)
{
    const struct sim_mix who = mix(o);
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
    sim_load_mix(vms, (size_t)n, &who, (uint64_t)o->seed);
    clock_t begun = clock();
    if (sim_run(&config, vms, (size_t)n, &result)) {
        fprintf(stderr, "policy-sim: out of memory\n");
        sim_load_free(vms, (size_t)n);
        return 1;
    }
    double cpu_s = (double)(clock() - begun) / CLOCKS_PER_SEC;
    json_t *report = sim_report(&result, &config, vms, (size_t)n);
    if (o->json)
        json_dumpf(report, stdout, JSON_INDENT(2)), putchar('\n');
    else
        sim_report_print(report);
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
                        .agents = -1,
                        .stats = -1,
                        .no_engine = -1,
                        .memctl = "memctl"};
    int result = read_options(argc, argv, &o);

    if (result >= 0)
        return result;
    if (fmax(0, o.agents) + fmax(0, o.stats) > 100) {
        fprintf(stderr, "policy-sim: --agents and --stats are more than all VMs; see policy-sim --help\n");
        return 2;
    }
    return o.record ? sim_record(o.memctl, (unsigned)o.record, stdout) : simulate(&o);
}
