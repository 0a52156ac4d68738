/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl working-set; and what memctl vm show says of a VM's working set and of how long it waited. */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <string.h>

#define IDLE_COLUMNS 3

static int64_t idle_bytes(const json_t *set, size_t i)
{
    return ctl_get_int(json_array_get(json_object_get(set, "idle"), i), "idle_bytes");
}

static size_t idle_ages(const json_t *set)
{
    return json_array_size(json_object_get(set, "idle"));
}

/* ---------------------------------------------------------------- one VM */

int ctl_working_set_print(struct ctl *ctl, const json_t *vm)
{
    const json_t *set = json_object_get(vm, "working_set");
    struct ctl_table table = {.ncolumns = 3, .right = 1 << 1 | 1 << 2};
    int64_t all = ctl_get_int(set, "samplable_bytes");
    char age[CTL_SIZE_BYTES], size[CTL_SIZE_BYTES];
    int failed = ctl_table_add(&table, "NOT TOUCHED FOR\tBYTES\tSHARE");

    for (size_t i = 0; i < idle_ages(set) && !failed; i++) {
        const json_t *idle = json_array_get(json_object_get(set, "idle"), i);
        failed = ctl_table_add(
            &table, "%s\t%s\t%.1f%%", ctl_duration(age, (uint64_t)ctl_get_int(idle, "idle_ms")),
            ctl_size(size, idle_bytes(set, i)), all ? 100.0 * (double)idle_bytes(set, i) / (double)all : 0);
    }
    if (!failed && idle_ages(set)) {
        fputc('\n', ctl->out);
        ctl_table_print(ctl, &table);
    }
    ctl_table_free(&table);
    return failed;
}

/* Microseconds, as far as they are known: buckets are powers of two. */
static const char *microseconds(char text[CTL_SIZE_BYTES], int64_t ns)
{
    snprintf(text, CTL_SIZE_BYTES, ns < 10000 ? "%.1f us" : "%.0f us", (double)ns / 1000);
    return text;
}

int ctl_latency_print(struct ctl *ctl, const json_t *vm)
{
    struct ctl_table table = {.ncolumns = 5, .right = 0x1e};
    char mean[CTL_SIZE_BYTES], p50[CTL_SIZE_BYTES], p99[CTL_SIZE_BYTES];
    const char *tier;
    json_t *latency;
    int failed = ctl_table_add(&table, "WAITED FOR\tTIMES\tMEAN\tP50\tP99");

    json_object_foreach(json_object_get(vm, "fault_latency"), tier, latency)
    {
        int64_t count = ctl_get_int(latency, "count");
        if (count)
            failed |= ctl_table_add(&table, "%s\t%" PRId64 "\t%s\t%s\t%s", tier, count,
                                    microseconds(mean, ctl_get_int(latency, "sum_ns") / count),
                                    microseconds(p50, ctl_get_int(latency, "p50_ns")),
                                    microseconds(p99, ctl_get_int(latency, "p99_ns")));
    }
    if (!failed && table.nrows > 1) {
        fputc('\n', ctl->out);
        ctl_table_print(ctl, &table);
    }
    ctl_table_free(&table);
    return failed;
}

/* ---------------------------------------------------------------- all of them */

/* The youngest age that is known, the oldest, and one between; as many columns as there are ages. */
static size_t age_of_column(size_t nages, unsigned column)
{
    return column == 0 ? 0 : column == 1 ? nages / 2 : nages - 1;
}

static unsigned columns_of(size_t nages)
{
    return nages < IDLE_COLUMNS ? (unsigned)nages : IDLE_COLUMNS;
}

/* Ages differ by how long samples have been taken: the heading has those of the VM that knows most. */
static size_t ages_of(const json_t *vms, const json_t **ret_set)
{
    const json_t *vm;
    size_t i, most = 0;

    *ret_set = NULL;
    json_array_foreach(vms, i, vm)
    {
        const json_t *set = json_object_get(vm, "working_set");
        if (idle_ages(set) > most) {
            most = idle_ages(set);
            *ret_set = set;
        }
    }
    return most;
}

static int head_add(struct ctl_table *table, const json_t *set, size_t nages)
{
    char idle[IDLE_COLUMNS][CTL_SIZE_BYTES + 8] = {"", "", ""}, age[CTL_SIZE_BYTES];

    for (unsigned c = 0; c < columns_of(nages); c++) {
        const json_t *is = json_array_get(json_object_get(set, "idle"), age_of_column(nages, c));
        snprintf(idle[c], sizeof idle[c], "IDLE %s", ctl_duration(age, (uint64_t)ctl_get_int(is, "idle_ms")));
    }
    return ctl_table_add(table, "ID\tNAME\tGUEST\tSAMPLED\tIN USE\t+/-\tOTHER\tMERGED\tWRITTEN\t%s\t%s\t%s",
                         idle[0], idle[1], idle[2]);
}

static int vm_add(struct ctl_table *table, const json_t *vm, size_t nages)
{
    const json_t *set = json_object_get(vm, "working_set");
    char text[6][CTL_SIZE_BYTES], guest[CTL_SIZE_BYTES], idle[IDLE_COLUMNS][CTL_SIZE_BYTES] = {"", "", ""};
    static const char *const keys[] = {"samplable_bytes", "bytes",        "error_bytes",
                                       "unsampled_bytes", "merged_bytes", "written_bytes"};
    bool known = ctl_get_int(set, "periods") > 0;

    for (unsigned i = 0; i < 6; i++)
        if (known)
            ctl_size(text[i], ctl_get_int(set, keys[i]));
        else
            strcpy(text[i], "-");
    for (unsigned c = 0; c < columns_of(nages); c++)
        if (age_of_column(nages, c) < idle_ages(set))
            ctl_size(idle[c], idle_bytes(set, age_of_column(nages, c)));
        else
            strcpy(idle[c], "-");
    return ctl_table_add(table, "%" PRId64 "\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s",
                         ctl_get_int(vm, "id"), ctl_get_text(vm, "name"),
                         ctl_size(guest, ctl_get_int(vm, "guest_bytes")), text[0], text[1], text[2], text[3],
                         text[4], text[5], idle[0], idle[1], idle[2]);
}

static enum ctl_result print_all(struct ctl *ctl, const json_t *vms)
{
    struct ctl_table table = {.ncolumns = 12, .right = 1 << 0 | 0x3ff << 2};
    const json_t *vm, *set;
    size_t i, nages = ages_of(vms, &set);
    int failed = head_add(&table, set, nages);

    json_array_foreach(vms, i, vm) failed |= vm_add(&table, vm, nages);
    if (failed)
        ctl_error(ctl, "out of memory");
    else
        ctl_table_print(ctl, &table);
    ctl_table_free(&table);
    return failed ? CTL_FAILED : CTL_DONE;
}

static bool has_id(const json_t *vm, const char *text)
{
    char id[24];

    snprintf(id, sizeof id, "%" PRId64, ctl_get_int(vm, "id"));
    return !strcmp(id, text);
}

/* NULL: there is none. A name counts before an id. */
static json_t *find(const json_t *vms, const char *name)
{
    json_t *vm;
    size_t i;

    json_array_foreach(vms, i, vm) if (!strcmp(ctl_get_text(vm, "name"), name)) return vm;
    json_array_foreach(vms, i, vm) if (has_id(vm, name)) return vm;
    return NULL;
}

/* Those of the command line, or all. */
static enum ctl_result select_vms(struct ctl *ctl, const json_t *all, json_t *ret_vms)
{
    for (int i = 0; i < ctl->nargs; i++) {
        json_t *vm = find(all, ctl->args[i]);
        if (!vm) {
            ctl_error(ctl, "no VM '%.80s' is connected", ctl->args[i]);
            return CTL_FAILED;
        }
        json_array_append(ret_vms, vm);
    }
    if (!ctl->nargs)
        json_array_extend(ret_vms, (json_t *)all);
    return CTL_DONE;
}

static enum ctl_result print_json(struct ctl *ctl, const json_t *vms)
{
    json_t *list = json_array(), *document, *vm;
    size_t i;

    json_array_foreach(vms, i, vm) json_array_append_new(
        list, json_pack("{s:O, s:O, s:O, s:O}", "id", json_object_get(vm, "id"), "name",
                        json_object_get(vm, "name"), "guest_bytes", json_object_get(vm, "guest_bytes"),
                        "working_set", json_object_get(vm, "working_set")));
    document = json_pack("{s:o}", "vms", list);
    enum ctl_result result = ctl_print_json(ctl, document);
    json_decref(document);
    return result;
}

enum ctl_result ctl_working_set(struct ctl *ctl)
{
    json_t *answer, *vms = json_array();
    enum ctl_result result = ctl_http(ctl, "GET", "/v1/vms", NULL, &answer);

    if (result) {
        json_decref(vms);
        return result;
    }
    result = select_vms(ctl, json_object_get(answer, "vms"), vms);
    if (!result && ctl->json)
        result = print_json(ctl, vms);
    else if (!result && !json_array_size(vms))
        fprintf(ctl->out, "no VM is connected\n");
    else if (!result)
        result = print_all(ctl, vms);
    json_decref(vms);
    json_decref(answer);
    return result;
}
