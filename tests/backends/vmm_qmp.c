/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A monitor of QEMU: see vmm.h. Between its answers are events, as there are in life. */
#include "tests/backends/vmm_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define LINE_BYTES 4096
#define DEVICE     "/machine/peripheral/balloon0"

/* A line from the other side, NUL in place of its end. */
static bool read_line(struct vmm *vmm, int fd, char line[LINE_BYTES])
{
    size_t n = 0;

    vmm_unlock(vmm);
    while (n < LINE_BYTES - 1) {
        ssize_t got = recv(fd, line + n, 1, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN && vmm_wait(vmm, fd, POLLIN))
            continue;
        if (got <= 0 || line[n] == '\n')
            break;
        n++;
    }
    vmm_lock(vmm);
    bool whole = n && n < LINE_BYTES - 1 && line[n] == '\n';
    line[n] = 0;
    return whole;
}

/* What is told of `name`, without the braces around it; NULL: an error. */
static const char *stats(struct vmm *vmm, char text[LINE_BYTES])
{
    bool known = vmm->driver && vmm->stats_interval;
    uint64_t none = UINT64_MAX, free_bytes = known ? (vmm->ram - vmm->balloon) / 2 : none;

    snprintf(text, LINE_BYTES,
             "{\"stats\": {\"stat-free-memory\": %" PRIu64 ", \"stat-total-memory\": %" PRIu64
             ", \"stat-swap-in\": %" PRIu64 ", \"stat-unheard-of\": 1}, \"last-update\": %" PRIu64 "}",
             free_bytes, known ? vmm->ram : none, none, known ? ++vmm->updates : 0);
    return text;
}

static const char *property(struct vmm *vmm, const char *name, char text[LINE_BYTES])
{
    if (!strcmp(name, "guest-stats") && vmm->stats)
        return stats(vmm, text);
    if (!strcmp(name, "guest-stats-polling-interval") && vmm->stats) {
        snprintf(text, LINE_BYTES, "%" PRIu64, vmm->stats_interval);
        return text;
    }
    if (!strcmp(name, "deflate-on-oom"))
        return vmm->deflate_on_oom ? "true" : "false";
    if (!strcmp(name, "free-page-reporting"))
        return vmm->reporting ? "true" : "false";
    return NULL;
}

static const char *list(const struct vmm *vmm, const char *path)
{
    if (strcmp(path, "/machine/peripheral") || !vmm->device)
        return "[{\"name\": \"type\", \"type\": \"string\"}]";
    return "[{\"name\": \"disk\", \"type\": \"child<virtio-blk-pci>\"}, {\"name\": \"balloon0\", \"type\": "
           "\"child<virtio-balloon-pci>\"}]";
}

/* The value of "return"; NULL: an error, whose class is in ret_class. */
static const char *execute(struct vmm *vmm, const char *name, const json_t *arguments, char text[LINE_BYTES],
                           const char **ret_class)
{
    const char *path = json_string_value(json_object_get(arguments, "path"));
    const char *what = json_string_value(json_object_get(arguments, "property"));
    json_int_t value = json_integer_value(json_object_get(arguments, "value"));

    *ret_class = "GenericError";
    vmm->requests++;
    if (!strcmp(name, "qmp_capabilities"))
        return "{}";
    if (!strcmp(name, "query-memory-size-summary")) {
        snprintf(text, LINE_BYTES, "{\"base-memory\": %" PRIu64 ", \"plugged-memory\": 0}", vmm->ram);
        return text;
    }
    if (!strcmp(name, "qom-list"))
        return list(vmm, path ? path : "");
    bool at_device = vmm->device && path && !strncmp(path, DEVICE, strlen(DEVICE));
    if (!strcmp(name, "qom-get"))
        return at_device && what ? property(vmm, what, text) : NULL;
    if (!strcmp(name, "qom-set")) {
        vmm->stats_interval = (uint64_t)value;
        return at_device ? "{}" : NULL;
    }
    if (!strcmp(name, "x-query-virtio-status") && !vmm->old)
        return !at_device    ? NULL
               : vmm->driver ? "{\"status\": {\"statuses\": [\"VIRTIO_CONFIG_S_DRIVER_OK: Driver setup\"]}}"
                             : "{\"status\": {\"statuses\": []}}";
    bool moves = !strcmp(name, "balloon");
    if (moves || !strcmp(name, "query-balloon")) {
        *ret_class = vmm->device ? "GenericError" : "DeviceNotActive";
        if (!vmm->device || (moves && value <= 0))
            return NULL;
        if (moves) {
            vmm->wanted = (uint64_t)value < vmm->ram ? vmm->ram - (uint64_t)value : 0;
            return "{}";
        }
        vmm_look(vmm);
        snprintf(text, LINE_BYTES, "{\"actual\": %" PRIu64 "}", vmm->ram - vmm->balloon);
        return text;
    }
    *ret_class = "CommandNotFound";
    return NULL;
}

/* What a monitor that lies says in place of `value`. */
static void lie_put(enum vmm_misdeed misdeed, const char *id, char lie[LINE_BYTES])
{
    static const char *const values[VMM_MISDEEDS] = {
        [VMM_WRONG_TYPES] = "[{\"base-memory\": \"all of it\"}, \"actual\", null]",
        [VMM_NEGATIVE] = "{\"base-memory\": -1, \"plugged-memory\": 0.5, \"actual\": -5}",
        [VMM_ABSURD] =
            "{\"base-memory\": 9007199254740992, \"plugged-memory\": 9007199254740992, \"actual\": "
            "9007199254740992, \"last-update\": 1e15, \"stats\": {\"stat-free-memory\": 1e300}}",
        [VMM_EMPTY] = "{}",
    };

    snprintf(lie, LINE_BYTES, "{\"return\": %s, \"id\": \"%s\"}", values[misdeed] ? values[misdeed] : "{}",
             id);
}

void vmm_serve_qmp(struct vmm *vmm, int fd)
{
    char line[LINE_BYTES], text[LINE_BYTES], answer[2 * LINE_BYTES], lie[LINE_BYTES];
    bool goes_on =
        vmm_answer(vmm, fd, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n", "{\"QMP\": 5}");

    while (goes_on && read_line(vmm, fd, line)) {
        const char *class;
        json_t *request = json_loads(line, 0, NULL);
        const char *name = json_string_value(json_object_get(request, "execute"));
        const char *id = json_string_value(json_object_get(request, "id"));
        const char *value =
            execute(vmm, name ? name : "", json_object_get(request, "arguments"), text, &class);
        const char *event = "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": -1}, \"timestamp\": {}}\r\n";
        if (value)
            snprintf(answer, sizeof answer, "%s{\"return\": %s, \"id\": \"%s\"}\r\n", event, value,
                     id ? id : "");
        else
            snprintf(answer, sizeof answer,
                     "%s{\"id\": \"%s\", \"error\": {\"class\": \"%s\", \"desc\": \"no\\u001b[31m\"}}\r\n",
                     event, id ? id : "", class);
        lie_put(vmm->misdeed, id ? id : "", lie);
        goes_on = vmm_answer(vmm, fd, answer, lie);
        json_decref(request);
    }
}
