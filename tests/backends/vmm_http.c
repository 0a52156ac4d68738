/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The APIs of Firecracker and Cloud Hypervisor: see vmm.h. */
#include "tests/backends/vmm_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define TEXT_BYTES 4096

/* A whole request; false: it does not come. */
static bool read_request(struct vmm *vmm, int fd, char text[TEXT_BYTES], const char **ret_body)
{
    size_t n = 0, want = SIZE_MAX;

    vmm_unlock(vmm);
    while (n < want && n < TEXT_BYTES - 1) {
        ssize_t got = recv(fd, text + n, TEXT_BYTES - 1 - n, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN && vmm_wait(vmm, fd, POLLIN))
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
        text[n] = 0;
        const char *end = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
        if (end) {
            want = (size_t)(end - text) + 4 + (length ? strtoul(length + 16, NULL, 10) : 0);
            *ret_body = end + 4;
        }
    }
    vmm_lock(vmm);
    return n >= want;
}

struct response {
    unsigned status;
    char body[TEXT_BYTES];
};

__attribute__((format(printf, 3, 4))) static void respond(struct response *r, unsigned status,
                                                          const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(r->body, sizeof r->body, format, args);
    va_end(args);
    r->status = status;
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

static void firecracker_move(struct vmm *vmm, const char *body, struct response *r)
{
    json_t *json = json_loads(body, 0, NULL);
    const json_t *amount = json_object_get(json, "amount_mib");
    uint64_t bytes = (uint64_t)json_integer_value(amount) * MIB;

    if (!json_is_integer(amount) || bytes > vmm->ram || (vmm->refuse_above && bytes > vmm->refuse_above)) {
        respond(r, 400, "{\"fault_message\": \"too much\\u0007\"}");
    } else {
        vmm->wanted = bytes;
        respond(r, 204, "%s", "");
    }
    json_decref(json);
}

static void firecracker(struct vmm *vmm, const char *what, const char *body, struct response *r)
{
    if (!strcmp(what, "GET /machine-config"))
        return respond(r, 200, "{\"vcpu_count\": 1, \"mem_size_mib\": %" PRIu64 ", \"smt\": false}",
                       vmm->ram / MIB);
    if (!vmm->device)
        return respond(r, 400, "{\"fault_message\": \"Balloon device not found.\"}");
    if (!strcmp(what, "GET /balloon"))
        return respond(r, 200,
                       "{\"amount_mib\": %" PRIu64
                       ", \"deflate_on_oom\": %s, \"stats_polling_interval_s\": %d, "
                       "\"free_page_hinting\": false, \"free_page_reporting\": %s}",
                       vmm->wanted / MIB, truth(vmm->deflate_on_oom), vmm->stats, truth(vmm->reporting));
    if (!strcmp(what, "PATCH /balloon"))
        return firecracker_move(vmm, body, r);
    if (strcmp(what, "GET /balloon/statistics"))
        return respond(r, 404, "{}");
    if (!vmm->stats || !vmm->driver)
        return respond(r, 400, "{\"fault_message\": \"Statistics for the balloon device are not enabled\"}");
    vmm_look(vmm);
    respond(r, 200,
            "{\"target_pages\": %" PRIu64 ", \"actual_pages\": %" PRIu64 ", \"target_mib\": %" PRIu64
            ", \"actual_mib\": %" PRIu64 ", \"free_memory\": %" PRIu64 ", \"total_memory\": %" PRIu64 "}",
            vmm->wanted / 4096, vmm->balloon / 4096, vmm->wanted / MIB, vmm->balloon / MIB,
            (vmm->ram - vmm->balloon) / 2, vmm->ram);
}

static void cloud_hypervisor(struct vmm *vmm, const char *what, const char *body, struct response *r)
{
    char balloon[256] = "null";

    if (!strcmp(what, "PUT /api/v1/vm.resize")) {
        json_t *json = json_loads(body, 0, NULL);
        const json_t *bytes = json_object_get(json, "desired_balloon");
        uint64_t value = (uint64_t)json_integer_value(bytes);
        if (!json_is_integer(bytes) || !vmm->device || (vmm->refuse_above && value > vmm->refuse_above))
            respond(r, 500, "[\"Error from API\",\"The VM could not be resized\"]");
        else {
            vmm->wanted = value;
            respond(r, 204, "%s", "");
        }
        json_decref(json);
        return;
    }
    if (strcmp(what, "GET /api/v1/vm.info"))
        return respond(r, 404, "%s", "");
    vmm_look(vmm);
    if (vmm->device)
        snprintf(balloon, sizeof balloon,
                 "{\"size\": %" PRIu64 ", \"deflate_on_oom\": %s, \"free_page_reporting\": %s}", vmm->wanted,
                 truth(vmm->deflate_on_oom), truth(vmm->reporting));
    respond(r, 200,
            "{\"config\": {\"memory\": {\"size\": %" PRIu64 ", \"hotplugged_size\": null, \"zones\": null}, "
            "\"balloon\": %s}, \"state\": \"Running\", \"memory_actual_size\": %" PRIu64 "}",
            vmm->ram, balloon, vmm->ram - vmm->balloon);
}

static const char *const lies[VMM_MISDEEDS] = {
    [VMM_WRONG_TYPES] =
        "{\"mem_size_mib\": \"much\", \"amount_mib\": [], \"actual_mib\": null, \"config\": [1], "
        "\"memory_actual_size\": true}",
    [VMM_NEGATIVE] =
        "{\"mem_size_mib\": -1024, \"amount_mib\": 0.5, \"actual_mib\": -1, \"config\": {\"memory\": "
        "{\"size\": -1}, \"balloon\": {\"size\": -1}}, \"memory_actual_size\": -1}",
    [VMM_ABSURD] = "{\"mem_size_mib\": 9007199254740992, \"amount_mib\": 9007199254740991, \"actual_mib\": "
                   "9007199254740991, \"stats_polling_interval_s\": 1, \"free_memory\": 1e300, \"config\": "
                   "{\"memory\": {\"size\": 9007199254740992, \"hotplugged_size\": 9007199254740992}, "
                   "\"balloon\": {\"size\": 9007199254740992}}, \"memory_actual_size\": 9007199254740992}",
    [VMM_EMPTY] = "{}",
};

void vmm_serve_http(struct vmm *vmm, int fd)
{
    char text[TEXT_BYTES], answer[TEXT_BYTES + 256], what[64];
    struct response r;
    const char *body = "";

    if (!read_request(vmm, fd, text, &body))
        return;
    vmm->requests++;
    snprintf(what, sizeof what, "%.*s",
             (int)strcspn(text + strcspn(text, " ") + 1, " ") + (int)strcspn(text, " ") + 1, text);
    if (vmm->kind == VMM_FIRECRACKER)
        firecracker(vmm, what, body, &r);
    else
        cloud_hypervisor(vmm, what, body, &r);
    if (r.status == 204)
        snprintf(answer, sizeof answer, "HTTP/1.1 204 \r\nServer: test\r\nConnection: keep-alive\r\n\r\n");
    else
        snprintf(
            answer, sizeof answer,
            "HTTP/1.1 %u \r\nServer: test\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            r.status, strlen(r.body), r.body);
    const char *lie = lies[vmm->misdeed];
    vmm_answer(vmm, fd, answer, lie ? lie : "{}");
}
