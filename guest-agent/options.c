/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see options.h. One table serves parser and help. */
#include "guest-agent/options.h"

#include "guest-agent/parse.h"
#include "guest-agent/talk.h"
#include "memd/memd.h"

#include <getopt.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>

enum {
    OPT_TRANSPORT = 1,
    OPT_INTERVAL,
    OPT_USER,
    OPT_SLICE,
    OPT_NO_RECLAIM,
    OPT_NO_CONSUMERS,
    OPT_PEER,
    OPT_ONCE,
    OPT_CGROUP_ROOT,
    OPT_PROC_ROOT,
    OPT_SYS_ROOT,
    OPT_DEV_ROOT,
    OPT_VERSION,
    OPT_HELP,
};

static const struct {
    const char *name, *arg, *help;
    int option;
} table[] = {
    {"transport", "WAY", "auto, serial, vsock, a device (/dev/...) or unix:PATH (default: auto)",
     OPT_TRANSPORT},
    {"interval", "MS", "between two looks at the kernel, 100 to 60000 (default: 1000)", OPT_INTERVAL},
    {"user", "USER", "who to be once everything is open, a name or a number (default: nobody)", OPT_USER},
    {"slice", "PATH", "reclaim from this cgroup and compare its children (default: the root)", OPT_SLICE},
    {"no-reclaim", NULL, "refuse to reclaim", OPT_NO_RECLAIM},
    {"no-consumers", NULL, "do not tell the names and sizes of cgroups", OPT_NO_CONSUMERS},
    {"peer", "CID", "who may connect by vsock (default: 2, the host)", OPT_PEER},
    {"once", NULL, "print what would be told, and end", OPT_ONCE},
    {"cgroup-root", "DIR", "where cgroup v2 is mounted (default: /sys/fs/cgroup)", OPT_CGROUP_ROOT},
    {"proc-root", "DIR", "look here instead of in /proc", OPT_PROC_ROOT},
    {"sys-root", "DIR", "look here instead of in /sys", OPT_SYS_ROOT},
    {"dev-root", "DIR", "look here instead of in /dev", OPT_DEV_ROOT},
    {"version", NULL, "print the version and end", OPT_VERSION},
    {"help", NULL, "print this and end", OPT_HELP},
};
#define NOPTIONS (sizeof table / sizeof table[0])

static enum options_action help(void)
{
    char usage[32];

    printf(
        "Usage: memd-agent [OPTION]...\n\n"
        "Runs in a Linux guest, tells memd on the host how the guest's memory does, and reclaims when asked "
        "to.\n\n");
    for (size_t i = 0; i < NOPTIONS; i++) {
        snprintf(usage, sizeof usage, "--%s%s%s", table[i].name, table[i].arg ? " " : "",
                 table[i].arg ? table[i].arg : "");
        printf("  %-18s %s\n", usage, table[i].help);
    }
    printf(
        "\nExit codes: 0 ended as asked, 1 failed, 2 the command line is wrong, 3 this guest has no way to "
        "its host.\n");
    return fflush(stdout) ? OPTIONS_BAD : OPTIONS_DONE;
}

static enum options_action bad(const char *what, const char *value)
{
    fprintf(stderr, "memd-agent: %s: '%.80s'; see memd-agent --help\n", what, value);
    return OPTIONS_BAD;
}

/* A number from `min` to `max`, and nothing else. */
static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    uint64_t value;
    size_t digits = parse_number(text, strlen(text), &value);

    if (!digits || text[digits] || value < min || value > max)
        return false;
    *ret_value = value;
    return true;
}

static bool transport_is_known(const char *text)
{
    return !strcmp(text, "auto") || !strcmp(text, "serial") || !strcmp(text, "vsock") || text[0] == '/' ||
           (!strncmp(text, "unix:", 5) && text[5]);
}

static enum options_action set(struct options *o, int option, const char *value)
{
    uint64_t n;

    switch (option) {
    case OPT_TRANSPORT:
        o->transport = value;
        return transport_is_known(value) ? OPTIONS_RUN : bad("--transport is no way known here", value);
    case OPT_INTERVAL:
        if (!number(value, TALK_INTERVAL_MS_MIN, TALK_INTERVAL_MS_MAX, &n))
            return bad("--interval is a number from 100 to 60000", value);
        o->interval_ms = (unsigned)n;
        return OPTIONS_RUN;
    case OPT_PEER:
        if (!number(value, 0, UINT32_MAX - 1, &n))
            return bad("--peer is a CID", value);
        o->peer_cid = (uint32_t)n;
        return OPTIONS_RUN;
    case OPT_SLICE:
        o->slice = value;
        return strstr(value, "..") ? bad("--slice is a path below the root of cgroups", value) : OPTIONS_RUN;
    case OPT_USER:
        o->user = value;
        return OPTIONS_RUN;
    case OPT_NO_RECLAIM:
        o->reclaim = false;
        return OPTIONS_RUN;
    case OPT_NO_CONSUMERS:
        o->consumers = false;
        return OPTIONS_RUN;
    case OPT_ONCE:
        o->once = true;
        return OPTIONS_RUN;
    case OPT_CGROUP_ROOT:
        o->cgroup_root = value;
        return OPTIONS_RUN;
    case OPT_PROC_ROOT:
        o->proc_root = value;
        return OPTIONS_RUN;
    case OPT_SYS_ROOT:
        o->sys_root = value;
        return OPTIONS_RUN;
    case OPT_DEV_ROOT:
        o->dev_root = value;
        return OPTIONS_RUN;
    case OPT_VERSION:
        return printf("memd-agent %s\n", MEMD_VERSION) < 0 || fflush(stdout) ? OPTIONS_BAD : OPTIONS_DONE;
    default:
        return help();
    }
}

enum options_action options_read(int argc, char *argv[], struct options *ret_options)
{
    struct option long_options[NOPTIONS + 1] = {0};
    struct options o = {.transport = "auto",
                        .user = "nobody",
                        .slice = "",
                        .cgroup_root = "/sys/fs/cgroup",
                        .proc_root = "/proc",
                        .sys_root = "/sys",
                        .dev_root = "/dev",
                        .interval_ms = TALK_INTERVAL_MS,
                        .peer_cid = VMADDR_CID_HOST,
                        .consumers = true,
                        .reclaim = true};
    int result;

    for (size_t i = 0; i < NOPTIONS; i++)
        long_options[i] = (struct option){table[i].name, table[i].arg ? required_argument : no_argument, NULL,
                                          table[i].option};
    optind = 0; /* glibc: start over, also on a second call */
    while ((result = getopt_long(argc, argv, "+:", long_options, NULL)) != -1) {
        if (result == ':')
            return bad("an option needs a value", argv[optind - 1]);
        if (result == '?')
            return bad("unknown option, or one that takes no value", argv[optind - 1]);
        enum options_action action = set(&o, result, optarg);
        if (action != OPTIONS_RUN)
            return action;
    }
    if (optind < argc)
        return bad("no such argument", argv[optind]);
    *ret_options = o;
    return OPTIONS_RUN;
}
