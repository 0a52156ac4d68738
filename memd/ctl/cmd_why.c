/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl why: the last decisions about a VM's memory, each with the rule that made it and what it went by. */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define WHEN_BYTES 24

/* Of the calendar, in local time; without the day, where `short_form`. */
static const char *when(char text[WHEN_BYTES], int64_t ms, bool short_form)
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;

    if (!localtime_r(&s, &tm) || !strftime(text, WHEN_BYTES, short_form ? "%H:%M:%S" : "%F %T", &tm))
        strcpy(text, "?");
    return text;
}

static const char *plural(int64_t n)
{
    return n == 1 ? "" : "s";
}

static double get_real(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* When, how often, and the words. */
static void print_head(struct ctl *ctl, const json_t *decision)
{
    char first[WHEN_BYTES], last[WHEN_BYTES], size[CTL_SIZE_BYTES], text[512];
    int64_t looks = ctl_get_int(decision, "looks"), orders = ctl_get_int(decision, "orders");

    fprintf(ctl->out, "\n%s%s", ctl_colour_on(ctl, CTL_BOLD),
            when(first, ctl_get_int(decision, "first_ms"), false));
    if (looks > 1)
        fprintf(ctl->out, " to %s, %" PRId64 " looks", when(last, ctl_get_int(decision, "last_ms"), true),
                looks);
    if (orders)
        fprintf(ctl->out, ", %" PRId64 " order%s of %s together%s", orders, plural(orders),
                ctl_size(size, ctl_get_int(decision, "ordered_bytes")),
                ctl_get_bool(decision, "dry_run") ? " (not given: dry run)" : "");
    snprintf(text, sizeof text, "%s", ctl_get_text(decision, "text"));
    fprintf(ctl->out, "%s\n  %s\n", ctl_colour_off(ctl, CTL_BOLD), ctl_printable(text));
}

static void print_memory(struct ctl *ctl, const json_t *decision)
{
    const json_t *memory = json_object_get(decision, "memory"), *price = json_object_get(decision, "price");
    char resident[CTL_SIZE_BYTES], target[CTL_SIZE_BYTES], set[CTL_SIZE_BYTES], reserved[CTL_SIZE_BYTES],
        limit[CTL_SIZE_BYTES];
    int64_t active = ctl_get_int(memory, "working_set_bytes"), most = ctl_get_int(memory, "limit_bytes"),
            pending = ctl_get_int(memory, "pending_bytes"), locked = ctl_get_int(memory, "ineligible_bytes");

    fprintf(ctl->out, "  has %s, target %s, working set %s",
            ctl_size(resident, ctl_get_int(memory, "resident_bytes")),
            ctl_size(target, ctl_get_int(memory, "target_bytes")),
            active ? ctl_size(set, active) : "not known");
    if (active)
        fprintf(ctl->out, " (%.0f%% idle)", get_real(price, "idle_percent"));
    fprintf(ctl->out, ", reserved %s, limit %s, shares %.0f\n",
            ctl_size(reserved, ctl_get_int(memory, "reservation_bytes")),
            most ? ctl_size(limit, most) : "none", get_real(price, "shares"));
    if (pending)
        fprintf(ctl->out, "  at an order of %s\n", ctl_size(resident, pending));
    if (locked)
        fprintf(ctl->out, "  may not leave: %s\n", ctl_size(resident, locked));
}

static void print_backoff(struct ctl *ctl, const json_t *decision)
{
    const json_t *backoff = json_object_get(decision, "backoff"),
                 *answer = json_object_get(decision, "answer");
    char at[WHEN_BYTES], asked[CTL_SIZE_BYTES], returned[CTL_SIZE_BYTES], error[80];

    fprintf(ctl->out,
            "  needs back %.1f packed and %.1f swapped pages a second; host waits %.2f%% some, %.2f%% full\n",
            get_real(backoff, "packed_refaults_per_s"), get_real(backoff, "swapped_refaults_per_s"),
            get_real(backoff, "stall_some_percent"), get_real(backoff, "stall_full_percent"));
    if (!json_is_object(answer))
        return;
    snprintf(error, sizeof error, "%s", ctl_get_text(answer, "error"));
    fprintf(ctl->out, "  last order answered %s: %s of %s%s%s\n",
            when(at, ctl_get_int(answer, "at_ms"), true),
            ctl_size(returned, ctl_get_int(answer, "returned_bytes")),
            ctl_size(asked, ctl_get_int(answer, "asked_bytes")), *error ? ", " : "", ctl_printable(error));
}

static void print(struct ctl *ctl, const json_t *why)
{
    const json_t *decisions = json_object_get(why, "decisions"), *decision;
    size_t i, n = json_array_size(decisions);

    fprintf(ctl->out, "%s in %s: %zu decision%s%s\n", ctl_get_text(why, "vm"), ctl_get_text(why, "domain"), n,
            plural((int64_t)n), n > 1 ? ", the latest first" : "");
    if (ctl_get_bool(why, "dry_run"))
        fprintf(ctl->out, "%sdry run: nothing is ordered%s\n", ctl_colour_on(ctl, CTL_YELLOW),
                ctl_colour_off(ctl, CTL_YELLOW));
    if (ctl_get_bool(why, "rests"))
        fprintf(ctl->out,
                "nothing is being decided: there is no budget and no limit, and the host has enough\n");
    json_array_foreach(decisions, i, decision)
    {
        print_head(ctl, decision);
        print_memory(ctl, decision);
        print_backoff(ctl, decision);
    }
}

enum ctl_result ctl_why(struct ctl *ctl)
{
    const char *name = ctl->args[0];
    char path[CTL_PATH_BYTES];
    json_t *why;

    if (!*name || strchr(name, '/') || ctl_http_path(path, sizeof path, "/v1/why/", name)) {
        ctl_error(ctl, "'%.80s' is no VM's name", name);
        return CTL_FAILED;
    }
    enum ctl_result result = ctl_http(ctl, "GET", path, NULL, &why);
    if (result)
        return result;
    if (ctl->json)
        result = ctl_print_json(ctl, why);
    else
        print(ctl, why);
    json_decref(why);
    return result;
}
