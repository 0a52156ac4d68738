/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * trace: what VMs want, read from a file.
 *
 * A trace is CSV with a heading that names its columns, in any order:
 *
 *   second              from the begin of the trace; rows come in its order
 *   vm                  a name
 *   guest_bytes         0: the VM ends
 *   touched_bytes       what it has ever used: in RAM, merged or not, and out
 *   working_set_bytes
 *   needed_bytes        optional: what its processes hold, and its kernel cannot drop; empty: not known
 *   reservation_bytes, limit_bytes, shares, swap   optional, of the VM's first row; swap: never or allowed
 *   balloon, balloon_min_bytes, engine   the same; balloon: none, mute, risky, stats or agent, by who says
 *                       how the guest does; engine: yes or no
 *
 * A row counts until the next one of its VM; lines that begin with # are left out, but for one that says
 * which version this is, "# policy-sim trace 2". Without it, it is 1, which has none of needed_bytes and
 * balloons: a newer trace differs by more columns, and is refused where they might be misread.
 */
#include "bench/policy-sim/sim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VMS_MAX    100000u
#define LINE_BYTES 512
#define FIELDS_MAX 16
#define VERSION    2ul
#define VERSION_IS "# policy-sim trace "

/* ---------------------------------------------------------------- following it */

bool sim_trace_follow(struct sim_vm *vm, double now_s)
{
    struct sim_load *l = &vm->load;

    while (l->at + 1 < l->npoints && l->point[l->at + 1].second <= now_s)
        l->at++;
    const struct sim_point *p = &l->point[l->at];
    if (p->guest <= 0)
        return false;
    vm->guest = p->guest;
    vm->want = p->working_set < p->guest ? p->working_set : p->guest;
    vm->kernel.needed = p->needed;
    if (p->touched > l->touched) { /* used since, and not in use any more */
        double room = vm->guest - vm->kernel.balloon - vm->touched, more = p->touched - l->touched;
        more = more < room ? more : room > 0 ? room : 0;
        vm->cooling += more;
        vm->touched += more;
        vm->kernel.cache += l->touched ? more : 0;
        l->touched = p->touched;
    }
    return true;
}

/* ---------------------------------------------------------------- reading it */

enum column {
    SECOND,
    VM,
    GUEST,
    TOUCHED,
    WORKING_SET,
    RESERVATION,
    LIMIT,
    SHARES,
    SWAP,
    NEEDED,
    BALLOON,
    BALLOON_MIN,
    ENGINE,
    COLUMNS
};

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
        "limit_bytes", "shares", "swap",        "needed_bytes",  "balloon",           "balloon_min_bytes",
        "engine"};
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

/* What is said of a VM once. */
static bool read_terms(const struct reader *r, char *const *fields, struct sim_vm *vm)
{
    const char *swap = r->index[SWAP] < 0 ? "" : fields[r->index[SWAP]];
    const char *balloon = r->index[BALLOON] < 0 ? "none" : fields[r->index[BALLOON]];
    const char *engine = r->index[ENGINE] < 0 ? "yes" : fields[r->index[ENGINE]];
    double reservation, limit, shares, min;

    if (!number(r, fields, RESERVATION, &reservation) || !number(r, fields, LIMIT, &limit) ||
        !number(r, fields, SHARES, &shares) || shares > BUDGET_SHARES_MAX ||
        !number(r, fields, BALLOON_MIN, &min))
        return false;
    vm->kernel.speaks = sim_speaks_of(balloon);
    vm->kernel.floor = min / SIM_PAGE;
    vm->no_engine = !strcmp(engine, "no");
    vm->terms = (struct budget_terms){.reservation_bytes = (uint64_t)reservation,
                                      .limit_bytes = (uint64_t)limit,
                                      .shares = (uint32_t)shares,
                                      .swap_never = !strcmp(swap, "never")};
    return vm->kernel.speaks != SIM_SPEAKS && (vm->no_engine || !strcmp(engine, "yes"));
}

static const char *read_row(struct reader *r, char *line)
{
    char *fields[FIELDS_MAX];
    size_t n = split(line, fields);
    double second, guest, touched, working_set, needed = -1;

    for (int c = 0; c < COLUMNS; c++)
        if (r->index[c] >= (int)n)
            return "fields are missing";
    bool knows = r->index[NEEDED] >= 0 && *fields[r->index[NEEDED]];
    if (!number(r, fields, SECOND, &second) || !number(r, fields, GUEST, &guest) ||
        !number(r, fields, TOUCHED, &touched) || !number(r, fields, WORKING_SET, &working_set) ||
        (knows && !number(r, fields, NEEDED, &needed)))
        return "a number is none, or out of range";
    const char *name = fields[r->index[VM]];
    if (second < r->second)
        return "seconds go back";
    if (!*name || strlen(name) >= SIM_NAME_BYTES)
        return "a VM has no name, or one that is too long";
    r->second = second;
    struct sim_vm *vm = find(r, name);
    struct sim_point point = {second, guest / SIM_PAGE, fmin(touched, guest) / SIM_PAGE,
                              working_set / SIM_PAGE, knows ? needed / SIM_PAGE : -1};
    if (vm && !vm->load.npoints) {
        vm->load.start_s = second;
        vm->guest = vm->swap_room = point.guest;
        vm->ratio = sim_uniform(&vm->random, 0.25, 0.5);
        vm->next_sample_s = second + sim_uniform(&vm->random, 0, 30);
        if (!read_terms(r, fields, vm))
            return "what is said of the VM is out of range, or no word for it";
    }
    return vm && add_point(&vm->load, &point) ? NULL : "too many VMs, or no memory";
}

/* Of a line that begins with #. */
static const char *read_comment(const char *line)
{
    size_t n = strlen(VERSION_IS);

    return !strncmp(line, VERSION_IS, n) && strtoul(line + n, NULL, 10) > VERSION ? "the trace is too new"
                                                                                  : NULL;
}

int sim_trace_read(FILE *in, uint64_t seed, struct sim_vm **ret_vms, double *ret_seconds, char *ret_error,
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
        else if (*line == '#')
            wrong = read_comment(line);
        else if (*line != '\n') {
            wrong = head ? read_row(&r, line) : read_head(&r, line);
            head = true;
        }
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
