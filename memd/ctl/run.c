/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * run: memctl's command line. Two tables say everything: `commands` which words, arguments and options a
 * command takes, `options` what each option is. They serve the parser, memctl --help and each command's
 * --help. Options may stand before, between and after the words.
 */
#include "memd/ctl/ctl.h"

#include "memd/memd.h"
#include "memd/wire.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_JSON = 1 << 0,
    OPT_TIMEOUT = 1 << 1,
    OPT_GUEST = 1 << 2,
    OPT_PROC = 1 << 3,
    OPT_SYS = 1 << 4,
    OPT_DEV = 1 << 5,
    OPT_BYTES = 1 << 9,
    OPT_DOMAIN = 1 << 10,
    OPT_WAIT = 1 << 11,
    OPT_MIN = 1 << 12,
    OPT_MAX = 1 << 13,
    OPT_DRY_RUN = 1 << 14,
    /* taken by every command */
    OPT_RUN_DIR = 1 << 6,
    OPT_HELP = 1 << 7,
    OPT_VERSION = 1 << 8,
    OPT_ALWAYS = OPT_RUN_DIR | OPT_HELP | OPT_VERSION,
    OPT_DOCTOR = OPT_JSON | OPT_GUEST | OPT_PROC | OPT_SYS | OPT_DEV,
};

static const struct {
    const char *name, *arg, *help;
    unsigned bit;
} options[] = {
    {"run-dir", "DIR", "the daemon's run directory (default: $MEMD_RUN_DIR, else " WIRE_RUN_DIR ")",
     OPT_RUN_DIR},
    {"json", NULL, "print JSON", OPT_JSON},
    {"timeout", "S", "give up after S seconds, 1 to 86400 (default: wait as long as it takes)", OPT_TIMEOUT},
    {"guest", "SIZE", "size of the largest guest, e.g. 16G (default: that of the daemon's, else 4G)",
     OPT_GUEST},
    {"bytes", "N", "how much, e.g. 512M (default: everything that may go)", OPT_BYTES},
    {"domain", "NAME", "of this trust domain (default: of the host)", OPT_DOMAIN},
    {"wait", NULL, "wait until the guest has got there", OPT_WAIT},
    {"min", "SIZE", "leave the guest no less than this; 0: a floor by its RAM", OPT_MIN},
    {"max", "SIZE", "and no more than this; 0: all of its RAM", OPT_MAX},
    {"dry-run", "on|off", "decide who gives memory back, and order nothing", OPT_DRY_RUN},
    {"proc", "DIR", "look here instead of /proc", OPT_PROC},
    {"sys", "DIR", "look here instead of /sys", OPT_SYS},
    {"dev", "DIR", "look here instead of /dev", OPT_DEV},
    {"help", NULL, "print this", OPT_HELP},
    {"version", NULL, "print memctl's version", OPT_VERSION},
};
#define NOPTIONS (sizeof options / sizeof options[0])

static const struct command {
    const char *word, *word2; /* word2: NULL for commands of one word */
    const char *args;
    int nargs_min, nargs_max;
    unsigned options;
    enum ctl_result (*run)(struct ctl *ctl);
    const char *help;   /* one line */
    const char *detail; /* more, for the command's --help */
} commands[] = {
    {"status", NULL, "", 0, 0, OPT_JSON, ctl_status, "what memd is doing and saves: host, sums, VMs",
     "With --json: `daemon`, `host`, `budget`, `totals`, `domains`, `vms`, `warning`, `warning_age_ms`, as "
     "GET\n"
     "/v1/status answers."},
    {"vm", "list", "", 0, 0, OPT_JSON, ctl_vm_list, "the connected VMs", ""},
    {"vm", "show", "VM", 1, 1, OPT_JSON, ctl_vm_show, "everything about one VM", "VM is a name or an id."},
    {"vm", "set", "VM KEY=VALUE...", 2, 6, 0, ctl_vm_set, "say what a VM may take of RAM",
     "reservation=SIZE: never brought below it. limit=SIZE: never left above it; none: no limit.\n"
     "shares=N: its weight when memory is short; normal (or 0): by its size, 10 per MiB; low: 5; high: 20.\n"
     "swap=never|allowed.\n"
     "swap-writes=SIZE: most that is written to its swap file in a day; none: no limit.\n"
     "Counts until the VM leaves, over restarts of memd; the configuration says it for good."},
    {"working-set", NULL, "[VM...]", 0, 1024, OPT_JSON, ctl_working_set,
     "how much of their memory VMs use, by samples",
     "SAMPLED is what samples are taken of: a VM's own memory in small pages. IN USE is what of it is "
     "touched\n"
     "within a period (memd's option sample-ms), give or take +/-. OTHER and MERGED cannot be sampled: huge\n"
     "and pinned pages and such written since they were merged; merged pages. WRITTEN is what the last "
     "round\n"
     "saw written. IDLE is what of SAMPLED is not touched for so long."},
    {"budget", NULL, "[SIZE|off]", 0, 1, OPT_JSON | OPT_DOMAIN | OPT_DRY_RUN, ctl_budget,
     "show or set what VMs and memd may take of RAM",
     "Refused if it is less than VMs have reserved. --dry-run on: who is to give memory back is decided, "
     "and\n"
     "shown by `memctl why`, but nothing is ordered and no VM refused. Both count over restarts of memd, "
     "until "
     "it\n"
     "starts without VMs; the configuration says it for good."},
    {"why", NULL, "VM", 1, 1, OPT_JSON, ctl_why, "why memory was taken from a VM, or was not",
     "The last decisions, each with the rule that made it, the state of the budget it was made for, and "
     "what\n"
     "was known of the VM. Looks that decide alike are one entry."},
    {"merge", "on", "[VM]", 0, 1, 0, ctl_merge_on, "start merging, of one VM or of all",
     "Also lets an unmerged VM merge again."},
    {"merge", "off", "[VM]", 0, 1, 0, ctl_merge_off, "stop merging, of one VM or of all",
     "What is merged stays merged; `memctl unmerge` takes it apart."},
    {"unmerge", NULL, "VM|all", 1, 1, OPT_TIMEOUT, ctl_unmerge, "give a VM (or all) its own memory back",
     "It stays unmerged until `memctl merge on`. Refused if the memory does not fit. Ctrl-C or the time-out\n"
     "cancels it: what has been unmerged stays so."},
    {"settle", NULL, "", 0, 0, OPT_TIMEOUT, ctl_settle, "wait until there is next to nothing left to merge",
     "Waits for a whole pass, begun after the question, that finds less than 0.5% of the guests' bytes "
     "newly\n"
     "mergeable."},
    {"estimate", NULL, "[VM...]", 0, 1024, OPT_JSON | OPT_TIMEOUT, ctl_estimate,
     "what merging would save, without merging", "Without names: all VMs together."},
    {"pageout", NULL, "VM", 1, 1, OPT_BYTES | OPT_TIMEOUT, ctl_pageout, "take a VM's memory out of RAM",
     "With --bytes: so much of what the VM has not written lately and does not touch within a second.\n"
     "Without: everything that may go, at once. Pages come back when they are touched, or with pagein.\n"
     "Ctrl-C or the time-out cancels it: what is out by then stays out."},
    {"pagein", NULL, "VM", 1, 1, OPT_BYTES | OPT_TIMEOUT, ctl_pagein, "bring a VM's memory back into RAM",
     "Refused if the memory does not fit. Ctrl-C or the time-out cancels it."},
    {"agent", "list", "", 0, 0, OPT_JSON, ctl_agent_list, "what agents in guests say",
     "AVAILABLE is what a guest can give out without swapping, STALLED how much of the time some task waited "
     "for\n"
     "memory, between the last two reports. STATE: live; stale (not heard lately); silent (the VM is there, "
     "its\n"
     "agent has not answered); absent (nobody is at the socket); refused."},
    {"agent", "reclaim", "VM SIZE", 2, 2, OPT_TIMEOUT, ctl_agent_reclaim,
     "have a guest free memory it can spare",
     "The guest's kernel gives up page cache, and swaps if the guest has swap. Stops when there is no more "
     "to\n"
     "be had, or after the time-out (default: 60 s), and says what it came to."},
    {"balloon", "list", "", 0, 0, OPT_JSON, ctl_balloon_list, "the balloons memd knows of",
     "Those of the configuration (memd.conf(5), balloon). RAM is what the VM has, ACTUAL what its balloon "
     "leaves\nto the guest now, TARGET what it is to leave, FLOOR what no target is below."},
    {"balloon", "set", "VM SIZE", 2, 2, OPT_JSON | OPT_WAIT | OPT_TIMEOUT, ctl_balloon_set,
     "leave a guest this much memory",
     "SIZE is what the guest is left with, as in 2G; all: everything. The guest gives memory back in its own "
     "time:\n--wait waits for it. Ctrl-C, the time-out, or a guest that gives nothing more for 15 s end the "
     "waiting;\nthe target stays."},
    {"balloon", "auto", "on|off [VM]", 1, 2, OPT_JSON, ctl_balloon_auto,
     "have memd move a balloon, or all, by its memory policy",
     "When a budget or the host is short, guests give what they can spare by their balloons; one that needs "
     "memory\ngets all of it back at once. `memctl why VM` says what is decided. Remembered over restarts of "
     "memd."},
    {"balloon", "stats", "VM", 1, 1, OPT_JSON, ctl_balloon_stats, "what a guest says of its memory", ""},
    {"balloon", "limits", "VM", 1, 1, OPT_JSON | OPT_MIN | OPT_MAX, ctl_balloon_limits,
     "show or set the limits of targets",
     "They bound what may be asked for, and move nothing. They are kept over restarts of memd, and "
     "count\nbefore those of the configuration."},
    {"doctor", NULL, "", 0, 0, OPT_DOCTOR, ctl_doctor, "check this machine for what memd needs",
     "Needs no daemon. Each line is ok, warn or fail, with the command that puts it right; exit code 1 if "
     "any\n"
     "is fail."},
    {"version", NULL, "", 0, 0, 0, ctl_version, "versions of memctl and of the daemon", ""},
};
#define NCOMMANDS (sizeof commands / sizeof commands[0])

void ctl_error(struct ctl *ctl, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ctl_progress_end(ctl);
    fprintf(ctl->err, "memctl: %s\n", ctl_printable(text));
}

/* ---------------------------------------------------------------- help */

static void help_options(FILE *out, unsigned bits)
{
    char usage[32];

    for (size_t i = 0; i < NOPTIONS; i++)
        if (options[i].bit & bits) {
            snprintf(usage, sizeof usage, "--%s%s%s", options[i].name, options[i].arg ? " " : "",
                     options[i].arg ? options[i].arg : "");
            fprintf(out, "  %-18s %s\n", usage, options[i].help);
        }
}

static void help_usage(char *text, size_t bytes, const struct command *command)
{
    snprintf(text, bytes, "%s%s%s%s%s", command->word, command->word2 ? " " : "",
             command->word2 ? command->word2 : "", command->args[0] ? " " : "", command->args);
}

static void help_all(FILE *out)
{
    char usage[64];

    fputs("Usage: memctl [OPTION]... COMMAND\n\nTalks to memd, the daemon that merges the memory of KVM "
          "guests.\n\n",
          out);
    for (size_t i = 0; i < NCOMMANDS; i++) {
        help_usage(usage, sizeof usage, &commands[i]);
        fprintf(out, "  %-24s %s\n", usage, commands[i].help);
    }
    fputs("\nOptions of every command:\n", out);
    help_options(out, OPT_ALWAYS);
    fputs("\n`memctl COMMAND --help` tells more. Exit codes: 0 done, 1 failed or timed out, 2 usage, 3 no "
          "daemon.\n",
          out);
}

static void help_command(FILE *out, const struct command *command)
{
    char usage[64];

    help_usage(usage, sizeof usage, command);
    fprintf(out, "Usage: memctl %s [OPTION]...\n\n%s: %s.\n", usage, usage, command->help);
    if (command->detail[0])
        fprintf(out, "%s\n", command->detail);
    fputc('\n', out);
    help_options(out, command->options | OPT_RUN_DIR | OPT_HELP);
}

/* Help on what the words name: a command, a family ("vm"), or everything. */
static void help_print(FILE *out, int nwords, char *const words[])
{
    const char *between = "";

    for (size_t i = 0; i < NCOMMANDS && nwords; i++) {
        bool second = nwords < 2 || !commands[i].word2 || !strcmp(commands[i].word2, words[1]);
        if (strcmp(commands[i].word, words[0]) || !second)
            continue;
        fputs(between, out);
        help_command(out, &commands[i]);
        between = "\n";
    }
    if (!*between)
        help_all(out);
}

/* ---------------------------------------------------------------- reading the command line */

static enum ctl_result usage_error(struct ctl *ctl, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static enum ctl_result usage_error(struct ctl *ctl, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ctl_error(ctl, "%s; see memctl --help", text);
    return CTL_USAGE;
}

static enum ctl_result limit_set(struct ctl *ctl, const char *name, const char *value, int64_t *field)
{
    uint64_t bytes;

    if (ctl_parse_size(value, &bytes) || bytes > INT64_MAX)
        return usage_error(ctl, "--%s: '%.40s' is not a size such as 512M", name, value);
    *field = (int64_t)bytes;
    return CTL_DONE;
}

static enum ctl_result option_set(struct ctl *ctl, unsigned bit, const char *value)
{
    char *end;
    long number;

    switch (bit) {
    case OPT_RUN_DIR:
        ctl->run_dir = value;
        break;
    case OPT_JSON:
        ctl->json = true;
        break;
    case OPT_BYTES:
        if (ctl_parse_size(value, &ctl->bytes) || !ctl->bytes || ctl->bytes > INT64_MAX)
            return usage_error(ctl, "--bytes: '%.40s' is not a size such as 512M", value);
        break;
    case OPT_DOMAIN:
        ctl->domain = value;
        break;
    case OPT_WAIT:
        ctl->wait = true;
        break;
    case OPT_MIN:
        return limit_set(ctl, "min", value, &ctl->min_bytes);
    case OPT_MAX:
        return limit_set(ctl, "max", value, &ctl->max_bytes);
    case OPT_DRY_RUN:
        if (strcmp(value, "on") && strcmp(value, "off"))
            return usage_error(ctl, "--dry-run: '%.40s' is neither on nor off", value);
        ctl->dry_run = value;
        break;
    case OPT_PROC:
        ctl->proc_root = value;
        break;
    case OPT_SYS:
        ctl->sys_root = value;
        break;
    case OPT_DEV:
        ctl->dev_root = value;
        break;
    case OPT_TIMEOUT:
        errno = 0;
        number = strtol(value, &end, 10);
        if (errno || *end || end == value || number < 1 || number > 86400)
            return usage_error(ctl, "--timeout: '%.40s' is not a number of seconds from 1 to 86400", value);
        ctl->timeout_s = (unsigned)number;
        break;
    case OPT_GUEST:
        if (ctl_parse_size(value, &ctl->guest_bytes) || !ctl->guest_bytes)
            return usage_error(ctl, "--guest: '%.40s' is not a size such as 16G", value);
        break;
    default: /* --help, --version: seen in the mask */
        break;
    }
    return CTL_DONE;
}

/* Leaves the words from argv[optind] on. */
static enum ctl_result options_read(struct ctl *ctl, int argc, char *argv[], unsigned *ret_given)
{
    struct option long_options[NOPTIONS + 1] = {0};
    unsigned given = 0;
    int result, index;

    for (size_t i = 0; i < NOPTIONS; i++)
        long_options[i] =
            (struct option){options[i].name, options[i].arg ? required_argument : no_argument, NULL, 0};
    optind = 0; /* glibc: start over, also on a second call */
    while ((result = getopt_long(argc, argv, ":h", long_options, &index)) != -1) {
        if (result == 'h') {
            given |= OPT_HELP;
            continue;
        }
        if (result == ':')
            return usage_error(ctl, "%s needs a value", argv[optind - 1]);
        if (result &&
            optopt) /* of one letter, perhaps in the middle of a word that has not been passed yet */
            return usage_error(ctl, "unknown option: '-%c'", optopt);
        if (result)
            return usage_error(ctl, "unknown or ambiguous option, or one that takes no value: '%.80s'",
                               argv[optind - 1]);
        enum ctl_result set = option_set(ctl, options[index].bit, optarg);
        if (set)
            return set;
        given |= options[index].bit;
    }
    *ret_given = given;
    return CTL_DONE;
}

static const struct command *command_find(int nwords, char *const words[])
{
    for (size_t i = 0; i < NCOMMANDS; i++) {
        if (strcmp(commands[i].word, words[0]))
            continue;
        if (!commands[i].word2 || (nwords > 1 && !strcmp(commands[i].word2, words[1])))
            return &commands[i];
    }
    return NULL;
}

/* No command of these words. Of a family's, say which there are. */
static enum ctl_result command_unknown(struct ctl *ctl, int nwords, char *const words[])
{
    char family[64] = "";
    size_t used = 0;

    for (size_t i = 0; i < NCOMMANDS; i++)
        if (commands[i].word2 && !strcmp(commands[i].word, words[0]) && used < sizeof family)
            used += (size_t)snprintf(family + used, sizeof family - used, "%s%s", used ? "|" : "",
                                     commands[i].word2);
    if (!used)
        return usage_error(ctl, "unknown command '%.40s'", words[0]);
    if (nwords == 1)
        return usage_error(ctl, "`memctl %s` needs %s", words[0], family);
    return usage_error(ctl, "`memctl %s` needs %s, not '%.40s'", words[0], family, words[1]);
}

static enum ctl_result command_run(struct ctl *ctl, unsigned given, int nwords, char *const words[])
{
    const struct command *command = command_find(nwords, words);

    if (!command)
        return command_unknown(ctl, nwords, words);
    int taken = command->word2 ? 2 : 1;
    unsigned extra = given & ~(command->options | OPT_ALWAYS);
    for (size_t i = 0; i < NOPTIONS; i++)
        if (options[i].bit & extra)
            return usage_error(ctl, "`memctl %s` takes no --%s", words[0], options[i].name);
    ctl->nargs = nwords - taken;
    ctl->args = words + taken;
    if (ctl->nargs < command->nargs_min)
        return usage_error(ctl, "`memctl %s%s%s` needs %s", words[0], taken > 1 ? " " : "",
                           taken > 1 ? words[1] : "", command->args);
    if (ctl->nargs > command->nargs_max)
        return usage_error(ctl, "'%.40s' is too much for `memctl %s`", ctl->args[command->nargs_max],
                           words[0]);
    return command->run(ctl);
}

enum ctl_result ctl_run(struct ctl *ctl, int argc, char *argv[])
{
    const char *run_dir = getenv("MEMD_RUN_DIR");
    unsigned given;

    ctl->run_dir = run_dir && *run_dir ? run_dir : WIRE_RUN_DIR;
    ctl->min_bytes = ctl->max_bytes = -1;
    ctl->proc_root = "/proc";
    ctl->sys_root = "/sys";
    ctl->dev_root = "/dev";
    enum ctl_result result = options_read(ctl, argc, argv, &given);
    if (result)
        return result;
    int nwords = argc - optind;
    if (given & OPT_HELP) {
        help_print(ctl->out, nwords, argv + optind);
        return CTL_DONE;
    }
    if (given & OPT_VERSION) {
        fprintf(ctl->out, "memctl %s\n", MEMD_VERSION);
        return CTL_DONE;
    }
    if (!nwords) {
        help_all(ctl->err);
        return CTL_USAGE;
    }
    return command_run(ctl, given, nwords, argv + optind);
}
