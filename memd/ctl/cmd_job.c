/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memctl unmerge, settle, estimate, pageout, pagein: what takes the daemon a while. A POST starts a job, GET
 * .../jobs/ID waits for it in short turns, so that progress is shown (on a terminal) and Ctrl-C and the
 * time-out are noticed: both cancel the job.
 */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define TURN_MS 250

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void job_cancel(struct ctl *ctl, int64_t id)
{
    char path[CTL_PATH_BYTES];
    json_t *answer;

    snprintf(path, sizeof path, "/v1/jobs/%" PRId64, id);
    if (!ctl_http_quiet(ctl, "DELETE", path, &answer))
        json_decref(answer);
}

/* The job's last state is the caller's, on CTL_DONE. */
static enum ctl_result job_wait(struct ctl *ctl, int64_t id, const char *what, json_t **ret_job)
{
    uint64_t end_ms = ctl->timeout_s ? now_ms() + 1000ull * ctl->timeout_s : UINT64_MAX;
    char path[CTL_PATH_BYTES];
    json_t *job;

    for (;;) {
        uint64_t now = now_ms(), left_ms = now < end_ms ? end_ms - now : 0;
        snprintf(path, sizeof path, "/v1/jobs/%" PRId64 "?wait_ms=%d", id,
                 left_ms < TURN_MS ? (int)left_ms : TURN_MS);
        enum ctl_result result = ctl_http(ctl, "GET", path, NULL, &job);
        if (result) {
            job_cancel(ctl, id); /* nobody waits for it any more */
            return result;
        }
        const char *state = ctl_get_text(job, "state");
        if (!strcmp(state, "done")) {
            *ret_job = job;
            return CTL_DONE;
        }
        if (strcmp(state, "running")) {
            ctl_error(ctl, "%s failed: %s", what, ctl_get_text(job, "error"));
            json_decref(job);
            return CTL_FAILED;
        }
        bool late = now_ms() >= end_ms;
        if (ctl->interrupted || late) {
            job_cancel(ctl, id);
            ctl_error(ctl, "%s was cancelled: %s", what, ctl->interrupted ? "interrupted" : "time-out");
            json_decref(job);
            return CTL_FAILED;
        }
        ctl_progress(ctl, what, json_number_value(json_object_get(job, "progress")));
        json_decref(job);
    }
}

enum ctl_result ctl_job_run(struct ctl *ctl, const char *what, json_t *body, json_t **ret_job)
{
    char path[CTL_PATH_BYTES];
    json_t *answer;

    if (!body) {
        ctl_error(ctl, "a VM's name is not UTF-8, or memory is short");
        return CTL_FAILED;
    }
    snprintf(path, sizeof path, "/v1/%s", what);
    enum ctl_result result = ctl_http(ctl, "POST", path, body, &answer);
    json_decref(body);
    if (result)
        return result;
    int64_t id = ctl_get_int(answer, "job");
    json_decref(answer);
    result = job_wait(ctl, id, what, ret_job);
    ctl_progress_end(ctl);
    return result;
}

enum ctl_result ctl_unmerge(struct ctl *ctl)
{
    json_t *job;
    enum ctl_result result = ctl_job_run(ctl, "unmerge", json_pack("{s:s}", "vm", ctl->args[0]), &job);

    if (result)
        return result;
    json_decref(job);
    fprintf(ctl->out, "unmerged: %s\n", strcmp(ctl->args[0], "all") ? ctl->args[0] : "all VMs");
    return CTL_DONE;
}

enum ctl_result ctl_settle(struct ctl *ctl)
{
    uint64_t start_ms = now_ms();
    char took[CTL_SIZE_BYTES];
    json_t *job;
    enum ctl_result result = ctl_job_run(ctl, "settle", json_object(), &job);

    if (result)
        return result;
    json_decref(job);
    fprintf(ctl->out, "settled after %s\n", ctl_duration(took, now_ms() - start_ms));
    return CTL_DONE;
}

static void print_estimate(struct ctl *ctl, const json_t *job)
{
    char guest[CTL_SIZE_BYTES], zero[CTL_SIZE_BYTES], duplicate[CTL_SIZE_BYTES], frames[CTL_SIZE_BYTES];
    int64_t guest_bytes = ctl_get_int(job, "guest_bytes"), saves = ctl_get_int(job, "would_save_bytes");
    char text[CTL_SIZE_BYTES];

    fprintf(ctl->out, "of %s of guest memory %s are zero, and %s duplicates that need %s of frames\n",
            ctl_size(guest, guest_bytes), ctl_size(zero, ctl_get_int(job, "zero_bytes")),
            ctl_size(duplicate, ctl_get_int(job, "duplicate_bytes")),
            ctl_size(frames, ctl_get_int(job, "frame_bytes")));
    fprintf(ctl->out, "merging would save %s (%.1f%%)\n", ctl_size(text, saves),
            guest_bytes ? 100.0 * (double)saves / (double)guest_bytes : 0);
}

enum ctl_result ctl_estimate(struct ctl *ctl)
{
    json_t *names = json_array(), *job;

    for (int i = 0; i < ctl->nargs; i++)
        if (json_array_append_new(names, json_string(ctl->args[i]))) {
            ctl_error(ctl, "'%.80s' is no VM's name", ctl->args[i]);
            json_decref(names);
            return CTL_FAILED;
        }
    json_t *body = json_pack("{s:o}", "vms", names);
    enum ctl_result result = ctl_job_run(ctl, "estimate", body, &job);
    if (result)
        return result;
    if (ctl->json)
        result = ctl_print_json(ctl, job);
    else
        print_estimate(ctl, job);
    json_decref(job);
    return result;
}

static enum ctl_result page(struct ctl *ctl, const char *what, const char *done)
{
    char size[CTL_SIZE_BYTES];
    json_t *body = json_pack("{s:s}", "vm", ctl->args[0]), *job;

    if (body && ctl->bytes && json_object_set_new(body, "bytes", json_integer((json_int_t)ctl->bytes))) {
        json_decref(body);
        body = NULL;
    }
    enum ctl_result result = ctl_job_run(ctl, what, body, &job);
    if (result)
        return result;
    fprintf(ctl->out, "%s: %s %s\n", ctl->args[0], ctl_size(size, ctl_get_int(job, "paged_bytes")), done);
    json_decref(job);
    return CTL_DONE;
}

enum ctl_result ctl_pageout(struct ctl *ctl)
{
    return page(ctl, "pageout", "taken out of RAM");
}

enum ctl_result ctl_pagein(struct ctl *ctl)
{
    return page(ctl, "pagein", "brought back into RAM");
}
