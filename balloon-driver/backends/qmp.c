/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qmp: the balloon of a QEMU, through a monitor of its own.
 *
 * QMP is an object per line in both directions. A monitor serves one client at a time: further ones connect
 * and wait, without a greeting, until the first has gone. One that libvirt or Proxmox works with is therefore
 * left alone: memd looks into /proc/net/unix before it connects, so that it does not even queue there, and
 * says that the monitor is taken. It keeps its own one open, for BALLOON_CHANGE.
 *
 * QEMU does not tell a target, only what the guest has got to. The device is found in the QOM tree; it may
 * come and go. Statistics need guest-stats-polling-interval: it is set if it is 0, and left alone otherwise.
 * Whether a driver is bound only x-query-virtio-status tells (QEMU 7.2 and later).
 */
#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/link.h"

#include "memd/common/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QOM_PATH_BYTES  256
#define LINES_PER_S_MAX 2000u /* what else a monitor may tell */
#define BYTES_PER_S_MAX (1u << 20)
#define DEVICES_MAX     4096u /* children of a container that are looked at */

struct qmp {
    struct link link;
    const struct balloon_ctl *ctl;
    char path[BALLOON_ADDRESS_BYTES];
    char device[QOM_PATH_BYTES]; /* "": none found */
    bool no_status;              /* this QEMU cannot tell whether there is a driver */
    unsigned static_can;         /* REPORTING and DEFLATE_ON_OOM of the device */
    uint64_t next_id;
    uint64_t stale_serial; /* of statistics of a guest that has gone: QEMU before 9.2 keeps them */
    uint64_t second_ns, second_received; /* when the current second began, and with how much received */
    unsigned second_lines;
    struct balloon_facts *facts; /* of the call under way; events change them */
};

/* ---------------------------------------------------------------- lines */

static int flood_check(struct qmp *qmp, struct balloon_error *error)
{
    uint64_t now = clock_now_ns();

    if (now - qmp->second_ns >= CLOCK_S) {
        qmp->second_ns = now;
        qmp->second_received = qmp->link.received;
        qmp->second_lines = 0;
    }
    if (++qmp->second_lines > LINES_PER_S_MAX || qmp->link.received - qmp->second_received > BYTES_PER_S_MAX)
        return balloon_fail(error, -EPROTO, "the monitor %s says more than anybody can listen to", qmp->path);
    return 0;
}

/* BALLOON_CHANGE says what is left to the guest. */
static void event_note(struct qmp *qmp, const json_t *line)
{
    uint64_t actual;

    if (!qmp->facts || strcmp(facts_text(line, "event"), "BALLOON_CHANGE") ||
        facts_get(json_object_get(line, "data"), "actual", &actual))
        return;
    qmp->facts->actual_bytes = actual;
    qmp->facts->events++;
    facts_clamp(qmp->facts);
}

/* The next line that is no event; of `link_line` errors -ETIMEDOUT is told as it is. */
static int line_next(struct qmp *qmp, uint64_t deadline_ns, bool event_is_enough, json_t **ret_line,
                     struct balloon_error *error)
{
    size_t bytes;
    char *text;

    for (;;) {
        int result = link_line(&qmp->link, deadline_ns, &text, &bytes);
        if (result)
            return link_fail(error, result, qmp->path);
        json_t *line = facts_parse(text, bytes, error);
        link_drop(&qmp->link, bytes + 1);
        if (!line)
            return -EPROTO;
        result = flood_check(qmp, error);
        if (result || !json_object_get(line, "event")) {
            if (!result)
                *ret_line = line;
            else
                json_decref(line);
            return result;
        }
        event_note(qmp, line);
        json_decref(line);
        if (event_is_enough) {
            *ret_line = NULL;
            return 0;
        }
    }
}

/* What QEMU refused. Its classes are few, its texts for people. */
static int refusal(const json_t *line, struct balloon_error *error)
{
    const json_t *said = json_object_get(line, "error");
    const char *class = facts_text(said, "class"), *text = facts_text(said, "desc");

    if (!strcmp(class, "DeviceNotActive") || !strcmp(class, "DeviceNotFound"))
        return balloon_fail(error, -ENODEV, "QEMU: %.150s", text);
    return balloon_fail(error, -ENOTSUP, "QEMU refuses: %.150s", text);
}

/* A command, with `arguments` (taken over) or NULL, and its answer. */
static int command(struct qmp *qmp, const char *name, json_t *arguments, uint64_t deadline_ns,
                   json_t **ret_value, struct balloon_error *error)
{
    json_t *line = NULL;
    char id[24];

    snprintf(id, sizeof id, "%" PRIu64, ++qmp->next_id);
    json_t *request = json_pack("{s:s, s:o*, s:s}", "execute", name, "arguments", arguments, "id", id);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!text)
        return balloon_fail(error, -ENOMEM, "out of memory");
    int result = link_send(&qmp->link, text, strlen(text), deadline_ns);
    if (!result)
        result = link_send(&qmp->link, "\n", 1, deadline_ns);
    free(text);
    if (result)
        return link_fail(error, result, qmp->path);
    result = line_next(qmp, deadline_ns, false, &line, error);
    if (result)
        return result;
    json_t *value = json_object_get(line, "return");
    if (strcmp(facts_text(line, "id"), id) || (!value && !json_object_get(line, "error")))
        result = balloon_fail(error, -EPROTO, "the monitor %s gives an answer nobody asked for", qmp->path);
    else if (!value)
        result = refusal(line, error);
    else if (ret_value)
        *ret_value = json_incref(value);
    json_decref(line);
    return result;
}

static int qom_get(struct qmp *qmp, const char *property, uint64_t deadline_ns, json_t **ret_value,
                   struct balloon_error *error)
{
    return command(qmp, "qom-get", json_pack("{s:s, s:s}", "path", qmp->device, "property", property),
                   deadline_ns, ret_value, error);
}

/* ---------------------------------------------------------------- the beginning */

/* Whether /proc/net/unix has a connection at this path. Best effort: a path the VMM gave otherwise, or
 * another network namespace, is not seen; then there is no greeting. */
static bool is_taken(const struct balloon_ctl *ctl, const char *path)
{
    char name[300], line[512];
    bool taken = false;

    snprintf(name, sizeof name, "%s/net/unix", ctl->proc_root);
    FILE *file = fopen(name, "re");
    if (!file)
        return false;
    while (!taken && fgets(line, sizeof line, file)) {
        unsigned state;
        int at = 0;
        if (sscanf(line, "%*s %*s %*s %*s %*s %x %*s %n", &state, &at) != 1 || !at || state != 3)
            continue;
        line[strcspn(line, "\n")] = 0;
        taken = !strcmp(line + at, path);
    }
    fclose(file);
    return taken;
}

static int fail_taken(struct balloon_error *error, const char *path)
{
    return balloon_fail(error, -EBUSY,
                        "another client (libvirt, Proxmox) has the monitor %s; give QEMU a second one for "
                        "memd, see docs/balloon.md",
                        path);
}

static int greet(struct qmp *qmp, struct balloon_error *error)
{
    uint64_t deadline_ns = link_deadline(qmp->ctl->call_ms);
    json_t *greeting;
    int result = line_next(qmp, deadline_ns, false, &greeting, error);

    if (result == -ETIMEDOUT && !qmp->link.received)
        return balloon_fail(
            error, -EBUSY,
            "no greeting from %s: another client (libvirt, Proxmox) has that monitor, or QEMU "
            "hangs; give it a second one for memd",
            qmp->path);
    if (result)
        return result;
    bool good = json_is_object(json_object_get(greeting, "QMP"));
    json_decref(greeting);
    if (!good)
        return balloon_fail(error, -EPROTO, "what listens at %s is no QMP monitor", qmp->path);
    return command(qmp, "qmp_capabilities", NULL, deadline_ns, NULL, error);
}

static void qmp_close(void *peer)
{
    struct qmp *qmp = peer;

    link_close(&qmp->link);
    free(qmp);
}

static int qmp_open(const struct balloon_ctl *ctl, const char *address, void **ret_peer,
                    struct balloon_error *error)
{
    if (is_taken(ctl, address))
        return fail_taken(error, address);
    struct qmp *qmp = calloc(1, sizeof *qmp);
    if (!qmp)
        return balloon_fail(error, -ENOMEM, "out of memory");
    qmp->link = (struct link)LINK_CLOSED;
    qmp->ctl = ctl;
    snprintf(qmp->path, sizeof qmp->path, "%s", address);
    int result = link_open(&qmp->link, ctl, address);
    if (result == -EAGAIN)
        result = fail_taken(error, address);
    else if (result)
        result = link_fail(error, result, address);
    else
        result = greet(qmp, error);
    if (result) {
        qmp_close(qmp);
        return result == -ENODEV || result == -ENOTSUP ? -EPROTO : result;
    }
    *ret_peer = qmp;
    return 0;
}

/* ---------------------------------------------------------------- the device */

/* A child of `container` that is a balloon, in qmp->device. -ENODEV: there is none. */
static int find_in(struct qmp *qmp, const char *container, uint64_t deadline_ns, struct balloon_error *error)
{
    static const char type[] = "child<virtio-balloon";
    json_t *children = NULL;
    int result =
        command(qmp, "qom-list", json_pack("{s:s}", "path", container), deadline_ns, &children, error);

    for (size_t i = 0; i < json_array_size(children) && i < DEVICES_MAX && !qmp->device[0]; i++) {
        const json_t *child = json_array_get(children, i);
        const char *name = facts_text(child, "name");
        if (strncmp(facts_text(child, "type"), type, sizeof type - 1) || !*name)
            continue;
        int length = snprintf(qmp->device, sizeof qmp->device, "%s/%s", container, name);
        if (length < 0 || (size_t)length >= sizeof qmp->device)
            qmp->device[0] = 0; /* nobody calls a device so */
    }
    json_decref(children);
    if (result == -ENOTSUP || (!result && !qmp->device[0]))
        return balloon_fail(error, -ENODEV,
                            "QEMU has no virtio-balloon device; give it -device virtio-balloon-pci");
    return result;
}

/* A property that is true, of those a device need not have. */
static int option_get(struct qmp *qmp, const char *property, enum balloon_can can, uint64_t deadline_ns,
                      struct balloon_error *error)
{
    json_t *value = NULL;
    int result = qom_get(qmp, property, deadline_ns, &value, error);

    if (json_is_true(value))
        qmp->static_can |= can;
    json_decref(value);
    return result == -ENOTSUP || result == -ENODEV ? 0 : result;
}

/* Statistics on, unless somebody has set another interval. */
static int stats_on(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    static const char property[] = "guest-stats-polling-interval";
    json_t *value = NULL;
    uint64_t seconds = 1;
    int result = qom_get(qmp, property, deadline_ns, &value, error);

    if (!result && (facts_number(value, &seconds) || seconds == 0))
        result = command(qmp, "qom-set",
                         json_pack("{s:s, s:s, s:I}", "path", qmp->device, "property", property, "value",
                                   (json_int_t)qmp->ctl->stats_every_s),
                         deadline_ns, NULL, error);
    json_decref(value);
    if (!result)
        qmp->static_can |= BALLOON_CAN_STATS;
    return result == -ENOTSUP || result == -ENODEV ? 0 : result;
}

static int device_find(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    int result = find_in(qmp, "/machine/peripheral", deadline_ns, error);

    if (result == -ENODEV)
        result = find_in(qmp, "/machine/peripheral-anon", deadline_ns, error);
    if (result)
        return result;
    qmp->static_can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_EVENTS;
    result = option_get(qmp, "deflate-on-oom", BALLOON_CAN_DEFLATE_ON_OOM, deadline_ns, error);
    if (!result)
        result = option_get(qmp, "free-page-reporting", BALLOON_CAN_REPORTING, deadline_ns, error);
    if (!result)
        result = stats_on(qmp, deadline_ns, error);
    if (result)
        qmp->device[0] = 0;
    return result;
}

/* ---------------------------------------------------------------- what there is to know */

static int get_ram(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    uint64_t base = 0, plugged = 0;
    json_t *value = NULL;
    int result = command(qmp, "query-memory-size-summary", NULL, deadline_ns, &value, error);

    if (!result && (facts_get(value, "base-memory", &base) || !base ||
                    facts_get(value, "plugged-memory", &plugged) == -EPROTO))
        result = balloon_fail(error, -EPROTO, "the monitor %s does not say how much RAM there is", qmp->path);
    if (!result)
        qmp->facts->ram_bytes = base + plugged;
    json_decref(value);
    return result;
}

static int get_actual(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    json_t *value = NULL;
    int result = command(qmp, "query-balloon", NULL, deadline_ns, &value, error);

    if (!result && facts_get(value, "actual", &qmp->facts->actual_bytes))
        result = balloon_fail(error, -EPROTO, "the monitor %s does not say where the balloon is", qmp->path);
    json_decref(value);
    if (result == -ENODEV || result == -ENOTSUP) {
        qmp->device[0] = 0; /* unplugged; or KVM without a synchronous MMU */
        return balloon_fail(error, -ENODEV, "QEMU has no virtio-balloon device that is active");
    }
    return result;
}

/* Without an answer it is not known whether there is a driver. */
static int get_driver(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    static const char driver_ok[] = "VIRTIO_CONFIG_S_DRIVER_OK";
    char path[QOM_PATH_BYTES + 16];
    json_t *value = NULL, *item;
    bool bound = false;
    size_t i;

    snprintf(path, sizeof path, "%s/virtio-backend", qmp->device);
    int result =
        command(qmp, "x-query-virtio-status", json_pack("{s:s}", "path", path), deadline_ns, &value, error);
    const json_t *list = json_object_get(json_object_get(value, "status"), "statuses");
    qmp->no_status = result || !json_is_array(list);
    json_array_foreach(list, i, item)
    {
        const char *text = json_string_value(item);
        bound |= text && !strncmp(text, driver_ok, sizeof driver_ok - 1);
    }
    json_decref(value);
    qmp->facts->no_driver = !qmp->no_status && !bound;
    /* after a reset QEMU goes on saying where the balloon was; the guest has everything */
    if (qmp->facts->no_driver)
        qmp->facts->actual_bytes = qmp->facts->ram_bytes;
    return result == -ENOTSUP || result == -ENODEV ? 0 : result;
}

/* Without an answer it stays here. */
static int get_migration(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    static const char *const over[] = {"", "none", "completed", "failed", "cancelled"};
    json_t *value = NULL;
    int result = command(qmp, "query-migrate", NULL, deadline_ns, &value, error);
    const char *status = facts_text(value, "status");

    qmp->facts->migrating = true;
    for (size_t i = 0; i < sizeof over / sizeof over[0]; i++)
        if (!strcmp(status, over[i]))
            qmp->facts->migrating = false;
    json_decref(value);
    return result == -ENOTSUP || result == -ENODEV ? 0 : result;
}

static int get_stats(struct qmp *qmp, uint64_t deadline_ns, struct balloon_error *error)
{
    static const char *const keys[MEMD_BALLOON_TAGS] = {
        "stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
        "stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
        "stat-htlb-pgalloc", "stat-htlb-pgfail",  "stat-oom-kills",        "stat-alloc-stalls",
        "stat-async-scans",  "stat-direct-scans", "stat-async-reclaims",   "stat-direct-reclaims"};
    json_t *value = NULL;
    uint64_t updated;
    int result = qom_get(qmp, "guest-stats", deadline_ns, &value, error);

    if (result == -ENOTSUP || result == -ENODEV)
        return 0;
    if (!result) {
        facts_clear_stats(qmp->facts);
        if (facts_get(value, "last-update", &updated))
            updated = 0;
        if (qmp->facts->no_driver)
            qmp->stale_serial = updated;
        if (updated && updated != qmp->stale_serial) {
            qmp->facts->stats_serial = updated;
            facts_stats(json_object_get(value, "stats"), keys, qmp->facts->stats);
        }
    }
    json_decref(value);
    return result;
}

static int qmp_refresh(void *peer, bool quick, struct balloon_facts *facts, struct balloon_error *error)
{
    struct qmp *qmp = peer;
    uint64_t deadline_ns = link_deadline(qmp->ctl->call_ms);
    int result = 0;

    qmp->facts = facts;
    if (!qmp->device[0])
        quick = false;
    if (!quick)
        result = get_ram(qmp, deadline_ns, error);
    if (!result && !qmp->device[0])
        result = device_find(qmp, deadline_ns, error);
    if (!result)
        result = get_actual(qmp, deadline_ns, error);
    if (!result && !quick)
        result = get_driver(qmp, deadline_ns, error);
    if (!result && !quick)
        result = get_migration(qmp, deadline_ns, error);
    if (!result && !quick && qmp->static_can & BALLOON_CAN_STATS)
        result = get_stats(qmp, deadline_ns, error);
    if (!result)
        facts->can = qmp->static_can | (qmp->no_status ? 0 : BALLOON_CAN_DRIVER);
    facts->pid = link_peer_pid(&qmp->link);
    qmp->facts = NULL;
    /* what a command does not know has been dealt with above */
    return result == -ENOTSUP ? -EPROTO : result;
}

static int qmp_set(void *peer, uint64_t bytes, struct balloon_facts *facts, struct balloon_error *error)
{
    struct qmp *qmp = peer;

    qmp->facts = facts;
    int result = command(qmp, "balloon", json_pack("{s:I}", "value", (json_int_t)bytes),
                         link_deadline(qmp->ctl->call_ms), NULL, error);
    if (!result)
        facts->target_bytes = bytes;
    qmp->facts = NULL;
    return result;
}

static int qmp_wait(void *peer, unsigned ms, struct balloon_facts *facts, struct balloon_error *error)
{
    struct qmp *qmp = peer;
    json_t *line = NULL;
    int result = 0;

    qmp->facts = facts;
    if (qmp->link.start == qmp->link.filled) {
        result = link_wait(&qmp->link, qmp->ctl->wake_fd, link_deadline(ms));
        if (result <= 0) {
            qmp->facts = NULL;
            return result ? link_fail(error, result, qmp->path) : 0;
        }
    }
    /* a line that has begun ends soon */
    result = line_next(qmp, link_deadline(qmp->ctl->call_ms), true, &line, error);
    if (!result && line)
        result = balloon_fail(error, -EPROTO, "the monitor %s gives an answer nobody asked for", qmp->path);
    json_decref(line);
    qmp->facts = NULL;
    return result;
}

const struct balloon_backend balloon_qmp = {
    .version = BALLOON_BACKEND_VERSION,
    .size = sizeof(struct balloon_backend),
    .scheme = "qmp",
    .can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS | BALLOON_CAN_REPORTING |
           BALLOON_CAN_DEFLATE_ON_OOM | BALLOON_CAN_EVENTS | BALLOON_CAN_DRIVER,
    .check = balloon_check_path,
    .open = qmp_open,
    .refresh = qmp_refresh,
    .set = qmp_set,
    .wait = qmp_wait,
    .close = qmp_close,
};
