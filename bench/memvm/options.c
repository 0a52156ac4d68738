/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: one table says everything about every option: its name, its argument, where the value
 * goes, its bounds and its help. --help prints the table, getopt_long() gets its list from it.
 */
#include "bench/memvm/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "bench/memvm/payload/abi.h"
#include "memd/memd.h"

enum kind {
    KIND_FLAG,        /* sets a bool */
    KIND_ON_OFF,      /* on|off into a bool */
    KIND_STRING,      /* any non-empty word */
    KIND_NUMBER,      /* min..max */
    KIND_PPM,         /* percent */
    KIND_FLAG_NUMBER, /* sets bool `flag`, and a number if there is one */
    KIND_HELP,
};

struct row {
    const char *name, *arg;
    enum kind kind;
    size_t at;   /* of the value, in struct options */
    size_t flag; /* of the bool of KIND_FLAG_NUMBER */
    uint64_t min, max;
    const char *help;
};

#define AT(field) offsetof(struct options, field)
#define NEWLINE   "\n                             "

static const struct row rows[] = {
    {"accel", "kvm|thread", KIND_STRING, AT(accel), 0, 0, 0,
     "kvm: real vCPUs (default); thread: the same payload as plain" NEWLINE
     "threads of this process, for machines without /dev/kvm"},
    {"mem", "MIB", KIND_NUMBER, AT(mem_mib), 0, ABI_MIB_MIN, ABI_MIB_MAX, "guest RAM (default 256)"},
    {"vcpus", "N", KIND_NUMBER, AT(vcpus), 0, 1, ABI_VCPUS_MAX,
     "1 to 4 (default 1); each owns a part of the pages"},
    {"name", "NAME", KIND_STRING, AT(name), 0, 0, 0, "the guest's name (default memvm-PID)"},
    {"domain", "NAME", KIND_STRING, AT(domain), 0, 0, 0, "trust domain to ask memd for (default: its own)"},
    {"run-dir", "DIR", KIND_STRING, AT(run_dir), 0, 0, 0,
     "memd's run directory (default $MEMD_RUN_DIR, /run/memd)"},
    {"no-memd", NULL, KIND_FLAG, AT(no_memd), 0, 0, 0, "do not embed the engine; plain anonymous memory"},
    {"no-daemon", NULL, KIND_FLAG, AT(no_daemon), 0, 0, 0,
     "embed the engine, but never look for the daemon: only zero" NEWLINE "pages are dropped"},
    {"mergeable", NULL, KIND_FLAG, AT(mergeable), 0, 0, 0,
     "madvise(MADV_MERGEABLE) for KSM; wants --no-memd"},
    {"thp", "on|off", KIND_ON_OFF, AT(thp), 0, 0, 0, "transparent huge pages for guest RAM (default on)"},
    {"prealloc", NULL, KIND_FLAG, AT(prealloc), 0, 0, 0, "populate all of guest RAM at start"},
    {"dontfork", "on|off", KIND_ON_OFF, AT(dontfork), 0, 0, 0,
     "exclude guest RAM from fork, as QEMU does (default on)"},
    {"image", "FILE", KIND_STRING, AT(image), 0, 0, 0,
     "fill the data pages from FILE; what it does not reach stays" NEWLINE
     "untouched. Without it every page gets unique content"},
    {"zero", "PCT", KIND_NUMBER, AT(zero_percent), 0, 0, 100,
     "zero this share of the data pages, image or not"},
    {"shared", "PCT", KIND_NUMBER, AT(shared_percent), 0, 0, 100,
     "without an image: this share of the pages holds content" NEWLINE
     "that every guest has (64 different pages, over and over)"},
    {"seed", "N", KIND_NUMBER, AT(seed), 0, 1, UINT64_MAX, "of the guest's unique content (default random)"},
    {"verify", "MBPS", KIND_FLAG_NUMBER, AT(verify_mbps), AT(verify), 1, 1u << 20,
     "compare every page with its checksum, round and round, at" NEWLINE
     "MBPS if given, else as fast as it goes"},
    {"churn", "PCT", KIND_PPM, AT(churn_ppm), 0, 0, 0, "rewrite PCT% of the data pages each second"},
    {"toggle", "PCT", KIND_PPM, AT(toggle_ppm), 0, 0, 0,
     "change one word of PCT% of the data pages each second; the" NEWLINE
     "fourth change brings the old content back"},
    {"sweep", "MBPS", KIND_NUMBER, AT(sweep_mbps), 0, 1, 1u << 20,
     "read through the data pages at this rate"},
    {"job", "N", KIND_NUMBER, AT(job_maccesses), 0, 1, 1u << 20,
     "do N million random reads once filled, nothing else" NEWLINE
     "meanwhile, and report how long they took"},
    {"balloon", NULL, KIND_FLAG, AT(balloon), 0, 0, 0,
     "a virtio-balloon device; `balloon SIZE` moves it (--control)"},
    {"hot", "PCT", KIND_NUMBER, AT(hot_percent), 0, 1, 100,
     "jobs read only this share of the data pages, and one of the" NEWLINE
     "others in 16 million (default 100)"},
    {"control", "PATH|-", KIND_STRING, AT(control), 0, 0, 0,
     "take commands on a unix socket, or on stdin (whose end is" NEWLINE "`quit`); `help` lists them"},
    {"report", "MS", KIND_NUMBER, AT(report_ms), 0, 10, 3600000, "print a status line this often"},
    {"time", "S", KIND_NUMBER, AT(time_s), 0, 1, 1u << 30, "stop S seconds after the guest is ready"},
    {"inject-corruption", "MS", KIND_FLAG_NUMBER, AT(inject_ms), AT(inject), 0, 3600000,
     "flip one byte of a data page from outside the guest, MS" NEWLINE
     "after it is ready: shows that verify finds it (exit code 1)"},
    {"help", NULL, KIND_HELP, 0, 0, 0, 0, "this text"},
};
#define NROWS (sizeof rows / sizeof *rows)

static void print_help(void)
{
    printf("usage: memvm [OPTION...]\n"
           "A small KVM guest that fills its memory, works on it and checks every page of it all the while.\n"
           "Workloads can be combined.\n\n");
    for (size_t i = 0; i < NROWS; i++) {
        char left[64];
        const char *format = rows[i].kind == KIND_FLAG_NUMBER ? "--%s [%s]"
                             : rows[i].arg                    ? "--%s %s"
                                                              : "--%s";
        snprintf(left, sizeof left, format, rows[i].name, rows[i].arg);
        printf("  %-26s %s\n", left, rows[i].help);
    }
    printf("\nStatus lines, replies and the summary are one JSON object a line on stdout; messages go to "
           "stderr.\n"
           "SIGTERM and SIGINT stop the guest in order. Exit code: 0 no verify failure, 1 failure or error,\n"
           "2 usage.\n");
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

int options_parse_u64(const char *word, uint64_t min, uint64_t max, uint64_t *ret_value)
{
    char *end;
    unsigned long long value;

    if (!is_digit(*word))
        return -EINVAL;
    errno = 0;
    value = strtoull(word, &end, 0);
    if (errno || *end || value < min || value > max)
        return -EINVAL;
    *ret_value = value;
    return 0;
}

int options_parse_bytes(const char *word, uint64_t *ret_bytes)
{
    static const char suffixes[] = "KMG";
    char digits[32];
    size_t length = strlen(word);
    unsigned shift = 0;
    uint64_t value;

    if (length == 0 || length >= sizeof digits)
        return -EINVAL;
    memcpy(digits, word, length + 1);
    for (unsigned i = 0; suffixes[i]; i++) {
        if ((digits[length - 1] & ~0x20) == suffixes[i]) {
            shift = 10 * (i + 1);
            digits[length - 1] = '\0';
            break;
        }
    }
    if (options_parse_u64(digits, 0, UINT64_MAX >> shift, &value))
        return -EINVAL;
    *ret_bytes = value << shift;
    return 0;
}

int options_parse_ppm(const char *word, uint64_t *ret_ppm)
{
    const char *dot = strchr(word, '.');
    char whole[8];
    size_t length = dot ? (size_t)(dot - word) : strlen(word);
    uint64_t ppm, unit = 10000;

    if (length >= sizeof whole)
        return -EINVAL;
    memcpy(whole, word, length);
    whole[length] = '\0';
    if (options_parse_u64(whole, 0, 1000, &ppm))
        return -EINVAL;
    ppm *= unit;
    for (const char *digit = dot ? dot + 1 : ""; *digit; digit++) {
        unit /= 10;
        if (!is_digit(*digit) || unit == 0)
            return -EINVAL;
        ppm += unit * (unsigned)(*digit - '0');
    }
    *ret_ppm = ppm;
    return 0;
}

static int set_on_off(const char *word, bool *ret_value)
{
    if (strcmp(word, "on") && strcmp(word, "off"))
        return -EINVAL;
    *ret_value = !strcmp(word, "on");
    return 0;
}

static int set_row(const struct row *row, const char *word, struct options *options)
{
    char *at = (char *)options + row->at;

    switch (row->kind) {
    case KIND_FLAG:
        *(bool *)at = true;
        return 0;
    case KIND_ON_OFF:
        return set_on_off(word, (bool *)at);
    case KIND_STRING:
        *(const char **)at = word;
        return *word ? 0 : -EINVAL;
    case KIND_NUMBER:
        return options_parse_u64(word, row->min, row->max, (uint64_t *)at);
    case KIND_PPM:
        return options_parse_ppm(word, (uint64_t *)at);
    case KIND_FLAG_NUMBER:
        *(bool *)((char *)options + row->flag) = true;
        return word ? options_parse_u64(word, row->min, row->max, (uint64_t *)at) : 0;
    case KIND_HELP:
        break;
    }
    return -EINVAL;
}

static int bad(const char *message)
{
    fprintf(stderr, "memvm: %s; memvm --help explains the options\n", message);
    return -EINVAL;
}

static int check(const struct options *options)
{
    size_t length =
        strspn(options->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    if (strcmp(options->accel, "kvm") && strcmp(options->accel, "thread"))
        return bad("--accel is kvm or thread");
    if (options->name[length] || length > MEMD_NAME_MAX)
        return bad("--name takes 1 to 63 letters, digits, `.`, `_` and `-`");
    if (options->mergeable && !options->no_memd)
        return bad("--mergeable hands the memory to KSM and wants --no-memd");
    return 0;
}

static void set_defaults(struct options *options)
{
    static char name[32];

    if (!options->name) {
        snprintf(name, sizeof name, "memvm-%d", (int)getpid());
        options->name = name;
    }
    while (options->seed == 0) {
        if (getrandom(&options->seed, sizeof options->seed, 0) < 0)
            options->seed = (uint64_t)getpid();
    }
}

int options_parse(int argc, char **argv, struct options *ret_options)
{
    struct options options = {
        .accel = "kvm", .mem_mib = 256, .vcpus = 1, .thp = true, .dontfork = true, .hot_percent = 100};
    struct option list[NROWS + 1] = {0};
    int index, c;

    for (size_t i = 0; i < NROWS; i++) {
        int arg = rows[i].kind == KIND_FLAG_NUMBER ? optional_argument : required_argument;
        list[i] = (struct option){rows[i].name, rows[i].arg ? arg : no_argument, NULL, 1};
    }
    while ((c = getopt_long(argc, argv, "", list, &index)) != -1) {
        if (c != 1)
            return bad("unknown or incomplete option");
        if (rows[index].kind == KIND_HELP) {
            print_help();
            return 1;
        }
        /* An optional number may also follow as a word of its own. */
        if (rows[index].kind == KIND_FLAG_NUMBER && !optarg && optind < argc && is_digit(argv[optind][0]))
            optarg = argv[optind++];
        if (set_row(&rows[index], optarg, &options)) {
            fprintf(stderr, "memvm: --%s: '%.40s' is no %s", rows[index].name, optarg, rows[index].arg);
            if (rows[index].max)
                fprintf(stderr, " from %" PRIu64 " to %" PRIu64, rows[index].min, rows[index].max);
            fputc('\n', stderr);
            return bad("no guest is started");
        }
    }
    if (optind < argc)
        return bad("arguments without an option");
    set_defaults(&options);
    if (check(&options))
        return -EINVAL;
    *ret_options = options;
    return 0;
}
