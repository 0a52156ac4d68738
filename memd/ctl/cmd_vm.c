/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl vm list, vm show; and the table of VMs of memctl status. */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <string.h>

int ctl_vm_table(struct ctl *ctl, const json_t *vms, const char *before)
{
    struct ctl_table table = {.ncolumns = 14, .right = 1 << 0 | 1 << 2 | 0x3ff << 4};
    char guest[CTL_SIZE_BYTES], saved[CTL_SIZE_BYTES], net[CTL_SIZE_BYTES];
    char parked[CTL_SIZE_BYTES], packed[CTL_SIZE_BYTES], swapped[CTL_SIZE_BYTES], remote[CTL_SIZE_BYTES];
    const json_t *vm;
    size_t i;

    if (!json_array_size(vms))
        return 0;
    int failed = ctl_table_add(&table, "ID\tNAME\tPID\tSTATE\tGUEST\tSAVED\tNET\tZERO\tMERGED\tWRITTEN"
                                       "\tPARKED\tPACKED\tSWAPPED\tREMOTE");
    json_array_foreach(vms, i, vm)
    {
        failed |= ctl_table_add(
            &table,
            "%" PRId64 "\t%s\t%" PRId64 "\t%s\t%s\t%s\t%s\t%" PRId64 "\t%" PRId64 "\t%" PRId64
            "\t%s\t%s\t%s\t%s",
            ctl_get_int(vm, "id"), ctl_get_text(vm, "name"), ctl_get_int(vm, "pid"),
            ctl_get_text(vm, "state"), ctl_size(guest, ctl_get_int(vm, "guest_bytes")),
            ctl_size(saved, ctl_get_int(vm, "saved_bytes")),
            ctl_size(net, ctl_get_int(vm, "net_saved_bytes")), ctl_get_int(vm, "zero_pages"),
            ctl_get_int(vm, "pages_shared") + ctl_get_int(vm, "pages_sharing"),
            ctl_get_int(vm, "broken_pages"), ctl_size(parked, 4096 * ctl_get_int(vm, "parked_pages")),
            ctl_size(packed, 4096 * ctl_get_int(vm, "packed_pages")),
            ctl_size(swapped, 4096 * ctl_get_int(vm, "swapped_pages")),
            ctl_size(remote, 4096 * ctl_get_int(vm, "remote_pages")));
    }
    if (!failed) {
        fputs(before, ctl->out);
        ctl_table_print(ctl, &table);
    }
    ctl_table_free(&table);
    return failed;
}

enum ctl_result ctl_vm_list(struct ctl *ctl)
{
    json_t *answer;
    enum ctl_result result = ctl_http(ctl, "GET", "/v1/vms", NULL, &answer);

    if (result)
        return result;
    const json_t *vms = json_object_get(answer, "vms");
    if (ctl->json) {
        result = ctl_print_json(ctl, answer);
    } else if (!json_array_size(vms)) {
        fprintf(ctl->out, "no VM is connected\n");
    } else if (ctl_vm_table(ctl, vms, "")) {
        ctl_error(ctl, "out of memory");
        result = CTL_FAILED;
    }
    json_decref(answer);
    return result;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), want = strlen(end);

    return length >= want && !strcmp(text + length - want, end);
}

/* One field of any type, formatted by what its name ends in. */
static int field_add(struct ctl_table *table, const char *prefix, const char *key, const json_t *value)
{
    char text[CTL_SIZE_BYTES];

    if (json_is_string(value))
        return ctl_table_add(table, "%s%s\t%s", prefix, key, json_string_value(value));
    if (json_is_boolean(value))
        return ctl_table_add(table, "%s%s\t%s", prefix, key, json_is_true(value) ? "yes" : "no");
    json_int_t number = json_integer_value(value);
    if (!number && (!strcmp(key, "limit_bytes") || !strcmp(key, "swap_writes_bytes")))
        return ctl_table_add(table, "%s%s\tnone", prefix, key);
    if (!number && !strcmp(key, "shares")) /* see weight_class */
        return ctl_table_add(table, "%s%s\tby size", prefix, key);
    if (ends_with(key, "_ns"))
        return ctl_table_add(table, "%s%s\t%s", prefix, key, ctl_duration(text, (uint64_t)number / 1000000));
    if (ends_with(key, "_ms"))
        return ctl_table_add(table, "%s%s\t%s", prefix, key, ctl_duration(text, (uint64_t)number));
    if (ends_with(key, "_bytes") || !strcmp(key, "bytes") || !strcmp(prefix, "ineligible "))
        return ctl_table_add(table, "%s%s\t%s", prefix, key, ctl_size(text, number));
    return ctl_table_add(table, "%s%s\t%" JSON_INTEGER_FORMAT, prefix, key, number);
}

/* The numbers of an object, each under its own name with `prefix` before it; lists are shown elsewhere. */
static int fields_add(struct ctl_table *table, const char *prefix, json_t *object)
{
    const char *key;
    json_t *value;
    int failed = 0;

    json_object_foreach(object, key, value) if (json_is_integer(value)) failed |=
        field_add(table, prefix, key, value);
    return failed;
}

static enum ctl_result print_vm(struct ctl *ctl, json_t *vm)
{
    struct ctl_table table = {.ncolumns = 2};
    const char *key;
    json_t *value;
    int failed = ctl_table_add(&table, "VM\t%s", ctl_get_text(vm, "name"));

    json_object_foreach(vm, key, value)
    {
        bool known = strcmp(key, "swap_writes_left_bytes") || ctl_get_int(vm, "swap_writes_bytes");
        if (!json_is_object(value) && known)
            failed |= field_add(&table, "", key, value);
        else if (!strcmp(key, "working_set") && !ctl_get_int(value, "periods"))
            failed |= ctl_table_add(&table, "working_set\tnot known yet");
        else if (!strcmp(key, "working_set"))
            failed |= fields_add(&table, "working_set ", value);
        else if (!strcmp(key, "ineligible_bytes"))
            failed |= fields_add(&table, "ineligible ", value);
    }
    if (failed)
        ctl_error(ctl, "out of memory");
    else
        ctl_table_print(ctl, &table);
    ctl_table_free(&table);
    if (!failed && (ctl_working_set_print(ctl, vm) || ctl_latency_print(ctl, vm))) {
        ctl_error(ctl, "out of memory");
        failed = -1;
    }
    return failed ? CTL_FAILED : CTL_DONE;
}

enum ctl_result ctl_vm_show(struct ctl *ctl)
{
    char path[CTL_PATH_BYTES];
    json_t *vm;

    if (!ctl->args[0][0] || strchr(ctl->args[0], '/') || /* which the daemon would take for a longer path */
        ctl_http_path(path, sizeof path, "/v1/vms/", ctl->args[0])) {
        ctl_error(ctl, "'%.80s' is no VM's name", ctl->args[0]);
        return CTL_FAILED;
    }
    enum ctl_result result = ctl_http(ctl, "GET", path, NULL, &vm);
    if (result)
        return result;
    result = ctl->json ? ctl_print_json(ctl, vm) : print_vm(ctl, vm);
    json_decref(vm);
    return result;
}
