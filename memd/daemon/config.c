/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * config: options from the environment, a configuration file and the command line.
 *
 * Theory of operation. `options` describes each option once: its name, its type with limits, where its value
 * lies in struct config, its help. The command line (getopt_long over an array made from the table) and the
 * file (config_file.c) both end in config_option_set(). The command line is read first into a list, because
 * it may name the file, and applied last, because it wins.
 */
#include "memd/daemon/config.h"

#include "memd/daemon/config_parts.h"

#include "memd/memd.h"
#include "memd/wire.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

/* The longest run directory that leaves room for "/control.sock" in a socket's address. */
#define RUN_DIR_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - sizeof("/" WIRE_CONTROL_NAME))

enum option_type {
    OPTION_PATH,   /* min: 0, max: longest, in bytes */
    OPTION_ON_OFF, /* bool */
    OPTION_FLAG,   /* bool; set by being named, no value; command line only */
    OPTION_NUMBER, /* unsigned */
    OPTION_REAL,   /* double; min and max in thousandths */
    OPTION_SIZE,   /* uint64_t bytes */
    OPTION_LEVEL,  /* int, enum memd_log_level */
    OPTION_ACTION, /* --help, --version */
    OPTION_FILE,   /* --config */
};

struct option_desc {
    const char *name;
    const char *arg; /* as --help shows it */
    const char *help;
    enum option_type type;
    size_t offset; /* in struct config */
    uint64_t min, max;
    enum config_action action;
};

#define AT(field)       offsetof(struct config, field)
#define PATH_MAX_OF(fd) (sizeof(((struct config *)0)->fd) - 1)

static const struct option_desc options[] = {
    {"run-dir", "DIR", "sockets and frame stores; also $MEMD_RUN_DIR", OPTION_PATH, AT(core.run_dir), 0,
     RUN_DIR_MAX, 0},
    {"state-dir", "DIR", "what must not live in RAM; made if missing", OPTION_PATH, AT(core.state_dir), 0,
     PATH_MAX_OF(core.state_dir), 0},
    {"config", "FILE", "configuration file (default: " CONFIG_PATH_DEFAULT " if it exists)", OPTION_FILE, 0,
     0, 0, 0},
    {"merge", "on|off", "start with merging on or off", OPTION_ON_OFF, AT(core.merge), 0, 0, 0},
    {"merge-across-nodes", "on|off", "share frames between NUMA nodes", OPTION_ON_OFF,
     AT(core.merge_across_nodes), 0, 0, 0},
    {"cpu-cap", "CORES", "cores that all engines and the daemon may use together, 0.01 to 1024", OPTION_REAL,
     AT(core.cpu_cap), 10, 1024000, 0},
    {"store-max", "SIZE", "most memory for frames, e.g. 8G; 0: half of the machine's RAM", OPTION_SIZE,
     AT(core.store_bytes_max), 0, 1ull << 50, 0},
    {"swap", "on|off", "give each VM an encrypted swap file in the state directory", OPTION_ON_OFF,
     AT(core.swap), 0, 0, 0},
    {"swap-max", "SIZE", "most that one VM's swap file may take, e.g. 16G; 0: no limit", OPTION_SIZE,
     AT(core.swap_bytes_max), 0, 1ull << 50, 0},
    {"swap-writes", "SIZE", "most that is written to all swap files in a day, e.g. 100G; 0: no limit",
     OPTION_SIZE, AT(core.swap_writes_bytes), 0, 1ull << 50, 0},
    {"quiet-ms", "MS", "a page left unwritten this long is looked at, 1 to 3600000", OPTION_NUMBER,
     AT(core.quiet_ms), 1, 3600000, 0},
    {"round-ms-max", "MS", "longest time between two rounds over a quiet VM, 10 to 3600000", OPTION_NUMBER,
     AT(core.round_ms_max), 10, 3600000, 0},
    {"huge-share", "PERCENT", "reclaimable share from which a huge page is broken up, 0 to 100",
     OPTION_NUMBER, AT(core.huge_share_percent), 0, 100, 0},
    {"heal-rate", "PAGES", "pages per second brought back into plain memory, 0 to 1000000", OPTION_NUMBER,
     AT(core.heal_pages_per_s), 0, 1000000, 0},
    {"vmas-percent", "PERCENT", "share of vm.max_map_count memd may use in a VM, 1 to 90", OPTION_NUMBER,
     AT(core.vmas_percent), 1, 90, 0},
    {"sample-pages", "PAGES", "pages of a VM set aside each period to see its working set, 0 to 4096; 0: off",
     OPTION_NUMBER, AT(core.sample_pages), 0, WIRE_SAMPLE_PAGES_MAX, 0},
    {"sample-ms", "MS", "that period, 100 to 3600000", OPTION_NUMBER, AT(core.sample_ms), 100, 3600000, 0},
    {"budget", "SIZE",
     "what all VMs and memd may take of RAM, e.g. 64G; 0: what the host has available decides", OPTION_SIZE,
     AT(core.budget_bytes), 0, 1ull << 50, 0},
    {"budget-soft", "PERCENT", "of the budget in use, from which cold pages are packed, 1 to 100",
     OPTION_NUMBER, AT(core.budget_soft_percent), 1, 100, 0},
    {"budget-hard", "PERCENT", "from which pages are swapped, too, whoever needs them, 1 to 100",
     OPTION_NUMBER, AT(core.budget_hard_percent), 1, 100, 0},
    {"budget-low", "PERCENT", "from which everything is paged out and no new VM let in, 1 to 200",
     OPTION_NUMBER, AT(core.budget_low_percent), 1, 200, 0},
    {"free-soft", "PERCENT", "without a budget: of the host's memory available, 0 to 50; 0: never",
     OPTION_NUMBER, AT(core.free_soft_percent), 0, 50, 0},
    {"free-hard", "PERCENT", "the same for hard, 0 to 50", OPTION_NUMBER, AT(core.free_hard_percent), 0, 50,
     0},
    {"free-low", "PERCENT", "the same for low, 0 to 50", OPTION_NUMBER, AT(core.free_low_percent), 0, 50, 0},
    {"headroom", "PERCENT", "of what sharing saves, kept free for merged pages to be written, 0 to 100",
     OPTION_NUMBER, AT(core.headroom_percent), 0, 100, 0},
    {"idle-tax", "PERCENT", "tax on memory a VM does not use, 0 to 99", OPTION_NUMBER,
     AT(core.idle_tax_percent), 0, 99, 0},
    {"refault-limit", "PERCENT", "of its working set a VM may need back per minute in state soft, 0 to 1000",
     OPTION_REAL, AT(core.refault_percent), 0, 1000000, 0},
    {"stall-limit", "PERCENT", "of its time the host may wait for memory (PSI) in state soft; 0: any, to 100",
     OPTION_REAL, AT(core.stall_percent), 0, 100000, 0},
    {"dry-run", "on|off", "decide who gives memory back, and order nothing", OPTION_ON_OFF, AT(core.dry_run),
     0, 0, 0},
    {"log-level", "LEVEL", "error, warn, info or debug", OPTION_LEVEL, AT(log_level), 0, 0, 0},
    {"daemon", NULL, "go into the background once ready", OPTION_FLAG, AT(background), 0, 0, 0},
    {"nodes", "N", "for tests: pretend this many NUMA nodes, 0 to 8; 0: ask the machine", OPTION_NUMBER,
     AT(core.nodes), 0, WIRE_NODES_MAX, 0},
    {"proc-root", "DIR", "for tests: where to read the state of processes and memory", OPTION_PATH,
     AT(core.proc_root), 0, PATH_MAX_OF(core.proc_root), 0},
    {"sys-root", "DIR", "for tests: and the NUMA nodes", OPTION_PATH, AT(core.sys_root), 0,
     PATH_MAX_OF(core.sys_root), 0},
    {"version", NULL, "print the version and end", OPTION_ACTION, 0, 0, 0, CONFIG_VERSION},
    {"help", NULL, "print this and end", OPTION_ACTION, 0, 0, 0, CONFIG_HELP},
};
#define NOPTIONS (sizeof options / sizeof options[0])
static_assert(NOPTIONS <= CONFIG_OPTIONS_MAX, "config_file.c notes them in the bits of a word");

static const char *const level_names[] = {
    [MEMD_LOG_ERROR] = "error",
    [MEMD_LOG_WARN] = "warn",
    [MEMD_LOG_INFO] = "info",
    [MEMD_LOG_DEBUG] = "debug",
};
static_assert(sizeof level_names / sizeof level_names[0] == MEMD_LOG_DEBUG + 1, "a name for each level");

int config_error(struct config_report *report, int error, const char *format, ...)
{
    va_list args;

    if (report->error)
        return report->error;
    va_start(args, format);
    vsnprintf(report->text, report->bytes, format, args);
    va_end(args);
    return report->error = error;
}

int config_option_find(const char *name)
{
    for (size_t i = 0; i < NOPTIONS; i++)
        if (!strcmp(options[i].name, name))
            return (int)i;
    return -ENOENT;
}

bool config_option_in_file(int option)
{
    enum option_type type = options[option].type;

    return type != OPTION_FLAG && type != OPTION_ACTION && type != OPTION_FILE;
}

int config_parse_number(const char *text, uint64_t *ret_value)
{
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end)
        return -EINVAL;
    *ret_value = value;
    return 0;
}

int config_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    char digits[32];
    size_t length = strlen(text);
    unsigned shift = 0;
    uint64_t value;

    if (!length || length >= sizeof digits)
        return -EINVAL;
    memcpy(digits, text, length + 1);
    const char *unit = strchr(units, toupper((unsigned char)digits[length - 1]));
    if (unit) {
        shift = 10 * (unsigned)(unit - units + 1);
        digits[length - 1] = 0;
    }
    if (config_parse_number(digits, &value) || value > UINT64_MAX >> shift)
        return -EINVAL;
    *ret_bytes = value << shift;
    return 0;
}

static int parse_real(const char *text, double *ret_value)
{
    char *end;

    /* strtod() also takes hexadecimal, infinity and nan, which no one writes on purpose. */
    if (!text[0] || text[strspn(text, "0123456789.")])
        return -EINVAL;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || *end || end == text || !isfinite(value))
        return -EINVAL;
    *ret_value = value;
    return 0;
}

/* A directory, made absolute: memd leaves the directory it was started in. `where` begins every message. */
static int set_path(const struct option_desc *option, const char *where, const char *text, bool relative_ok,
                    char *field, struct config_report *report)
{
    char path[512] = "";

    if (!text[0])
        return config_error(report, -EINVAL, "%s: an empty path; give a directory", where);
    if (text[0] != '/') {
        if (!relative_ok)
            return config_error(report, -EINVAL, "%s: '%s' is relative; give a path that starts with /",
                                where, text);
        if (!getcwd(path, sizeof path - 1))
            return config_error(report, -errno,
                                "%s: cannot tell the current directory (%s); give a path that "
                                "starts with /",
                                where, strerror(errno));
        strcat(path, "/");
    }
    size_t have = strlen(path), want = strlen(text);
    while (want > 1 && text[want - 1] == '/')
        want--;
    if (have + want > option->max)
        return config_error(report, -ENAMETOOLONG, "%s: '%.80s%s' is %zu bytes long; at most %llu fit%s",
                            where, text, want > 80 ? "..." : "", have + want, (unsigned long long)option->max,
                            option->offset == AT(core.run_dir) ? " with the name of a socket in it" : "");
    memcpy(field, path, have);
    memcpy(field + have, text, want);
    field[have + want] = 0;
    return 0;
}

static int set_level(const char *where, const char *text, int *field, struct config_report *report)
{
    for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++)
        if (!strcmp(text, level_names[i])) {
            *field = (int)i;
            return 0;
        }
    return config_error(report, -EINVAL, "%s: '%.40s' is not a log level; give error, warn, info or debug",
                        where, text);
}

static int set_on_off(const char *where, const char *text, bool *field, struct config_report *report)
{
    if (strcmp(text, "on") && strcmp(text, "off"))
        return config_error(report, -EINVAL, "%s: '%.40s' is neither on nor off", where, text);
    *field = !strcmp(text, "on");
    return 0;
}

int config_option_set(int index, const char *where, const char *text, bool from_file, struct config *config,
                      struct config_report *report)
{
    const struct option_desc *option = &options[index];
    void *field = (char *)config + option->offset;
    uint64_t number;
    double real;

    switch (option->type) {
    case OPTION_PATH:
        return set_path(option, where, text, !from_file, field, report);
    case OPTION_ON_OFF:
        return set_on_off(where, text, field, report);
    case OPTION_LEVEL:
        return set_level(where, text, field, report);
    case OPTION_NUMBER:
        if (config_parse_number(text, &number) || number < option->min || number > option->max)
            return config_error(report, -EINVAL, "%s: '%.40s' is not a whole number from %llu to %llu", where,
                                text, (unsigned long long)option->min, (unsigned long long)option->max);
        *(unsigned *)field = (unsigned)number;
        return 0;
    case OPTION_REAL:
        if (parse_real(text, &real) || real < option->min / 1000.0 || real > option->max / 1000.0)
            return config_error(report, -EINVAL, "%s: '%.40s' is not a number from %g to %g", where, text,
                                option->min / 1000.0, option->max / 1000.0);
        *(double *)field = real;
        return 0;
    case OPTION_SIZE:
        if (config_parse_size(text, &number) || number > option->max)
            return config_error(report, -EINVAL,
                                "%s: '%.40s' is not a size; give a number with K, M, G or T, at most %lluT",
                                where, text, (unsigned long long)(option->max >> 40));
        *(uint64_t *)field = number;
        return 0;
    case OPTION_FLAG:
        *(bool *)field = true;
        return 0;
    case OPTION_ACTION:
    case OPTION_FILE:
        break;
    }
    return 0;
}

/* ---------------------------------------------------------------- the command line */

#define ARGS_MAX 64 /* options on one command line */

struct args {
    size_t n;
    int option[ARGS_MAX];
    const char *value[ARGS_MAX];
    const char *file;
    enum config_action action;
};

/* getopt's own messages are switched off, so say what it would. */
static int args_bad(char *const argv[], int result, struct config_report *report)
{
    const char *word = argv[optind - 1];

    if (result == ':')
        return config_error(report, -EINVAL, "%s needs a value; see memd --help", word);
    if (optopt) /* of one letter, perhaps in the middle of a word that has not been passed yet */
        return config_error(report, -EINVAL, "unknown option: '-%c'; see memd --help", optopt);
    return config_error(report, -EINVAL,
                        "unknown or ambiguous option, or one that takes no value: '%.80s'; see "
                        "memd --help",
                        word);
}

static int args_read(int argc, char *const argv[], struct args *args, struct config_report *report)
{
    struct option long_options[NOPTIONS + 1] = {0};
    int result, index;

    for (size_t i = 0; i < NOPTIONS; i++)
        long_options[i] =
            (struct option){options[i].name, options[i].arg ? required_argument : no_argument, NULL, 0};
    optind = 0; /* glibc: start over, also on a second call */
    while ((result = getopt_long(argc, argv, "+:h", long_options, &index)) != -1) {
        if (result == 'h') {
            args->action = CONFIG_HELP;
            continue;
        }
        if (result)
            return args_bad(argv, result, report);
        const struct option_desc *option = &options[index];
        if (option->type == OPTION_ACTION) {
            args->action = option->action;
        } else if (option->type == OPTION_FILE) {
            args->file = optarg;
        } else if (args->n == ARGS_MAX) {
            return config_error(report, -E2BIG, "more than %d options", ARGS_MAX);
        } else {
            args->option[args->n] = index;
            args->value[args->n++] = optarg;
        }
    }
    if (optind < argc)
        return config_error(report, -EINVAL, "'%.80s' is no option; memd takes options only, see memd --help",
                            argv[optind]);
    return 0;
}

static int args_apply(const struct args *args, struct config *config, struct config_report *report)
{
    char where[64];

    for (size_t i = 0; i < args->n; i++) {
        snprintf(where, sizeof where, "--%s", options[args->option[i]].name);
        int result = config_option_set(args->option[i], where, args->value[i], false, config, report);
        if (result)
            return result;
    }
    return 0;
}

/* What nobody means: a budget of 64 bytes pages out everything. */
static int check_budget(const char *of, const char *name, const char *key, uint64_t bytes,
                        struct config_report *report)
{
    if (!bytes || bytes >= 1 << 20)
        return 0;
    return config_error(report, -EINVAL,
                        "%s%s%s%s of %" PRIu64 " bytes: give at least 1M; is a unit missing, as in 64G?", of,
                        name, *of ? "]: a " : "a ", key, bytes);
}

static int check_budgets(const struct core_config *c, struct config_report *report)
{
    int result = check_budget("", "", "budget", c->budget_bytes, report);

    for (unsigned i = 0; i < c->ndomains && !result; i++)
        result = check_budget("[domain ", c->domains[i].name, "budget", c->domains[i].budget_bytes, report);
    for (unsigned i = 0; i < c->nvm_rules && !result; i++)
        result =
            check_budget("[vm ", c->vm_rules[i].pattern, "limit", c->vm_rules[i].terms.limit_bytes, report);
    return result;
}

/* Thresholds that make sense together. */
static int check(const struct core_config *c, struct config_report *report)
{
    if (c->budget_soft_percent > c->budget_hard_percent || c->budget_hard_percent > c->budget_low_percent)
        return config_error(report, -EINVAL,
                            "budget-soft, budget-hard and budget-low must not fall: %u, %u, %u",
                            c->budget_soft_percent, c->budget_hard_percent, c->budget_low_percent);
    if (c->free_soft_percent < c->free_hard_percent || c->free_hard_percent < c->free_low_percent)
        return config_error(report, -EINVAL, "free-soft, free-hard and free-low must not rise: %u, %u, %u",
                            c->free_soft_percent, c->free_hard_percent, c->free_low_percent);
    return check_budgets(c, report);
}

int config_load(int argc, char *const argv[], const char *default_file, struct config *ret_config,
                enum config_action *ret_action, char *ret_error, size_t error_bytes)
{
    struct config_report report = {.text = ret_error, .bytes = error_bytes};
    struct args args = {.action = CONFIG_RUN};
    struct config config = {.log_level = MEMD_LOG_INFO};

    int result = args_read(argc, argv, &args, &report);
    if (result)
        return result;
    if (args.action != CONFIG_RUN) {
        *ret_action = args.action;
        return 0;
    }
    core_config_default(&config.core);
    const char *run_dir = getenv("MEMD_RUN_DIR");
    if (run_dir && *run_dir)
        result = config_option_set(config_option_find("run-dir"), "MEMD_RUN_DIR", run_dir, false, &config,
                                   &report);
    if (!result && (args.file || default_file))
        result = config_file_load(args.file ? args.file : default_file, args.file != NULL, &config, &report);
    if (!result)
        result = args_apply(&args, &config, &report);
    if (!result)
        result = check(&config.core, &report);
    if (result)
        return result;
    *ret_config = config;
    *ret_action = CONFIG_RUN;
    return 0;
}

/* What a field holds if nobody says otherwise; "" if that says nothing. */
static void default_text(const struct option_desc *option, const struct config *config, char *text,
                         size_t bytes)
{
    const void *field = (const char *)config + option->offset;

    text[0] = 0;
    switch (option->type) {
    case OPTION_PATH:
        snprintf(text, bytes, "%s", (const char *)field);
        break;
    case OPTION_ON_OFF:
        snprintf(text, bytes, "%s", *(const bool *)field ? "on" : "off");
        break;
    case OPTION_NUMBER:
        snprintf(text, bytes, "%u", *(const unsigned *)field);
        break;
    case OPTION_REAL:
        snprintf(text, bytes, "%g", *(const double *)field);
        break;
    case OPTION_SIZE:
        snprintf(text, bytes, "%llu", (unsigned long long)*(const uint64_t *)field);
        break;
    case OPTION_LEVEL:
        snprintf(text, bytes, "%s", level_names[*(const int *)field]);
        break;
    case OPTION_FLAG:
    case OPTION_ACTION:
    case OPTION_FILE:
        break;
    }
}

void config_help(FILE *out)
{
    struct config config = {.log_level = MEMD_LOG_INFO};
    char usage[64], value[64];

    core_config_default(&config.core);

    fputs("Usage: memd [OPTION]...\n\n"
          "The memd daemon: merges the zero and duplicate pages of the KVM guests whose VMMs connect to it.\n"
          "It stays in the foreground, says \"memd: ready\" once it is, and ends cleanly on SIGTERM or "
          "SIGINT.\n\n",
          out);
    for (size_t i = 0; i < NOPTIONS; i++) {
        snprintf(usage, sizeof usage, "--%s%s%s", options[i].name, options[i].arg ? " " : "",
                 options[i].arg ? options[i].arg : "");
        default_text(&options[i], &config, value, sizeof value);
        fprintf(out, "  %-28s %s%s%s%s\n", usage, options[i].help, value[0] ? " (default: " : "", value,
                value[0] ? ")" : "");
    }
    fputs("\nThe configuration file takes the same names: `merge = off` below a line [memd]; a trust domain "
          "is\n"
          "opened by [domain NAME] and `uids = 107, qemu` (users that may join), and [vm NAME] says what VMs "
          "may take.\n"
          "See memd.conf(5).\n\n"
          "Exit codes: 0 ended as asked, 1 failed, 2 the command line or the configuration is wrong.\n",
          out);
}
