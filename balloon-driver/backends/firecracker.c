/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * firecracker: the balloon of a Firecracker microVM, through its API socket (docs/ballooning.md and the
 * swagger file of Firecracker).
 *
 * GET /machine-config has the RAM, GET /balloon the target and how the device was configured, and GET
 * /balloon/statistics, if statistics were switched on before the boot, where the guest is and what it says
 * of itself: they cannot be switched on later, so without them nobody knows how far the guest has got. PATCH
 * /balloon takes a size in whole MiB of balloon: the guest is left up to 1 MiB more than was asked for.
 */
#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/http.h"
#include "balloon-driver/backends/link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB 20 /* as a shift */

struct firecracker {
    const struct balloon_ctl *ctl;
    char path[BALLOON_ADDRESS_BYTES];
    bool stats; /* it was booted with statistics */
};

static void firecracker_close(void *peer)
{
    free(peer);
}

static int firecracker_open(const struct balloon_ctl *ctl, const char *address, void **ret_peer,
                            struct balloon_error *error)
{
    struct firecracker *fc = calloc(1, sizeof *fc);

    if (!fc)
        return balloon_fail(error, -ENOMEM, "out of memory");
    fc->ctl = ctl;
    snprintf(fc->path, sizeof fc->path, "%s", address);
    *ret_peer = fc;
    return 0; /* each request has a connection of its own */
}

/* What it refused; `json` is taken over. */
static int refusal(json_t *json, int result, struct balloon_error *error)
{
    balloon_fail(error, result, "Firecracker refuses: %.150s", facts_text(json, "fault_message"));
    json_decref(json);
    return result;
}

/* GET of an object. -ENODEV: 400, it has no such thing. */
static int get(struct firecracker *fc, const char *what, uint64_t deadline_ns, json_t **ret_json,
               struct balloon_error *error)
{
    json_t *json = NULL;
    unsigned status;
    int result = http_ask(fc->ctl, fc->path, "GET", what, NULL, deadline_ns, &status, &json, error);

    if (result)
        return result;
    if (status == 400)
        return refusal(json, -ENODEV, error);
    if (status != 200 || !json_is_object(json)) {
        json_decref(json);
        return balloon_fail(error, -EPROTO, "Firecracker answers GET %s with status %u", what, status);
    }
    *ret_json = json;
    return 0;
}

static int nonsense(struct balloon_error *error, const char *what)
{
    return balloon_fail(error, -EPROTO, "Firecracker's answer has no %s", what);
}

static int get_ram(struct firecracker *fc, uint64_t deadline_ns, struct balloon_facts *facts,
                   struct balloon_error *error)
{
    json_t *json = NULL;
    uint64_t mib = 0;
    int result = get(fc, "/machine-config", deadline_ns, &json, error);

    if (!result && (facts_get(json, "mem_size_mib", &mib) || !mib))
        result = nonsense(error, "mem_size_mib");
    json_decref(json);
    if (!result)
        facts->ram_bytes = mib > BALLOON_RAM_MAX >> MIB ? BALLOON_RAM_MAX : mib << MIB;
    return result == -ENODEV ? -EPROTO : result;
}

/* RAM less a balloon of so many MiB. */
static uint64_t left(const struct balloon_facts *facts, uint64_t mib)
{
    return mib >= facts->ram_bytes >> MIB ? 0 : facts->ram_bytes - (mib << MIB);
}

static int get_config(struct firecracker *fc, uint64_t deadline_ns, struct balloon_facts *facts,
                      struct balloon_error *error)
{
    json_t *json = NULL;
    uint64_t mib, seconds = 0;
    int result = get(fc, "/balloon", deadline_ns, &json, error);

    if (result == -ENODEV)
        return balloon_fail(error, -ENODEV,
                            "the microVM has no balloon device; PUT /balloon before its boot");
    if (result)
        return result;
    if (facts_get(json, "amount_mib", &mib)) {
        result = nonsense(error, "amount_mib");
    } else {
        facts->target_bytes = left(facts, mib);
        fc->stats = !facts_get(json, "stats_polling_interval_s", &seconds) && seconds;
        facts->can = BALLOON_CAN_TARGET | (fc->stats ? BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS : 0) |
                     (facts_true(json, "deflate_on_oom") ? BALLOON_CAN_DEFLATE_ON_OOM : 0) |
                     (facts_true(json, "free_page_reporting") ? BALLOON_CAN_REPORTING : 0);
    }
    json_decref(json);
    return result;
}

static int get_stats(struct firecracker *fc, uint64_t deadline_ns, struct balloon_facts *facts,
                     struct balloon_error *error)
{
    static const char *const keys[MEMD_BALLOON_TAGS] = {
        "swap_in",       "swap_out",         "major_faults", "minor_faults",        "free_memory",
        "total_memory",  "available_memory", "disk_caches",  "hugetlb_allocations", "hugetlb_failures",
        "oom_kill",      "alloc_stall",      "async_scan",   "direct_scan",         "async_reclaim",
        "direct_reclaim"};
    uint64_t stats[MEMD_BALLOON_TAGS], mib;
    json_t *json = NULL;
    int result = get(fc, "/balloon/statistics", deadline_ns, &json, error);

    if (result == -ENODEV) { /* not before the guest has sent some */
        facts_clear_stats(facts);
        facts->actual_bytes = 0;
        return 0;
    }
    if (result)
        return result;
    if (facts_get(json, "actual_mib", &mib)) {
        result = nonsense(error, "actual_mib");
    } else {
        facts->actual_bytes = left(facts, mib);
        facts_stats(json, keys, stats);
        bool some = false;
        for (unsigned i = 0; i < MEMD_BALLOON_TAGS; i++)
            some |= stats[i] != MEMD_BALLOON_NO_STAT;
        if (some && memcmp(stats, facts->stats, sizeof stats)) {
            memcpy(facts->stats, stats, sizeof stats);
            facts->stats_serial++;
        }
    }
    json_decref(json);
    return result;
}

static int firecracker_refresh(void *peer, bool quick, struct balloon_facts *facts,
                               struct balloon_error *error)
{
    struct firecracker *fc = peer;
    uint64_t deadline_ns = link_deadline(fc->ctl->call_ms);
    int result = 0;

    if (!quick)
        result = get_ram(fc, deadline_ns, facts, error);
    if (!result && !quick)
        result = get_config(fc, deadline_ns, facts, error);
    if (!result && fc->stats)
        result = get_stats(fc, deadline_ns, facts, error);
    return result;
}

static int firecracker_set(void *peer, uint64_t bytes, struct balloon_facts *facts,
                           struct balloon_error *error)
{
    struct firecracker *fc = peer;
    uint64_t mib = (facts->ram_bytes - bytes) >> MIB;
    json_t *json = NULL;
    unsigned status;
    char body[64];

    snprintf(body, sizeof body, "{\"amount_mib\": %" PRIu64 "}", mib);
    int result = http_ask(fc->ctl, fc->path, "PATCH", "/balloon", body, link_deadline(fc->ctl->call_ms),
                          &status, &json, error);
    if (result)
        return result;
    if (status == 400)
        return refusal(json, -ERANGE, error);
    json_decref(json);
    if (status != 204 && status != 200)
        return balloon_fail(error, -EPROTO, "Firecracker answers PATCH /balloon with status %u", status);
    facts->target_bytes = left(facts, mib);
    return 0;
}

const struct balloon_backend balloon_firecracker = {
    .version = BALLOON_BACKEND_VERSION,
    .size = sizeof(struct balloon_backend),
    .scheme = "firecracker",
    .can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS | BALLOON_CAN_REPORTING |
           BALLOON_CAN_DEFLATE_ON_OOM,
    .check = balloon_check_path,
    .open = firecracker_open,
    .refresh = firecracker_refresh,
    .set = firecracker_set,
    .close = firecracker_close,
};
