/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl budget, vm set: what VMs may take of RAM, and what they take. */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- showing */

/* A size, or a word where 0 means that there is none. */
static const char *size_or(char text[CTL_SIZE_BYTES], int64_t bytes, const char *none)
{
    return bytes ? ctl_size(text, bytes) : none;
}

static void print_host(struct ctl *ctl, const json_t *budget)
{
    const char *state = ctl_get_text(budget, "memory_state");
    char budget_text[CTL_SIZE_BYTES], used[CTL_SIZE_BYTES], headroom[CTL_SIZE_BYTES], copy[16];
    enum ctl_colour colour = !strcmp(state, "low")    ? CTL_RED
                             : !strcmp(state, "high") ? CTL_GREEN
                                                      : CTL_YELLOW;

    snprintf(copy, sizeof copy, "%s", state);
    fprintf(ctl->out, "budget %s, used %s, head-room %s: memory is %s%s%s\n",
            size_or(budget_text, ctl_get_int(budget, "budget_bytes"), "none"),
            ctl_size(used, ctl_get_int(budget, "used_bytes")),
            ctl_size(headroom, ctl_get_int(budget, "headroom_bytes")), ctl_colour_on(ctl, colour),
            ctl_printable(copy), ctl_colour_off(ctl, colour));
    if (ctl_get_int(budget, "swap_writes_bytes"))
        fprintf(ctl->out, "swap files: %s of %s a day may be written\n",
                ctl_size(used, ctl_get_int(budget, "swap_writes_left_bytes")),
                ctl_size(budget_text, ctl_get_int(budget, "swap_writes_bytes")));
    if (ctl_get_bool(budget, "dry_run"))
        fprintf(ctl->out, "%sdry run: nothing is ordered to keep it%s\n", ctl_colour_on(ctl, CTL_YELLOW),
                ctl_colour_off(ctl, CTL_YELLOW));
    if (ctl_get_bool(budget, "alarm"))
        fprintf(ctl->out, "%salarm: %s%s\n", ctl_colour_on(ctl, CTL_RED),
                ctl_get_bool(budget, "dry_run") ? "memory is low" : "no new VM is let in where memory is low",
                ctl_colour_off(ctl, CTL_RED));
}

/* Domains that have a budget. */
static int print_domains(struct ctl *ctl, const json_t *domains)
{
    struct ctl_table table = {.ncolumns = 5, .right = 0xe};
    char budget[CTL_SIZE_BYTES], used[CTL_SIZE_BYTES], headroom[CTL_SIZE_BYTES];
    int failed = ctl_table_add(&table, "DOMAIN\tBUDGET\tUSED\tHEAD-ROOM\tSTATE");
    const json_t *domain;
    size_t i;

    json_array_foreach(domains, i, domain)
    {
        if (ctl_get_int(domain, "budget_bytes"))
            failed |= ctl_table_add(&table, "%s\t%s\t%s\t%s\t%s", ctl_get_text(domain, "name"),
                                    ctl_size(budget, ctl_get_int(domain, "budget_bytes")),
                                    ctl_size(used, ctl_get_int(domain, "used_bytes")),
                                    ctl_size(headroom, ctl_get_int(domain, "headroom_bytes")),
                                    ctl_get_text(domain, "memory_state"));
    }
    if (!failed && table.nrows > 1) {
        fputc('\n', ctl->out);
        ctl_table_print(ctl, &table);
    }
    ctl_table_free(&table);
    return failed;
}

static int print_vms(struct ctl *ctl, const json_t *vms)
{
    struct ctl_table table = {.ncolumns = 10, .right = 0x2fe};
    char guest[CTL_SIZE_BYTES], resident[CTL_SIZE_BYTES], target[CTL_SIZE_BYTES];
    char reservation[CTL_SIZE_BYTES], limit[CTL_SIZE_BYTES], writes[CTL_SIZE_BYTES], shares[16];
    const json_t *vm;
    size_t i;

    if (!json_array_size(vms))
        return 0;
    int failed = ctl_table_add(
        &table, "VM\tGUEST\tRESIDENT\tTARGET\tRESERVED\tLIMIT\tSHARES\tREFAULTS/S\tSWAP\tWRITES/DAY");
    json_array_foreach(vms, i, vm)
    {
        snprintf(shares, sizeof shares, "%" PRId64, ctl_get_int(vm, "shares"));
        failed |=
            ctl_table_add(&table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%s\t%s", ctl_get_text(vm, "name"),
                          ctl_size(guest, ctl_get_int(vm, "guest_bytes")),
                          ctl_size(resident, ctl_get_int(vm, "resident_bytes")),
                          ctl_size(target, ctl_get_int(vm, "target_bytes")),
                          size_or(reservation, ctl_get_int(vm, "reservation_bytes"), "-"),
                          size_or(limit, ctl_get_int(vm, "limit_bytes"), "-"),
                          ctl_get_int(vm, "shares") ? shares : ctl_get_text(vm, "weight_class"),
                          json_number_value(json_object_get(vm, "refaults_per_s")), ctl_get_text(vm, "swap"),
                          size_or(writes, ctl_get_int(vm, "swap_writes_bytes"), "-"));
    }
    if (!failed) {
        fputc('\n', ctl->out);
        ctl_table_print(ctl, &table);
    }
    ctl_table_free(&table);
    return failed;
}

static enum ctl_result show(struct ctl *ctl)
{
    json_t *budget;
    enum ctl_result result = ctl_http(ctl, "GET", "/v1/budget", NULL, &budget);

    if (result)
        return result;
    if (ctl->json) {
        result = ctl_print_json(ctl, budget);
    } else {
        print_host(ctl, budget);
        if (print_domains(ctl, json_object_get(budget, "domains")) ||
            print_vms(ctl, json_object_get(budget, "vms"))) {
            ctl_error(ctl, "out of memory");
            result = CTL_FAILED;
        }
    }
    json_decref(budget);
    return result;
}

/* ---------------------------------------------------------------- setting */

static enum ctl_result post(struct ctl *ctl, const char *path, json_t *body)
{
    json_t *answer;

    if (!body) {
        ctl_error(ctl, "a name is not UTF-8, or memory is short");
        return CTL_FAILED;
    }
    enum ctl_result result = ctl_http(ctl, "POST", path, body, &answer);
    json_decref(body);
    if (!result)
        json_decref(answer);
    return result;
}

/* As JSON takes it. */
static int parse_size(const char *text, uint64_t *ret_bytes)
{
    return ctl_parse_size(text, ret_bytes) || *ret_bytes > INT64_MAX ? -1 : 0;
}

static enum ctl_result set_dry_run(struct ctl *ctl)
{
    bool on = !strcmp(ctl->dry_run, "on");

    if (ctl->nargs || ctl->domain || ctl->json) {
        ctl_error(ctl, "--dry-run goes with nothing else; see memctl --help");
        return CTL_USAGE;
    }
    enum ctl_result result = post(ctl, "/v1/budget", json_pack("{s:b}", "dry_run", on));
    if (!result)
        fprintf(ctl->out, "dry run: %s\n", ctl->dry_run);
    return result;
}

enum ctl_result ctl_budget(struct ctl *ctl)
{
    char text[CTL_SIZE_BYTES];
    uint64_t bytes = 0;

    if (ctl->dry_run)
        return set_dry_run(ctl);
    if (!ctl->nargs && !ctl->domain)
        return show(ctl);
    if (!ctl->nargs) {
        ctl_error(ctl, "--domain goes with a size or off; see memctl --help");
        return CTL_USAGE;
    }
    if (ctl->json) {
        ctl_error(ctl, "--json goes without a size; see memctl --help");
        return CTL_USAGE;
    }
    if (strcmp(ctl->args[0], "off") && (parse_size(ctl->args[0], &bytes) || !bytes)) {
        ctl_error(ctl, "'%.40s' is neither a size such as 64G nor off; see memctl --help", ctl->args[0]);
        return CTL_USAGE;
    }
    if (ctl_lacks_unit(bytes)) {
        ctl_error(ctl, "a budget of '%.40s' is less than 1M: is a unit missing, as in 64G? See memctl --help",
                  ctl->args[0]);
        return CTL_USAGE;
    }
    json_t *body = json_pack("{s:I, s:s*}", "bytes", (json_int_t)bytes, "domain", ctl->domain);
    enum ctl_result result = post(ctl, "/v1/budget", body);
    if (!result)
        fprintf(ctl->out, "budget%s%s: %s\n", ctl->domain ? " of " : "", ctl->domain ? ctl->domain : "",
                size_or(text, (int64_t)bytes, "none"));
    return result;
}

/* One KEY=VALUE of the command line; 0 or -1. */
static int put_term(json_t *body, const char *word)
{
    const char *value = strchr(word, '=');
    size_t length = value ? (size_t)(value++ - word) : 0;
    uint64_t number = 0;
    char *end;

    if (!value)
        return -1;
    if (length == strlen("swap") && !strncmp(word, "swap", length))
        return strcmp(value, "never") && strcmp(value, "allowed")
                   ? -1
                   : json_object_set_new(body, "swap", json_string(value));
    if (length == strlen("shares") && !strncmp(word, "shares", length)) {
        if (!strcmp(value, "low") || !strcmp(value, "normal") || !strcmp(value, "high"))
            return json_object_set_new(body, "shares", json_string(value));
        number = strtoull(value, &end, 10);
        return *value < '0' || *value > '9' || *end || number > UINT32_MAX
                   ? -1
                   : json_object_set_new(body, "shares", json_integer((json_int_t)number));
    }
    bool reservation = length == strlen("reservation") && !strncmp(word, "reservation", length);
    bool limit = length == strlen("limit") && !strncmp(word, "limit", length);
    bool writes = length == strlen("swap-writes") && !strncmp(word, "swap-writes", length);
    if ((!reservation && !limit && !writes) || (strcmp(value, "none") && parse_size(value, &number)) ||
        (limit && ctl_lacks_unit(number)))
        return -1;
    return json_object_set_new(body,
                               limit    ? "limit_bytes"
                               : writes ? "swap_writes_bytes"
                                        : "reservation_bytes",
                               json_integer((json_int_t)number));
}

enum ctl_result ctl_vm_set(struct ctl *ctl)
{
    const char *name = ctl->args[0];
    char path[CTL_PATH_BYTES];
    json_t *body = json_object();

    if (!*name || strchr(name, '/') || ctl_http_path(path, sizeof path, "/v1/vms/", name)) {
        ctl_error(ctl, "'%.80s' is no VM's name", name);
        json_decref(body);
        return CTL_FAILED;
    }
    for (int i = 1; i < ctl->nargs; i++)
        if (put_term(body, ctl->args[i])) {
            ctl_error(ctl,
                      "'%.60s' is none of reservation=SIZE, limit=SIZE|none (at least 1M), "
                      "shares=N|low|normal|high, swap=never|allowed, "
                      "swap-writes=SIZE|none; see memctl --help",
                      ctl->args[i]);
            json_decref(body);
            return CTL_USAGE;
        }
    enum ctl_result result = post(ctl, path, body);
    if (!result)
        fprintf(ctl->out, "%s: set\n", name);
    return result;
}
