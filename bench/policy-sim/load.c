/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * load: what VMs want.
 *
 * Made up: guests of four sizes; of 20, six are steady, six idle, five go through phases, two have bursts,
 * one grows. One in five has twice the shares of its size, one in ten a reservation of half its memory, one
 * in twenty a limit a quarter above the most it uses, one in twenty is never swapped, one in fifty has next
 * to no swap file. They begin one after the other in the first tenth of the run.
 *
 * A trace is CSV with a heading that names its columns, in any order:
 *
 *   second              from the begin of the trace; rows come in its order
 *   vm                  a name
 *   guest_bytes         0: the VM ends
 *   touched_bytes       what it has ever used: in RAM, merged or not, and out
 *   working_set_bytes
 *   reservation_bytes, limit_bytes, shares, swap   optional, of the VM's first row; swap: never or allowed
 *
 * A row counts until the next one of its VM; lines that begin with # are left out.
 */
#include "bench/policy-sim/sim.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VMS_MAX    100000u
#define LINE_BYTES 512
#define FIELDS_MAX 16
#define MIB_PAGES  256.0

/* ---------------------------------------------------------------- chance */

static uint64_t next(struct sim_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15; /* splitmix64 */

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

double sim_uniform(struct sim_random *random, double from, double to)
{
    return from + (to - from) * (double)(next(random) >> 11) * 0x1p-53;
}

bool sim_happens(struct sim_random *random, double probability)
{
    return sim_uniform(random, 0, 1) < probability;
}

double sim_normal(struct sim_random *random)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += sim_uniform(random, 0, 1);
    return sum;
}

const char *sim_kind_name(enum sim_kind kind)
{
    static const char *const names[SIM_KINDS] = {"steady", "idle", "phased", "batch", "growing", "traced"};

    return names[kind];
}

/* ---------------------------------------------------------------- made up */

static void make_load(struct sim_vm *vm, size_t i, double seconds)
{
    static const struct {
        double low[2], high[2], period_s[2], churn;
    } of[SIM_KINDS] = {
        [SIM_STEADY] = {{0.25, 0.4}, {0, 0}, {0, 0}, 0.0002},
        [SIM_IDLE] = {{0.02, 0.06}, {0, 0}, {0, 0}, 0.0002},
        [SIM_PHASED] = {{0.1, 0.2}, {0.35, 0.6}, {120, 1200}, 0.0002},
        [SIM_BATCH] = {{0.04, 0.08}, {0.5, 0.8}, {300, 1200}, 0.0005},
        [SIM_GROWING] = {{0.1, 0.2}, {0.6, 0.9}, {1800, 3600}, 0.0002},
    };
    static const enum sim_kind kinds[20] = {0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 1, 2, 0, 1, 2, 0, 1, 3, 2, 4};
    enum sim_kind kind = kinds[i % 20];
    struct sim_random *r = &vm->random;

    vm->load = (struct sim_load){.kind = kind,
                                 .start_s = sim_uniform(r, 0, seconds / 10),
                                 .low = vm->guest * sim_uniform(r, of[kind].low[0], of[kind].low[1]),
                                 .high = vm->guest * sim_uniform(r, of[kind].high[0], of[kind].high[1]),
                                 .period_s = sim_uniform(r, of[kind].period_s[0], of[kind].period_s[1]),
                                 .churn = of[kind].churn};
}

void sim_load_make(struct sim_vm *vms, size_t n, double host, double overcommit, double seconds,
                   uint64_t seed)
{
    static const double sizes[] = {1, 2, 4, 8};
    double all = 0;

    for (size_t i = 0; i < n; i++) {
        struct sim_vm *vm = &vms[i];
        *vm = (struct sim_vm){.random = {seed * 1000003 + i}};
        snprintf(vm->name, sizeof vm->name, "vm%zu", i);
        vm->guest = sizes[(size_t)sim_uniform(&vm->random, 0, 4) & 3];
        all += vm->guest;
    }
    for (size_t i = 0; i < n; i++) {
        struct sim_vm *vm = &vms[i];
        struct sim_random *r = &vm->random;
        vm->guest *= host * overcommit / all;
        vm->ratio = sim_uniform(r, 0.25, 0.5);
        vm->swap_room = sim_happens(r, 0.02) ? vm->guest / 50 : vm->guest;
        make_load(vm, i, seconds);
        vm->double_shares = i / 20 % 5 == 4;
        if (vm->double_shares)
            vm->terms.shares = (uint32_t)(2 * BUDGET_SHARES_PER_MIB * vm->guest / MIB_PAGES);
        if (sim_happens(r, 0.1))
            vm->terms.reservation_bytes = (uint64_t)(vm->guest / 2 * SIM_PAGE);
        else if (vm->swap_room == vm->guest && sim_happens(r, 0.05))
            vm->terms.limit_bytes = (uint64_t)(fmax(vm->load.low, vm->load.high) * 1.25 * SIM_PAGE);
        vm->terms.swap_never = !vm->terms.limit_bytes && sim_happens(r, 0.05);
        vm->next_sample_s = vm->load.start_s + sim_uniform(r, 0, 30);
    }
}

/* How much it has used before, when it begins: most guests have filled their memory with files at some time.
 */
static void begin(struct sim_vm *vm)
{
    double used = vm->guest * sim_uniform(&vm->random, 0.6, 1);

    vm->want = vm->load.low;
    vm->touched = used > vm->want ? used : vm->want;
    vm->hot = vm->want;
    vm->cooling = vm->touched - vm->want;
}

static void make_up(struct sim_vm *vm, double now_s)
{
    const struct sim_load *l = &vm->load;
    bool was_low = vm->want <= l->low;

    if (now_s < vm->next_change_s)
        return;
    switch (l->kind) {
    case SIM_PHASED:
        vm->want = was_low ? l->high : l->low;
        vm->next_change_s = now_s + l->period_s * sim_uniform(&vm->random, 0.3, 0.7);
        break;
    case SIM_BATCH:
        vm->want = was_low ? l->high : l->low;
        vm->next_change_s = now_s + (was_low ? sim_uniform(&vm->random, 30, 120)
                                             : l->period_s * sim_uniform(&vm->random, 0.5, 1.5));
        break;
    case SIM_GROWING:
        vm->want = l->low + (l->high - l->low) * fmin(1, (now_s - l->start_s) / l->period_s);
        vm->next_change_s = now_s + 1;
        break;
    default:
        vm->want = l->low * sim_uniform(&vm->random, 0.9, 1.1);
        vm->next_change_s = now_s + 60;
        break;
    }
}

/* ---------------------------------------------------------------- traced */

static bool follow(struct sim_vm *vm, double now_s)
{
    struct sim_load *l = &vm->load;

    while (l->at + 1 < l->npoints && l->point[l->at + 1].second <= now_s)
        l->at++;
    const struct sim_point *p = &l->point[l->at];
    if (p->guest <= 0)
        return false;
    vm->guest = p->guest;
    vm->want = p->working_set < p->guest ? p->working_set : p->guest;
    if (p->touched > vm->touched) { /* used since, and not in use any more */
        vm->cooling += p->touched - vm->touched;
        vm->touched = p->touched;
    }
    return true;
}

bool sim_load_now(struct sim_vm *vm, double now_s)
{
    if (vm->load.kind == SIM_TRACED)
        return follow(vm, now_s);
    if (!vm->touched)
        begin(vm);
    make_up(vm, now_s);
    return true;
}

enum column { SECOND, VM, GUEST, TOUCHED, WORKING_SET, RESERVATION, LIMIT, SHARES, SWAP, COLUMNS };

struct reader {
    struct sim_vm *vms;
    size_t n;
    int index[COLUMNS]; /* which field of a line; -1: none */
    double second;      /* of the last row */
    uint64_t seed;
};

static size_t split(char *line, char *fields[FIELDS_MAX])
{
    size_t n = 0;

    line[strcspn(line, "\r\n")] = '\0';
    for (char *at = line; at && n < FIELDS_MAX; n++)
        fields[n] = strsep(&at, ",");
    return n;
}

static const char *read_head(struct reader *r, char *line)
{
    static const char *const names[COLUMNS] = {
        "second",      "vm",     "guest_bytes", "touched_bytes", "working_set_bytes", "reservation_bytes",
        "limit_bytes", "shares", "swap"};
    char *fields[FIELDS_MAX];
    size_t n = split(line, fields);

    for (int c = 0; c < COLUMNS; c++) {
        r->index[c] = -1;
        for (size_t f = 0; f < n; f++)
            if (!strcmp(fields[f], names[c]))
                r->index[c] = (int)f;
        if (r->index[c] < 0 && c <= WORKING_SET)
            return "the heading lacks one of second, vm, guest_bytes, touched_bytes, working_set_bytes";
    }
    return NULL;
}

static bool number(const struct reader *r, char *const *fields, enum column column, double *ret_value)
{
    char *end;

    *ret_value = 0;
    if (r->index[column] < 0)
        return true;
    const char *text = fields[r->index[column]];
    *ret_value = strtod(text, &end);
    return end != text && !*end && isfinite(*ret_value) && *ret_value >= 0 && *ret_value <= 0x1p50;
}

static struct sim_vm *find(struct reader *r, const char *name)
{
    for (size_t i = r->n; i-- > 0;)
        if (!strcmp(r->vms[i].name, name))
            return &r->vms[i];
    if (r->n == VMS_MAX)
        return NULL;
    if (!(r->n & (r->n - 1))) { /* doubled, from one on */
        struct sim_vm *grown = realloc(r->vms, (r->n ? 2 * r->n : 1) * sizeof *grown);
        if (!grown)
            return NULL;
        r->vms = grown;
    }
    struct sim_vm *vm = &r->vms[r->n];
    *vm = (struct sim_vm){.load = {.kind = SIM_TRACED}, .random = {r->seed * 1000003 + r->n}};
    snprintf(vm->name, sizeof vm->name, "%s", name);
    r->n++;
    return vm;
}

static bool add_point(struct sim_load *load, const struct sim_point *point)
{
    if (!(load->npoints & (load->npoints - 1))) {
        struct sim_point *grown =
            realloc(load->point, (load->npoints ? 2 * load->npoints : 1) * sizeof *grown);
        if (!grown)
            return false;
        load->point = grown;
    }
    load->point[load->npoints++] = *point;
    return true;
}

static const char *read_row(struct reader *r, char *line)
{
    char *fields[FIELDS_MAX];
    size_t n = split(line, fields);
    double second, guest, touched, working_set, reservation, limit, shares;

    for (int c = 0; c < COLUMNS; c++)
        if (r->index[c] >= (int)n)
            return "fields are missing";
    if (!number(r, fields, SECOND, &second) || !number(r, fields, GUEST, &guest) ||
        !number(r, fields, TOUCHED, &touched) || !number(r, fields, WORKING_SET, &working_set) ||
        !number(r, fields, RESERVATION, &reservation) || !number(r, fields, LIMIT, &limit) ||
        !number(r, fields, SHARES, &shares) || shares > BUDGET_SHARES_MAX)
        return "a number is none, or out of range";
    const char *name = fields[r->index[VM]];
    if (second < r->second)
        return "seconds go back";
    if (!*name || strlen(name) >= SIM_NAME_BYTES)
        return "a VM has no name, or one that is too long";
    r->second = second;
    struct sim_vm *vm = find(r, name);
    struct sim_point point = {second, guest / SIM_PAGE, fmin(touched, guest) / SIM_PAGE,
                              working_set / SIM_PAGE};
    if (vm && !vm->load.npoints) {
        vm->load.start_s = second;
        vm->guest = vm->swap_room = point.guest;
        vm->ratio = sim_uniform(&vm->random, 0.25, 0.5);
        vm->next_sample_s = second + sim_uniform(&vm->random, 0, 30);
        vm->terms = (struct budget_terms){.reservation_bytes = (uint64_t)reservation,
                                          .limit_bytes = (uint64_t)limit,
                                          .shares = (uint32_t)shares,
                                          .swap_never = r->index[SWAP] >= 0 &&
                                                        !strcmp(fields[r->index[SWAP]], "never")};
    }
    return vm && add_point(&vm->load, &point) ? NULL : "too many VMs, or no memory";
}

int sim_load_read(FILE *in, uint64_t seed, struct sim_vm **ret_vms, double *ret_seconds, char *ret_error,
                  size_t error_bytes)
{
    struct reader r = {.seed = seed};
    char line[LINE_BYTES];
    bool head = false;
    const char *wrong = NULL;
    unsigned at = 0;

    while (!wrong && fgets(line, sizeof line, in)) {
        at++;
        if (!strchr(line, '\n') && !feof(in))
            wrong = "the line is too long";
        else if (*line == '#' || *line == '\n')
            continue;
        else
            wrong = head ? read_row(&r, line) : read_head(&r, line);
        head = true;
    }
    if (!wrong && !r.n)
        wrong = "there is no row";
    if (wrong) {
        snprintf(ret_error, error_bytes, "line %u: %s", at, wrong);
        sim_load_free(r.vms, r.n);
        return -1;
    }
    *ret_vms = r.vms;
    *ret_seconds = r.second + 1;
    return (int)r.n;
}

void sim_load_free(struct sim_vm *vms, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(vms[i].load.point);
    free(vms);
}
