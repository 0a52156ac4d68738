/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * config: options from the environment, a configuration file and the command line.
 *
 * Theory of operation. `options` describes each option once: its name, its type with limits, where its value
 * lies in struct config, its help. The command line (getopt_long over an array made from the table) and the
 * file (inih) both end in option_set(). The command line is read first into a list, because it may name the
 * file, and applied last, because it wins.
 *
 * The file. [memd] takes the options by the names they have on the command line; [domain NAME] opens a trust
 * domain and takes `uids`. inih tells its handler neither the line number nor of a section without keys, so
 * read_line(), which feeds it, counts lines and follows each section line by a line with an empty name and
 * value. It also removes indentation, which inih would take for the continuation of a value.
 */
#include "memd/daemon/config.h"

#include "memd/memd.h"
#include "memd/wire.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <math.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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
    {"run-dir", "DIR", "sockets and frame stores (default: $MEMD_RUN_DIR, else /run/memd)", OPTION_PATH,
     AT(core.run_dir), 0, RUN_DIR_MAX, 0},
    {"state-dir", "DIR", "what must not live in RAM; made if missing (default: /var/lib/memd)", OPTION_PATH,
     AT(core.state_dir), 0, PATH_MAX_OF(core.state_dir), 0},
    {"config", "FILE", "configuration file (default: " CONFIG_PATH_DEFAULT " if it exists)", OPTION_FILE, 0,
     0, 0, 0},
    {"merge", "on|off", "start with merging on or off (default: on)", OPTION_ON_OFF, AT(core.merge), 0, 0, 0},
    {"merge-across-nodes", "on|off", "share frames between NUMA nodes (default: off)", OPTION_ON_OFF,
     AT(core.merge_across_nodes), 0, 0, 0},
    {"cpu-cap", "CORES", "cores that all engines and the daemon may use together, 0.01 to 1024", OPTION_REAL,
     AT(core.cpu_cap), 10, 1024000, 0},
    {"store-max", "SIZE", "most memory for frames, e.g. 8G; 0: half of the machine's RAM", OPTION_SIZE,
     AT(core.store_bytes_max), 0, 1ull << 50, 0},
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
    {"log-level", "LEVEL", "error, warn, info or debug (default: info)", OPTION_LEVEL, AT(log_level), 0, 0,
     0},
    {"daemon", NULL, "go into the background once ready", OPTION_FLAG, AT(background), 0, 0, 0},
    {"nodes", "N", "pretend this many NUMA nodes, 0 to 8; 0: ask the machine (for tests)", OPTION_NUMBER,
     AT(core.nodes), 0, WIRE_NODES_MAX, 0},
    {"proc-root", "DIR", "read the host's state here instead of /proc (for tests)", OPTION_PATH,
     AT(core.proc_root), 0, PATH_MAX_OF(core.proc_root), 0},
    {"sys-root", "DIR", "and here instead of /sys (for tests)", OPTION_PATH, AT(core.sys_root), 0,
     PATH_MAX_OF(core.sys_root), 0},
    {"version", NULL, "print the version and end", OPTION_ACTION, 0, 0, 0, CONFIG_VERSION},
    {"help", NULL, "print this and end", OPTION_ACTION, 0, 0, 0, CONFIG_HELP},
};
#define NOPTIONS (sizeof options / sizeof options[0])

static const char *const level_names[] = {
    [MEMD_LOG_ERROR] = "error",
    [MEMD_LOG_WARN] = "warn",
    [MEMD_LOG_INFO] = "info",
    [MEMD_LOG_DEBUG] = "debug",
};
static_assert(sizeof level_names / sizeof level_names[0] == MEMD_LOG_DEBUG + 1, "a name for each level");

/* Where errors go. The first one stays. */
struct report {
    char *text;
    size_t bytes;
    int error;
};

__attribute__((format(printf, 3, 4))) static int report_error(struct report *report, int error,
                                                              const char *format, ...)
{
    va_list args;

    if (report->error)
        return report->error;
    va_start(args, format);
    vsnprintf(report->text, report->bytes, format, args);
    va_end(args);
    return report->error = error;
}

static const struct option_desc *option_find(const char *name)
{
    for (size_t i = 0; i < NOPTIONS; i++)
        if (!strcmp(options[i].name, name))
            return &options[i];
    return NULL;
}

/* A whole decimal number, nothing before or after it. */
static int parse_number(const char *text, uint64_t *ret_value)
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

/* A number with K, M, G or T (of 1024), or nothing for bytes. */
static int parse_size(const char *text, uint64_t *ret_bytes)
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
    if (parse_number(digits, &value) || value > UINT64_MAX >> shift)
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
                    char *field, struct report *report)
{
    char path[512] = "";

    if (!text[0])
        return report_error(report, -EINVAL, "%s: an empty path; give a directory", where);
    if (text[0] != '/') {
        if (!relative_ok)
            return report_error(report, -EINVAL, "%s: '%s' is relative; give a path that starts with /",
                                where, text);
        if (!getcwd(path, sizeof path - 1))
            return report_error(report, -errno,
                                "%s: cannot tell the current directory (%s); give a path that "
                                "starts with /",
                                where, strerror(errno));
        strcat(path, "/");
    }
    size_t have = strlen(path), want = strlen(text);
    while (want > 1 && text[want - 1] == '/')
        want--;
    if (have + want > option->max)
        return report_error(report, -ENAMETOOLONG, "%s: '%.80s%s' is %zu bytes long; at most %llu fit%s",
                            where, text, want > 80 ? "..." : "", have + want, (unsigned long long)option->max,
                            option->offset == AT(core.run_dir) ? " with the name of a socket in it" : "");
    memcpy(field, path, have);
    memcpy(field + have, text, want);
    field[have + want] = 0;
    return 0;
}

static int set_level(const char *where, const char *text, int *field, struct report *report)
{
    for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++)
        if (!strcmp(text, level_names[i])) {
            *field = (int)i;
            return 0;
        }
    return report_error(report, -EINVAL, "%s: '%.40s' is not a log level; give error, warn, info or debug",
                        where, text);
}

static int set_on_off(const char *where, const char *text, bool *field, struct report *report)
{
    if (strcmp(text, "on") && strcmp(text, "off"))
        return report_error(report, -EINVAL, "%s: '%.40s' is neither on nor off", where, text);
    *field = !strcmp(text, "on");
    return 0;
}

/* Put `text` into the field of `option`. `where` names the source in messages: "--merge" or "FILE:3: merge".
 */
static int option_set(const struct option_desc *option, const char *where, const char *text, bool from_file,
                      struct config *config, struct report *report)
{
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
        if (parse_number(text, &number) || number < option->min || number > option->max)
            return report_error(report, -EINVAL, "%s: '%.40s' is not a whole number from %llu to %llu", where,
                                text, (unsigned long long)option->min, (unsigned long long)option->max);
        *(unsigned *)field = (unsigned)number;
        return 0;
    case OPTION_REAL:
        if (parse_real(text, &real) || real < option->min / 1000.0 || real > option->max / 1000.0)
            return report_error(report, -EINVAL, "%s: '%.40s' is not a number from %g to %g", where, text,
                                option->min / 1000.0, option->max / 1000.0);
        *(double *)field = real;
        return 0;
    case OPTION_SIZE:
        if (parse_size(text, &number) || number > option->max)
            return report_error(report, -EINVAL,
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

/* ---------------------------------------------------------------- the file */

#define SECTION_MEMD   "memd"
#define SECTION_DOMAIN "domain "

struct file_reader {
    FILE *stream;
    const char *path;
    unsigned line; /* of what inih is parsing, from 1 */
    bool announce; /* the next line for inih is the empty key that announces a section */
    struct config *config;
    struct core_domain_config *domain; /* of the section being read, or NULL */
    bool uids_seen;
    uint64_t seen; /* bit per option */
    struct report *report;
};
static_assert(NOPTIONS <= 64, "a bit of file_reader.seen for each option");

/* Feeds inih: fgets() with line numbers, without indentation, each section announced by a line "=". */
static char *read_line(char *text, int bytes, void *ctx)
{
    struct file_reader *reader = ctx;

    if (reader->report->error)
        return NULL;
    if (reader->announce) {
        reader->announce = false;
        return strcpy(text, "=\n");
    }
    if (!fgets(text, bytes, reader->stream))
        return NULL;
    reader->line++;
    size_t length = strlen(text);
    if (!length || (text[length - 1] != '\n' && !feof(reader->stream))) {
        report_error(reader->report, -EINVAL, "%s:%u: the line is longer than %d bytes or holds a zero byte",
                     reader->path, reader->line, bytes - 2);
        return NULL;
    }
    size_t blank = strspn(text, " \t");
    memmove(text, text + blank, length - blank + 1);
    reader->announce = text[0] == '[';
    return text;
}

static bool name_valid(const char *name)
{
    size_t length = strlen(name);

    return length && length <= MEMD_NAME_MAX &&
           !name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                              "abcdefghijklmnopqrstuvwxyz0123456789._-")];
}

static int domain_open(struct file_reader *reader, const char *name)
{
    struct core_config *core = &reader->config->core;

    name += strspn(name, " \t");
    if (!name_valid(name))
        return report_error(reader->report, -EINVAL,
                            "%s:%u: '%.64s' is no domain name; give 1 to %d of A-Z a-z 0-9 . _ -",
                            reader->path, reader->line, name, MEMD_NAME_MAX);
    for (size_t i = 0; i < core->ndomains; i++)
        if (!strcmp(core->domains[i].name, name))
            return report_error(reader->report, -EEXIST, "%s:%u: domain '%s' is opened twice; join the two",
                                reader->path, reader->line, name);
    if (core->ndomains == CORE_DOMAINS_MAX)
        return report_error(reader->report, -ENOSPC, "%s:%u: more than %d domains", reader->path,
                            reader->line, CORE_DOMAINS_MAX);
    reader->domain = &core->domains[core->ndomains++];
    memset(reader->domain, 0, sizeof *reader->domain);
    strcpy(reader->domain->name, name);
    reader->uids_seen = false;
    return 0;
}

static int section_open(struct file_reader *reader, const char *section)
{
    reader->domain = NULL;
    if (!strcmp(section, SECTION_MEMD))
        return 0;
    if (!strncmp(section, SECTION_DOMAIN, sizeof SECTION_DOMAIN - 1))
        return domain_open(reader, section + sizeof SECTION_DOMAIN - 1);
    return report_error(reader->report, -EINVAL,
                        "%s:%u: unknown section [%.64s]; there are [memd] and [domain "
                        "NAME]",
                        reader->path, reader->line, section);
}

/* A user's number or name. */
static int parse_uid(const char *text, uint32_t *ret_uid)
{
    uint64_t number;

    if (!parse_number(text, &number)) {
        if (number >= UINT32_MAX) /* (uid_t)-1 means "no user" to the kernel */
            return -EINVAL;
        *ret_uid = (uint32_t)number;
        return 0;
    }
    const struct passwd *user = getpwnam(text);
    if (!user)
        return -ENOENT;
    *ret_uid = user->pw_uid;
    return 0;
}

static int domain_uids(struct file_reader *reader, const char *value)
{
    struct core_domain_config *domain = reader->domain;
    char list[512], *next = list;
    uint32_t uid;

    if (reader->uids_seen)
        return report_error(reader->report, -EEXIST, "%s:%u: uids is given twice; join the two", reader->path,
                            reader->line);
    reader->uids_seen = true;
    snprintf(list, sizeof list, "%s", value);
    for (char *user; (user = strsep(&next, ", \t"));) {
        if (!*user)
            continue;
        if (domain->nuids == CORE_UIDS_MAX)
            return report_error(reader->report, -ENOSPC, "%s:%u: more than %d uids in a domain", reader->path,
                                reader->line, CORE_UIDS_MAX);
        if (parse_uid(user, &uid))
            return report_error(reader->report, -ENOENT,
                                "%s:%u: uids: '%.40s' is neither a uid nor a user of "
                                "this machine",
                                reader->path, reader->line, user);
        domain->uids[domain->nuids++] = uid;
    }
    return 0;
}

static int memd_key(struct file_reader *reader, const char *name, const char *value)
{
    const struct option_desc *option = option_find(name);
    char where[384];

    if (!option)
        return report_error(reader->report, -EINVAL, "%s:%u: unknown key '%.64s'; memd --help lists them",
                            reader->path, reader->line, name);
    if (option->type == OPTION_FLAG || option->type == OPTION_ACTION || option->type == OPTION_FILE)
        return report_error(reader->report, -EINVAL, "%s:%u: '%s' belongs on the command line, not in a file",
                            reader->path, reader->line, name);
    uint64_t bit = 1ull << (option - options);
    if (reader->seen & bit)
        return report_error(reader->report, -EEXIST, "%s:%u: '%s' is given twice; keep one", reader->path,
                            reader->line, name);
    reader->seen |= bit;
    snprintf(where, sizeof where, "%s:%u: %s", reader->path, reader->line, name);
    return option_set(option, where, value, true, reader->config, reader->report);
}

/* inih's handler; 0 marks an error. */
static int file_key(void *ctx, const char *section, const char *name, const char *value)
{
    struct file_reader *reader = ctx;
    int result;

    if (reader->report->error || !name || !value)
        return 1;
    if (!name[0])
        result = section_open(reader, section);
    else if (!section[0])
        result = report_error(reader->report, -EINVAL, "%s:%u: '%.64s' is in no section; put [memd] above it",
                              reader->path, reader->line, name);
    else if (!reader->domain)
        result = memd_key(reader, name, value);
    else if (!strcmp(name, "uids"))
        result = domain_uids(reader, value);
    else
        result = report_error(reader->report, -EINVAL, "%s:%u: unknown key '%.64s'; a domain has uids",
                              reader->path, reader->line, name);
    return result == 0;
}

/* `must_exist`: the user named the file. */
static int file_load(const char *path, bool must_exist, struct config *config, struct report *report)
{
    struct file_reader reader = {.path = path, .config = config, .report = report};
    struct stat st;

    reader.stream = fopen(path, "re");
    if (!reader.stream && errno == ENOENT && !must_exist)
        return 0;
    if (!reader.stream)
        return report_error(report, -errno,
                            "cannot read the configuration %s: %s; check --config and the "
                            "file's mode",
                            path, strerror(errno));
    if (fstat(fileno(reader.stream), &st) || !S_ISREG(st.st_mode) || st.st_size > CONFIG_FILE_MAX) {
        fclose(reader.stream);
        return report_error(report, -EINVAL, "the configuration %s is not a regular file of at most %u KiB",
                            path, CONFIG_FILE_MAX / 1024);
    }
    int line = ini_parse_stream(read_line, &reader, file_key, &reader);
    if (line)
        report_error(report, -EINVAL, "%s:%u: neither [section] nor key = value", path, reader.line);
    else if (ferror(reader.stream))
        report_error(report, -EIO, "cannot read the configuration %s", path);
    fclose(reader.stream);
    snprintf(config->file, sizeof config->file, "%s", path);
    return report->error;
}

/* ---------------------------------------------------------------- the command line */

#define ARGS_MAX 64 /* options on one command line */

struct args {
    size_t n;
    const struct option_desc *option[ARGS_MAX];
    const char *value[ARGS_MAX];
    const char *file;
    enum config_action action;
};

/* getopt's own messages are switched off, so say what it would. */
static int args_bad(char *const argv[], int result, struct report *report)
{
    const char *word = argv[optind - 1];

    if (result == ':')
        return report_error(report, -EINVAL, "%s needs a value; see memd --help", word);
    return report_error(report, -EINVAL,
                        "unknown or ambiguous option, or one that takes no value: '%.80s'; see "
                        "memd --help",
                        word);
}

static int args_read(int argc, char *const argv[], struct args *args, struct report *report)
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
            return report_error(report, -E2BIG, "more than %d options", ARGS_MAX);
        } else {
            args->option[args->n] = option;
            args->value[args->n++] = optarg;
        }
    }
    if (optind < argc)
        return report_error(report, -EINVAL, "'%.80s' is no option; memd takes options only, see memd --help",
                            argv[optind]);
    return 0;
}

static int args_apply(const struct args *args, struct config *config, struct report *report)
{
    char where[64];

    for (size_t i = 0; i < args->n; i++) {
        snprintf(where, sizeof where, "--%s", args->option[i]->name);
        int result = option_set(args->option[i], where, args->value[i], false, config, report);
        if (result)
            return result;
    }
    return 0;
}

int config_load(int argc, char *const argv[], const char *default_file, struct config *ret_config,
                enum config_action *ret_action, char *ret_error, size_t error_bytes)
{
    struct report report = {.text = ret_error, .bytes = error_bytes};
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
        result = option_set(option_find("run-dir"), "MEMD_RUN_DIR", run_dir, false, &config, &report);
    if (!result && (args.file || default_file))
        result = file_load(args.file ? args.file : default_file, args.file != NULL, &config, &report);
    if (!result)
        result = args_apply(&args, &config, &report);
    if (result)
        return result;
    *ret_config = config;
    *ret_action = CONFIG_RUN;
    return 0;
}

void config_help(FILE *out)
{
    char usage[64];

    fputs("Usage: memd [OPTION]...\n\n"
          "The memd daemon: merges the zero and duplicate pages of the KVM guests whose VMMs connect to it.\n"
          "It stays in the foreground, says \"memd: ready\" once it is, and ends cleanly on SIGTERM or "
          "SIGINT.\n\n",
          out);
    for (size_t i = 0; i < NOPTIONS; i++) {
        snprintf(usage, sizeof usage, "--%s%s%s", options[i].name, options[i].arg ? " " : "",
                 options[i].arg ? options[i].arg : "");
        fprintf(out, "  %-28s %s\n", usage, options[i].help);
    }
    fputs("\nThe configuration file takes the same names: `merge = off` below a line [memd]; a trust domain "
          "is\n"
          "opened by [domain NAME] and `uids = 107, qemu` (users that may join). See memd.conf(5).\n\n"
          "Exit codes: 0 ended as asked, 1 failed, 2 the command line or the configuration is wrong.\n",
          out);
}
