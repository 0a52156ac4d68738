/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cloud_hypervisor: the balloon of a Cloud Hypervisor VM, through its API socket (its OpenAPI description).
 *
 * GET vm.info says everything there is: the configured RAM and balloon, and memory_actual_size, what is left
 * of the RAM. PUT vm.resize takes the bytes the balloon is to have. There are no statistics of the guest:
 * vm.counters has none of the balloon.
 */
#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/http.h"
#include "balloon-driver/backends/link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZONES_MAX 64u

struct cloud_hypervisor {
    const struct balloon_ctl *ctl;
    char path[BALLOON_ADDRESS_BYTES];
};

static void ch_close(void *peer)
{
    free(peer);
}

static int ch_open(const struct balloon_ctl *ctl, const char *address, void **ret_peer,
                   struct balloon_error *error)
{
    struct cloud_hypervisor *ch = calloc(1, sizeof *ch);

    if (!ch)
        return balloon_fail(error, -ENOMEM, "out of memory");
    ch->ctl = ctl;
    snprintf(ch->path, sizeof ch->path, "%s", address);
    *ret_peer = ch;
    return 0; /* each request has a connection of its own */
}

/* size and hotplugged_size of an object; what is not there is 0. */
static int sum_sizes(const json_t *object, uint64_t *sum)
{
    static const char *const keys[] = {"size", "hotplugged_size"};

    for (unsigned i = 0; i < 2; i++) {
        uint64_t bytes = 0;
        const json_t *value = json_object_get(object, keys[i]);
        if (value && !json_is_null(value) && facts_number(value, &bytes))
            return -EPROTO;
        *sum += bytes;
        if (*sum > BALLOON_RAM_MAX)
            *sum = BALLOON_RAM_MAX;
    }
    return 0;
}

/* RAM of the configuration, of its zones, too. */
static int sum_ram(const json_t *memory, uint64_t *ret_bytes)
{
    const json_t *zones = json_object_get(memory, "zones");
    uint64_t sum = 0;
    int result = sum_sizes(memory, &sum);

    for (size_t i = 0; !result && i < json_array_size(zones) && i < ZONES_MAX; i++)
        result = sum_sizes(json_array_get(zones, i), &sum);
    if (!result && sum)
        *ret_bytes = sum;
    return result ? result : sum ? 0 : -EPROTO;
}

static int info_take(const json_t *info, struct balloon_facts *facts, struct balloon_error *error)
{
    const json_t *config = json_object_get(info, "config"), *balloon = json_object_get(config, "balloon");
    uint64_t size;

    if (sum_ram(json_object_get(config, "memory"), &facts->ram_bytes))
        return balloon_fail(error, -EPROTO, "Cloud Hypervisor does not say how much RAM there is");
    if (!json_is_object(balloon))
        return balloon_fail(error, -ENODEV, "the VM has no balloon device; start it with --balloon size=0");
    if (facts_get(balloon, "size", &size) || facts_get(info, "memory_actual_size", &facts->actual_bytes))
        return balloon_fail(error, -EPROTO, "Cloud Hypervisor does not say where the balloon is");
    facts->target_bytes = size < facts->ram_bytes ? facts->ram_bytes - size : 0;
    facts->can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL |
                 (facts_true(balloon, "deflate_on_oom") ? BALLOON_CAN_DEFLATE_ON_OOM : 0) |
                 (facts_true(balloon, "free_page_reporting") ? BALLOON_CAN_REPORTING : 0);
    return 0;
}

static int ch_refresh(void *peer, bool quick, struct balloon_facts *facts, struct balloon_error *error)
{
    struct cloud_hypervisor *ch = peer;
    json_t *info = NULL;
    unsigned status;

    (void)quick; /* one answer has all of it */
    int result = http_ask(ch->ctl, ch->path, "GET", "/api/v1/vm.info", NULL, link_deadline(ch->ctl->call_ms),
                          &status, &info, error);
    if (result)
        return result;
    if (status >= 400)
        result = balloon_fail(error, -ENODEV, "Cloud Hypervisor has no VM yet (status %u)", status);
    else if (status != 200 || !json_is_object(info))
        result = balloon_fail(error, -EPROTO, "Cloud Hypervisor answers GET vm.info with status %u", status);
    else
        result = info_take(info, facts, error);
    json_decref(info);
    return result;
}

static int ch_set(void *peer, uint64_t bytes, struct balloon_facts *facts, struct balloon_error *error)
{
    struct cloud_hypervisor *ch = peer;
    json_t *json = NULL;
    unsigned status;
    char body[64];

    snprintf(body, sizeof body, "{\"desired_balloon\": %" PRIu64 "}", facts->ram_bytes - bytes);
    int result = http_ask(ch->ctl, ch->path, "PUT", "/api/v1/vm.resize", body,
                          link_deadline(ch->ctl->call_ms), &status, &json, error);
    if (result)
        return result;
    json_decref(json);
    if (status >= 400)
        return balloon_fail(error, -ERANGE, "Cloud Hypervisor refuses that size (status %u)", status);
    if (status != 204 && status != 200)
        return balloon_fail(error, -EPROTO, "Cloud Hypervisor answers PUT vm.resize with status %u", status);
    facts->target_bytes = bytes;
    return 0;
}

const struct balloon_backend balloon_cloud_hypervisor = {
    .version = BALLOON_BACKEND_VERSION,
    .size = sizeof(struct balloon_backend),
    .scheme = "cloud-hypervisor",
    .can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_REPORTING | BALLOON_CAN_DEFLATE_ON_OOM,
    .check = balloon_check_path,
    .open = ch_open,
    .refresh = ch_refresh,
    .set = ch_set,
    .close = ch_close,
};
