/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memctl balloon list, set, auto, stats, limits: the balloons of guests, by hand or by
 * the memory policy.
 *
 * A size is what the guest is left with. Setting one takes a moment, the guest's following it much longer:
 * --wait looks at the balloon until it is there, or the guest has given nothing for a while. Nothing has to
 * be undone when the waiting ends early: the target is the VMM's.
 */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TURN_MS     250
#define STALLED_MS  15000
#define NEAR_BYTES  (1 << 20) /* some VMMs count in MiB */
#define NO_BALLOONS "no VM has a balloon that memd knows of; see balloon in memd.conf(5)\n"

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static enum ctl_result balloon_path(struct ctl *ctl, char path[CTL_PATH_BYTES])
{
    const char *name = ctl->args[0];

    if (*name && !strchr(name, '/') && !ctl_http_path(path, CTL_PATH_BYTES, "/v1/balloons/", name))
        return CTL_DONE;
    ctl_error(ctl, "'%.80s' is no VM's name", name);
    return CTL_FAILED;
}

static enum ctl_result balloon_get(struct ctl *ctl, json_t **ret_balloon)
{
    char path[CTL_PATH_BYTES];
    enum ctl_result result = balloon_path(ctl, path);

    return result ? result : ctl_http(ctl, "GET", path, NULL, ret_balloon);
}

/* POST of `body`, which is taken over. */
static enum ctl_result balloon_post(struct ctl *ctl, json_t *body, json_t **ret_balloon)
{
    char path[CTL_PATH_BYTES];
    enum ctl_result result = balloon_path(ctl, path);

    if (!result && !body) {
        ctl_error(ctl, "out of memory");
        result = CTL_FAILED;
    }
    if (!result)
        result = ctl_http(ctl, "POST", path, body, ret_balloon);
    json_decref(body);
    return result;
}

/* A size, or - where it is not known (null). */
static const char *size_of(char text[CTL_SIZE_BYTES], const json_t *object, const char *key)
{
    return json_is_integer(json_object_get(object, key)) ? ctl_size(text, ctl_get_int(object, key)) : "-";
}

/* ---------------------------------------------------------------- looking */

/* A new one has not been looked at, and will not be while nothing is short. */
static const char *auto_of(const json_t *balloon)
{
    const char *rule = ctl_get_text(balloon, "auto_rule");

    return !ctl_get_bool(balloon, "auto") ? "off" : *rule ? rule : "on";
}

static int row_add(struct ctl_table *table, const json_t *balloon)
{
    char ram[CTL_SIZE_BYTES], actual[CTL_SIZE_BYTES], target[CTL_SIZE_BYTES], floor[CTL_SIZE_BYTES];

    return ctl_table_add(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", ctl_get_text(balloon, "vm"),
                         ctl_get_text(balloon, "backend"), ctl_get_text(balloon, "state"),
                         size_of(ram, balloon, "ram_bytes"), size_of(actual, balloon, "actual_bytes"),
                         size_of(target, balloon, "target_bytes"), size_of(floor, balloon, "floor_bytes"),
                         auto_of(balloon));
}

/* Why balloons are not ready, a line each. */
static void print_reasons(struct ctl *ctl, const json_t *list)
{
    const json_t *balloon;
    const char *between = "\n";
    char line[512];
    size_t i;

    json_array_foreach(list, i, balloon)
    {
        if (!*ctl_get_text(balloon, "reason"))
            continue;
        snprintf(line, sizeof line, "%s: %s", ctl_get_text(balloon, "vm"), ctl_get_text(balloon, "reason"));
        fprintf(ctl->out, "%s%s\n", between, ctl_printable(line));
        between = "";
    }
}

enum ctl_result ctl_balloon_list(struct ctl *ctl)
{
    struct ctl_table table = {.ncolumns = 8, .right = 0x78};
    json_t *answer, *balloon;
    size_t i;
    enum ctl_result result = ctl_http(ctl, "GET", "/v1/balloons", NULL, &answer);

    if (result)
        return result;
    const json_t *list = json_object_get(answer, "balloons");
    if (ctl->json) {
        result = ctl_print_json(ctl, answer);
    } else if (!json_array_size(list)) {
        fputs(NO_BALLOONS, ctl->out);
    } else {
        int failed = ctl_table_add(&table, "VM\tBACKEND\tSTATE\tRAM\tACTUAL\tTARGET\tFLOOR\tAUTO");
        json_array_foreach(list, i, balloon) failed |= row_add(&table, balloon);
        if (failed)
            ctl_error(ctl, "out of memory");
        else
            ctl_table_print(ctl, &table);
        if (!failed)
            print_reasons(ctl, list);
        result = failed ? CTL_FAILED : CTL_DONE;
        ctl_table_free(&table);
    }
    json_decref(answer);
    return result;
}

/* One statistic; sizes end in _bytes. */
static int stat_add(struct ctl_table *table, const char *key, const json_t *value)
{
    char size[CTL_SIZE_BYTES];
    size_t length = strlen(key), end = strlen("_bytes");

    if (!json_is_integer(value))
        return 0;
    if (length > end && !strcmp(key + length - end, "_bytes"))
        return ctl_table_add(table, "%.*s\t%s", (int)(length - end), key,
                             ctl_size(size, json_integer_value(value)));
    return ctl_table_add(table, "%s\t%" JSON_INTEGER_FORMAT, key, json_integer_value(value));
}

static enum ctl_result stats_print(struct ctl *ctl, const json_t *balloon)
{
    json_t *stats = json_object_get(balloon, "stats"), *value;
    struct ctl_table table = {.ncolumns = 2, .right = 2, .headless = true};
    char age[CTL_SIZE_BYTES];
    const char *key;
    int failed = 0;

    if (!json_is_integer(json_object_get(stats, "age_ms"))) {
        const char *reason = ctl_get_text(balloon, "reason");
        ctl_error(ctl, "no statistics of %.64s: %s", ctl->args[0],
                  *reason ? reason : "the guest has sent none yet, or the VMM passes none on");
        return CTL_FAILED;
    }
    json_object_foreach(stats, key, value) if (strcmp(key, "age_ms")) failed |= stat_add(&table, key, value);
    if (failed) {
        ctl_error(ctl, "out of memory");
    } else {
        ctl_table_print(ctl, &table);
        fprintf(ctl->out, "as the guest said %s ago\n",
                ctl_duration(age, (uint64_t)ctl_get_int(stats, "age_ms")));
    }
    ctl_table_free(&table);
    return failed ? CTL_FAILED : CTL_DONE;
}

enum ctl_result ctl_balloon_stats(struct ctl *ctl)
{
    json_t *balloon;
    enum ctl_result result = balloon_get(ctl, &balloon);

    if (result)
        return result;
    result = ctl->json ? ctl_print_json(ctl, json_object_get(balloon, "stats")) : stats_print(ctl, balloon);
    json_decref(balloon);
    return result;
}

enum ctl_result ctl_balloon_limits(struct ctl *ctl)
{
    char min[CTL_SIZE_BYTES], max[CTL_SIZE_BYTES], floor[CTL_SIZE_BYTES];
    json_t *balloon;
    enum ctl_result result;

    if (ctl->min_bytes < 0 && ctl->max_bytes < 0) {
        result = balloon_get(ctl, &balloon);
    } else {
        json_t *body = json_object();
        if (ctl->min_bytes >= 0)
            json_object_set_new(body, "min_bytes", json_integer(ctl->min_bytes));
        if (ctl->max_bytes >= 0)
            json_object_set_new(body, "max_bytes", json_integer(ctl->max_bytes));
        result = balloon_post(ctl, body, &balloon);
    }
    if (result)
        return result;
    if (ctl->json)
        result = ctl_print_json(ctl, balloon);
    else
        fprintf(ctl->out, "%s: min %s (floor %s), max %s\n", ctl->args[0],
                ctl_get_int(balloon, "min_bytes") ? size_of(min, balloon, "min_bytes") : "not set",
                size_of(floor, balloon, "floor_bytes"),
                ctl_get_int(balloon, "max_bytes") ? size_of(max, balloon, "max_bytes") : "not set");
    json_decref(balloon);
    return result;
}

static void auto_print(struct ctl *ctl, const json_t *balloon)
{
    char line[512];

    snprintf(line, sizeof line, "%s: auto %s (%s)", ctl_get_text(balloon, "vm"),
             ctl_get_bool(balloon, "auto") ? "on" : "off", auto_of(balloon));
    fprintf(ctl->out, "%s\n", ctl_printable(line));
}

enum ctl_result ctl_balloon_auto(struct ctl *ctl)
{
    char path[CTL_PATH_BYTES] = "/v1/balloons";
    const char *on = ctl->args[0], *vm = ctl->nargs > 1 ? ctl->args[1] : NULL;
    json_t *answer, *balloon;
    size_t i;

    if (strcmp(on, "on") && strcmp(on, "off")) {
        ctl_error(ctl, "'%.40s' is neither on nor off; see memctl --help", on);
        return CTL_USAGE;
    }
    if (vm && (!*vm || strchr(vm, '/') || ctl_http_path(path, sizeof path, "/v1/balloons/", vm))) {
        ctl_error(ctl, "'%.80s' is no VM's name", vm);
        return CTL_FAILED;
    }
    json_t *body = json_pack("{s:b}", "auto", !strcmp(on, "on"));
    if (!body) {
        ctl_error(ctl, "out of memory");
        return CTL_FAILED;
    }
    enum ctl_result result = ctl_http(ctl, "POST", path, body, &answer);
    json_decref(body);
    if (result)
        return result;
    const json_t *list = json_object_get(answer, "balloons");
    if (ctl->json)
        result = ctl_print_json(ctl, answer);
    else if (!list)
        auto_print(ctl, answer);
    else if (!json_array_size(list))
        fputs(NO_BALLOONS, ctl->out);
    else
        json_array_foreach(list, i, balloon) auto_print(ctl, balloon);
    json_decref(answer);
    return result;
}

/* ---------------------------------------------------------------- moving */

struct waiting {
    int64_t target, begun_at, last; /* bytes */
    uint64_t end_ms, moved_ms;
};

static int64_t apart(int64_t a, int64_t b)
{
    return a < b ? b - a : a - b;
}

/* Whether the waiting is over; then with which result. */
static bool wait_is_over(struct ctl *ctl, struct waiting *w, const json_t *balloon,
                         enum ctl_result *ret_result)
{
    const char *state = ctl_get_text(balloon, "state");
    bool known = json_is_integer(json_object_get(balloon, "actual_bytes"));
    int64_t actual = ctl_get_int(balloon, "actual_bytes");
    char at[CTL_SIZE_BYTES], to[CTL_SIZE_BYTES];
    uint64_t now = now_ms();

    *ret_result = CTL_FAILED;
    if (known || w->last)
        ctl_size(at, known ? actual : w->last);
    else
        strcpy(at, "an unknown size");
    ctl_size(to, w->target);
    if (known && apart(actual, w->target) <= NEAR_BYTES) {
        *ret_result = CTL_DONE;
        return true;
    }
    if (known && actual != w->last) {
        w->last = actual;
        w->moved_ms = now;
    }
    if (strcmp(state, "ready"))
        ctl_error(ctl, "stopped waiting at %s of %s: %s", at, to, ctl_get_text(balloon, "reason"));
    else if (apart(ctl_get_int(balloon, "target_bytes"), w->target) > NEAR_BYTES)
        ctl_error(ctl, "stopped waiting at %s: somebody has set another target than %s", at, to);
    else if (ctl->interrupted)
        ctl_error(ctl, "interrupted at %s; the target of %s stays", at, to);
    else if (now >= w->end_ms)
        ctl_error(ctl, "time-out at %s; the target of %s stays", at, to);
    else if (now - w->moved_ms >= STALLED_MS)
        ctl_error(ctl, "the guest stays at %s for %d s now; the target of %s stays", at, STALLED_MS / 1000,
                  to);
    else
        return false;
    return true;
}

static bool has_ability(const json_t *balloon, const char *name)
{
    const json_t *value;
    size_t i;

    json_array_foreach(json_object_get(balloon, "can"), i, value)
    {
        const char *text = json_string_value(value);
        if (text && !strcmp(text, name))
            return true;
    }
    return false;
}

/* `balloon` is replaced by what it is at the end. */
static enum ctl_result wait_for(struct ctl *ctl, json_t **balloon)
{
    const struct timespec turn = {.tv_nsec = TURN_MS * 1000000l};
    struct waiting w = {.target = ctl_get_int(*balloon, "target_bytes"),
                        .begun_at = ctl_get_int(*balloon, "actual_bytes"),
                        .last = ctl_get_int(*balloon, "actual_bytes"),
                        .end_ms = ctl->timeout_s ? now_ms() + 1000ull * ctl->timeout_s : UINT64_MAX,
                        .moved_ms = now_ms()};
    enum ctl_result result;

    if (!has_ability(*balloon, "actual")) {
        ctl_error(ctl, "the target is set, but this VMM does not say how far the guest has got");
        return CTL_FAILED;
    }
    while (!wait_is_over(ctl, &w, *balloon, &result)) {
        json_t *next;
        int64_t way = apart(w.target, w.begun_at), left = apart(w.target, w.last);
        ctl_progress(ctl, "balloon", way && left < way ? 1 - (double)left / (double)way : 0);
        nanosleep(&turn, NULL);
        result = balloon_get(ctl, &next);
        if (result)
            return result;
        json_decref(*balloon);
        *balloon = next;
    }
    ctl_progress_end(ctl);
    return result;
}

/* The size of the command line, in `body`. */
static enum ctl_result size_put(struct ctl *ctl, json_t *body)
{
    const char *text = ctl->args[1];
    uint64_t bytes;

    if (!strcmp(text, "all")) {
        json_t *balloon;
        enum ctl_result result = balloon_get(ctl, &balloon);
        if (result)
            return result;
        bytes = (uint64_t)ctl_get_int(balloon, "max_bytes");
        int64_t ram = ctl_get_int(balloon, "ram_bytes");
        if (!bytes || (ram && bytes > (uint64_t)ram))
            bytes = (uint64_t)ram;
        if (!bytes)
            ctl_error(ctl, "%s",
                      *ctl_get_text(balloon, "reason") ? ctl_get_text(balloon, "reason")
                                                       : "its RAM is not known yet; try again");
        json_decref(balloon);
        if (!bytes)
            return CTL_FAILED;
    } else if (ctl_parse_size(text, &bytes) || !bytes || bytes > INT64_MAX) {
        ctl_error(ctl, "'%.40s' is neither a size such as 2G nor all; see memctl --help", text);
        return CTL_USAGE;
    } else if (ctl_lacks_unit(bytes)) {
        ctl_error(ctl, "'%.40s' is less than 1M: is a unit missing, as in 2G? See memctl --help", text);
        return CTL_USAGE;
    }
    json_object_set_new(body, "target_bytes", json_integer((json_int_t)bytes));
    return CTL_DONE;
}

enum ctl_result ctl_balloon_set(struct ctl *ctl)
{
    char target[CTL_SIZE_BYTES], actual[CTL_SIZE_BYTES];
    json_t *body = json_object(), *balloon;
    enum ctl_result result = size_put(ctl, body);

    if (result) {
        json_decref(body);
        return result;
    }
    if (ctl->timeout_s && !ctl->wait) {
        json_decref(body);
        ctl_error(ctl, "--timeout goes with --wait; see memctl --help");
        return CTL_USAGE;
    }
    result = balloon_post(ctl, body, &balloon);
    if (result)
        return result;
    if (ctl->wait)
        result = wait_for(ctl, &balloon);
    if (!result && ctl->json)
        result = ctl_print_json(ctl, balloon);
    else if (!result)
        fprintf(ctl->out, "%s: target %s, the guest has %s\n", ctl->args[0],
                size_of(target, balloon, "target_bytes"), size_of(actual, balloon, "actual_bytes"));
    json_decref(balloon);
    return result;
}
