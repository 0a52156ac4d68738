/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl status, version. One GET /v1/status, shown for people or passed on as JSON. */
#include "memd/ctl/ctl.h"

#include "memd/memd.h"

#include <inttypes.h>

#define WARNING_NEWS_MS 5000

/* Per cent of `whole`, 0 of nothing. */
static double percent(int64_t part, int64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void print_daemon(struct ctl *ctl, const json_t *status)
{
    const json_t *daemon = json_object_get(status, "daemon");
    bool merge = ctl_get_bool(daemon, "merge"), settled = ctl_get_bool(daemon, "settled");
    enum ctl_colour colour = !merge ? CTL_YELLOW : settled ? CTL_GREEN : CTL_PLAIN;
    int64_t awaited = ctl_get_int(daemon, "awaited_engines");
    char uptime[CTL_SIZE_BYTES], age[CTL_SIZE_BYTES], warning[256];

    fprintf(ctl->out, "memd %s, pid %" PRId64 ", up %s, in %s: %smerging %s%s%s\n",
            ctl_get_text(daemon, "version"), ctl_get_int(daemon, "pid"),
            ctl_duration(uptime, (uint64_t)ctl_get_int(daemon, "uptime_ms")), ctl_get_text(daemon, "run_dir"),
            ctl_colour_on(ctl, colour), merge ? "on" : "off", merge && settled ? ", settled" : "",
            ctl_colour_off(ctl, colour));
    if (awaited)
        fprintf(ctl->out,
                "waiting for %" PRId64 " engine(s) of an earlier daemon; no frame is freed before\n",
                awaited);
    snprintf(warning, sizeof warning, "%s", ctl_get_text(status, "warning"));
    const json_t *budget = json_object_get(status, "budget");
    bool dry_run = ctl_get_bool(budget, "dry_run");
    if (dry_run)
        fprintf(ctl->out, "%sdry run: nothing is ordered to keep memory budgets (memctl why)%s\n",
                ctl_colour_on(ctl, CTL_YELLOW), ctl_colour_off(ctl, CTL_YELLOW));
    if (ctl_get_bool(budget, "alarm"))
        fprintf(ctl->out, "%salarm: memory is low%s (memctl budget)%s\n", ctl_colour_on(ctl, CTL_RED),
                dry_run ? "" : "; no new VM is let in", ctl_colour_off(ctl, CTL_RED));
    int64_t age_ms = ctl_get_int(status, "warning_age_ms");
    if (*warning && age_ms < WARNING_NEWS_MS)
        fprintf(ctl->out, "%swarning: %s%s\n", ctl_colour_on(ctl, CTL_RED), ctl_printable(warning),
                ctl_colour_off(ctl, CTL_RED));
    else if (*warning) /* it may be over */
        fprintf(ctl->out, "warning, %s ago: %s\n", ctl_duration(age, (uint64_t)age_ms),
                ctl_printable(warning));
}

/* Sums: a label, a size or count, an explanation. */
static int totals_add(struct ctl_table *table, const json_t *status)
{
    const json_t *totals = json_object_get(status, "totals"), *host = json_object_get(status, "host");
    int64_t guest = ctl_get_int(totals, "guest_bytes"), saved = ctl_get_int(totals, "saved_bytes");
    int64_t zero = ctl_get_int(totals, "zero_pages"), sharing = ctl_get_int(totals, "pages_sharing");
    int64_t net = ctl_get_int(totals, "net_saved_bytes");
    char a[CTL_SIZE_BYTES], b[CTL_SIZE_BYTES];
    int failed = 0;

    failed |= ctl_table_add(table, "host memory\t%s\t%s available",
                            ctl_size(a, ctl_get_int(host, "mem_total_bytes")),
                            ctl_size(b, ctl_get_int(host, "mem_available_bytes")));
    const json_t *budget = json_object_get(status, "budget");
    int64_t budget_bytes = ctl_get_int(budget, "budget_bytes");
    failed |=
        ctl_table_add(table, "used\t%s\tby VMs and memd; %s%s; memory is %s",
                      ctl_size(a, ctl_get_int(budget, "used_bytes")), budget_bytes ? "budget " : "no budget",
                      budget_bytes ? ctl_size(b, budget_bytes) : "", ctl_get_text(budget, "memory_state"));
    failed |= ctl_table_add(table, "guest memory\t%s\tin %" PRId64 " VMs", ctl_size(a, guest),
                            ctl_get_int(totals, "vms"));
    failed |=
        ctl_table_add(table, "saved\t%s\t%.1f%% of guest memory", ctl_size(a, saved), percent(saved, guest));
    failed |= ctl_table_add(table, "net\t%s\tafter frames, pools and %s of metadata", ctl_size(a, net),
                            ctl_size(b, ctl_get_int(totals, "metadata_bytes")));
    failed |= ctl_table_add(table, "zero\t%s\t%" PRId64 " pages dropped", ctl_size(a, 4096 * zero), zero);
    failed |= ctl_table_add(table, "shared\t%s\t%" PRId64 " further pages on %" PRId64 " frames",
                            ctl_size(a, 4096 * sharing), sharing, ctl_get_int(totals, "pages_shared"));
    if (ctl_get_int(totals, "page_outs"))
        failed |=
            ctl_table_add(table, "packed\t%s\tin %s of RAM; %" PRId64 " pages out and %" PRId64 " in so far",
                          ctl_size(a, 4096 * ctl_get_int(totals, "packed_pages")),
                          ctl_size(b, ctl_get_int(totals, "pool_bytes")), ctl_get_int(totals, "page_outs"),
                          ctl_get_int(totals, "page_ins"));
    if (ctl_get_int(totals, "swap_written_bytes"))
        failed |= ctl_table_add(table, "swapped\t%s\tin %s of swap files",
                                ctl_size(a, 4096 * ctl_get_int(totals, "swapped_pages")),
                                ctl_size(b, ctl_get_int(totals, "swap_bytes")));
    if (ctl_get_int(totals, "remote_outs"))
        failed |= ctl_table_add(
            table, "remote\t%s\tshared without being mapped; %" PRId64 " pages were touched",
            ctl_size(a, 4096 * ctl_get_int(totals, "remote_pages")), ctl_get_int(totals, "remote_faults"));
    if (ctl_get_int(totals, "held_faults"))
        failed |= ctl_table_add(
            table, "held back\t%" PRId64 "\taccesses to pages that were out, for %.1f s together",
            ctl_get_int(totals, "held_faults"), (double)ctl_get_int(totals, "held_ns") / 1e9);
    if (ctl_get_int(totals, "prefetched_pages"))
        failed |= ctl_table_add(
            table, "read ahead\t%s\tfrom swap files; %" PRId64 " pages were then touched, %" PRId64 " not",
            ctl_size(a, 4096 * ctl_get_int(totals, "prefetched_pages")), ctl_get_int(totals, "prefetch_used"),
            ctl_get_int(totals, "prefetch_wasted"));
    if (ctl_get_int(budget, "swap_writes_bytes"))
        failed |= ctl_table_add(table, "swap writes\t%s\tleft of %s a day",
                                ctl_size(a, ctl_get_int(budget, "swap_writes_left_bytes")),
                                ctl_size(b, ctl_get_int(budget, "swap_writes_bytes")));
    failed |= ctl_table_add(
        table, "merges\t%" PRId64 "\tand %" PRId64 " zero drops; %" PRId64 " written since",
        ctl_get_int(totals, "merges"), ctl_get_int(totals, "zero_drops"), ctl_get_int(totals, "cow_breaks"));
    failed |= ctl_table_add(table, "CPU time\t%s\tof engines and daemon",
                            ctl_duration(a, (uint64_t)ctl_get_int(totals, "cpu_ns") / 1000000));
    return failed;
}

static enum ctl_result print_status(struct ctl *ctl, const json_t *status)
{
    struct ctl_table table = {.ncolumns = 3, .right = 1 << 1, .headless = true};
    int failed = totals_add(&table, status);

    print_daemon(ctl, status);
    fputc('\n', ctl->out);
    if (!failed)
        ctl_table_print(ctl, &table);
    ctl_table_free(&table);
    if (failed || ctl_vm_table(ctl, json_object_get(status, "vms"), "\n")) {
        ctl_error(ctl, "out of memory");
        return CTL_FAILED;
    }
    return CTL_DONE;
}

enum ctl_result ctl_status(struct ctl *ctl)
{
    json_t *status;
    enum ctl_result result = ctl_http(ctl, "GET", "/v1/status", NULL, &status);

    if (result)
        return result;
    result = ctl->json ? ctl_print_json(ctl, status) : print_status(ctl, status);
    json_decref(status);
    return result;
}

enum ctl_result ctl_version(struct ctl *ctl)
{
    json_t *status;

    fprintf(ctl->out, "memctl %s\n", MEMD_VERSION);
    enum ctl_result result = ctl_http_quiet(ctl, "GET", "/v1/status", &status);
    if (result) {
        fprintf(ctl->out, "memd not running in %s\n", ctl->run_dir);
        return CTL_DONE;
    }
    const json_t *daemon = json_object_get(status, "daemon");
    fprintf(ctl->out, "memd %s, pid %" PRId64 " in %s\n", ctl_get_text(daemon, "version"),
            ctl_get_int(daemon, "pid"), ctl_get_text(daemon, "run_dir"));
    json_decref(status);
    return CTL_DONE;
}
