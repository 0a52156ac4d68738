/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * config_file: the configuration file, read with inih.
 *
 * [memd] takes the options by the names they have on the command line; [domain NAME] opens a trust domain and
 * takes `uids` and `budget`; [vm PATTERN] says what VMs of such names may take, and where the balloon of one
 * is. inih tells its handler neither the line number nor of a section without keys, so read_line(), which
 * feeds it, counts lines and follows each section line by a line with an empty name and value. It also
 * removes indentation, which inih would take for the continuation of a value, and stops at the first line
 * that is none: inih would read on, and could tell of a later mistake only.
 */
#include "memd/daemon/config_parts.h"

#include "memd/common/name.h"
#include "memd/memd.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define UID_SEPARATORS ", \t"
#define USER_BYTES     64 /* a longer name is no user's: it is cut and not found */

#define BYTE_ORDER_MARK "\xef\xbb\xbf"

#define SECTION_MEMD   "memd"
#define SECTION_DOMAIN "domain "
#define SECTION_VM     "vm "

struct file_reader {
    FILE *stream;
    const char *path;
    unsigned line; /* of what inih is parsing, from 1 */
    bool announce; /* the next line for inih is the empty key that announces a section */
    struct config *config;
    struct core_domain_config *domain; /* of the section being read, or NULL */
    struct core_vm_rule *rule;         /* the same */
    struct balloons_spec *balloon;     /* of that rule; NULL: it has none so far */
    uint64_t seen;                     /* bit per option of [memd] */
    unsigned seen_here;                /* bit per key of this section, where one counts once */
    struct config_report *report;
};
static_assert(CONFIG_OPTIONS_MAX <= 64, "a bit of file_reader.seen for each option");

/* [section], name = value or name: value, a comment, or nothing. */
static bool line_valid(const char *text)
{
    if (!text[strspn(text, "\r\n")] || text[0] == ';' || text[0] == '#')
        return true;
    return strpbrk(text, text[0] == '[' ? "]" : "=:");
}

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
        config_error(reader->report, -EINVAL, "%s:%u: the line is longer than %d bytes or holds a zero byte",
                     reader->path, reader->line, bytes - 2);
        return NULL;
    }
    size_t skip = reader->line == 1 && !strncmp(text, BYTE_ORDER_MARK, 3) ? 3 : 0;
    skip += strspn(text + skip, " \t");
    memmove(text, text + skip, length - skip + 1);
    if (!line_valid(text)) {
        config_error(reader->report, -EINVAL, "%s:%u: neither [section] nor key = value", reader->path,
                     reader->line);
        return NULL;
    }
    reader->announce = text[0] == '[';
    return text;
}

static int domain_open(struct file_reader *reader, const char *name)
{
    struct core_config *core = &reader->config->core;

    name += strspn(name, " \t");
    if (!name_is_valid(name))
        return config_error(reader->report, -EINVAL,
                            "%s:%u: '%.64s' is no domain name; give 1 to %d of A-Z a-z 0-9 . _ -",
                            reader->path, reader->line, name, MEMD_NAME_MAX);
    for (size_t i = 0; i < core->ndomains; i++)
        if (!strcmp(core->domains[i].name, name))
            return config_error(reader->report, -EEXIST, "%s:%u: domain '%s' is opened twice; join the two",
                                reader->path, reader->line, name);
    if (core->ndomains == CORE_DOMAINS_MAX)
        return config_error(reader->report, -ENOSPC, "%s:%u: more than %d domains", reader->path,
                            reader->line, CORE_DOMAINS_MAX);
    reader->domain = &core->domains[core->ndomains++];
    memset(reader->domain, 0, sizeof *reader->domain);
    strcpy(reader->domain->name, name);
    return 0;
}

/* A name, or a pattern for names. */
static bool pattern_valid(const char *pattern)
{
    size_t length = strlen(pattern);

    return length && length <= MEMD_NAME_MAX &&
           !pattern[strspn(pattern, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                    "abcdefghijklmnopqrstuvwxyz0123456789._-*?[]!")];
}

static int rule_open(struct file_reader *reader, const char *pattern)
{
    struct core_config *core = &reader->config->core;

    pattern += strspn(pattern, " \t");
    if (!pattern_valid(pattern))
        return config_error(reader->report, -EINVAL,
                            "%s:%u: '%.64s' is no VM's name; give 1 to %d of A-Z a-z 0-9 . _ - and * ? [ ]",
                            reader->path, reader->line, pattern, MEMD_NAME_MAX);
    bool twice = false;
    for (size_t i = 0; i < core->nvm_rules; i++)
        twice |= !strcmp(core->vm_rules[i].pattern, pattern);
    for (size_t i = 0; i < reader->config->nballoons; i++)
        twice |= !strcmp(reader->config->balloons[i].vm, pattern);
    if (twice)
        return config_error(reader->report, -EEXIST, "%s:%u: [vm %s] is there twice; join the two",
                            reader->path, reader->line, pattern);
    if (core->nvm_rules == CORE_VM_RULES_MAX || reader->config->nballoons == BALLOONS_MAX)
        return config_error(reader->report, -ENOSPC, "%s:%u: more than %d [vm] sections", reader->path,
                            reader->line, CORE_VM_RULES_MAX);
    reader->rule = &core->vm_rules[core->nvm_rules++];
    memset(reader->rule, 0, sizeof *reader->rule);
    strcpy(reader->rule->pattern, pattern);
    return 0;
}

/* Keys that count once in their section. */
enum section_key {
    KEY_BUDGET,
    KEY_RESERVATION,
    KEY_LIMIT,
    KEY_SHARES,
    KEY_SWAP,
    KEY_WRITES,
    KEY_AGENT,
    KEY_BALLOON,
    KEY_BALLOON_AUTO,
    KEY_BALLOON_MIN,
    KEY_BALLOON_MAX
};
#define KEYS_OF_TERMS \
    (1u << KEY_RESERVATION | 1u << KEY_LIMIT | 1u << KEY_SHARES | 1u << KEY_SWAP | 1u << KEY_WRITES)

/* What is to be seen only when all keys of a section have been read. */
static int section_close(struct file_reader *reader)
{
    const struct core_vm_rule *rule = reader->rule;
    const struct balloons_spec *balloon = reader->balloon;

    /* a section that says only where balloon and agent are leaves the terms to one that says them */
    if (rule && reader->seen_here && !(reader->seen_here & KEYS_OF_TERMS))
        reader->config->core.nvm_rules--;
    reader->domain = NULL;
    reader->rule = NULL;
    reader->balloon = NULL;
    reader->seen_here = 0;
    if (rule && rule->terms.limit_bytes && rule->terms.limit_bytes < rule->terms.reservation_bytes)
        return config_error(reader->report, -EINVAL, "%s: [vm %s]: the limit is below the reservation",
                            reader->path, rule->pattern);
    if (balloon && balloon->max_bytes && balloon->max_bytes < balloon->min_bytes)
        return config_error(reader->report, -EINVAL, "%s: [vm %s]: balloon-max is below balloon-min",
                            reader->path, balloon->vm);
    return 0;
}

static int section_open(struct file_reader *reader, const char *section)
{
    int result = section_close(reader);

    if (result)
        return result;
    if (!strcmp(section, SECTION_MEMD))
        return 0;
    if (!strncmp(section, SECTION_DOMAIN, sizeof SECTION_DOMAIN - 1))
        return domain_open(reader, section + sizeof SECTION_DOMAIN - 1);
    if (!strncmp(section, SECTION_VM, sizeof SECTION_VM - 1))
        return rule_open(reader, section + sizeof SECTION_VM - 1);
    return config_error(reader->report, -EINVAL,
                        "%s:%u: unknown section [%.64s]; there are [memd], [domain NAME] and [vm NAME]",
                        reader->path, reader->line, section);
}

/* A user's number or name. */
static int parse_uid(const char *text, uint32_t *ret_uid)
{
    uint64_t number;

    if (!config_parse_number(text, &number)) {
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

/* Lines of a section add up: a line is short. */
static int domain_uids(struct file_reader *reader, const char *value)
{
    struct core_domain_config *domain = reader->domain;
    char user[USER_BYTES];

    for (;; value += strcspn(value, UID_SEPARATORS)) {
        value += strspn(value, UID_SEPARATORS);
        if (!*value)
            return 0;
        if (domain->nuids == CORE_UIDS_MAX)
            return config_error(reader->report, -ENOSPC, "%s:%u: more than %d uids in a domain", reader->path,
                                reader->line, CORE_UIDS_MAX);
        snprintf(user, sizeof user, "%.*s", (int)strcspn(value, UID_SEPARATORS), value);
        if (parse_uid(user, &domain->uids[domain->nuids]))
            return config_error(reader->report, -ENOENT,
                                "%s:%u: uids: '%.40s' is neither a uid nor a user of this machine",
                                reader->path, reader->line, user);
        domain->nuids++;
    }
}

/* A key that counts once in its section. */
static int note_key(struct file_reader *reader, enum section_key key, const char *name)
{
    if (reader->seen_here >> key & 1)
        return config_error(reader->report, -EEXIST, "%s:%u: '%s' is given twice; keep one", reader->path,
                            reader->line, name);
    reader->seen_here |= 1u << key;
    return 0;
}

static int size_key(struct file_reader *reader, const char *name, const char *value, uint64_t *field)
{
    uint64_t bytes;

    if (config_parse_size(value, &bytes) || bytes > CONFIG_SIZE_MAX)
        return config_error(
            reader->report, -EINVAL,
            "%s:%u: %s: '%.40s' is not a size; give a number with K, M, G or T, at most %lluT", reader->path,
            reader->line, name, value, CONFIG_SIZE_MAX >> 40);
    *field = bytes;
    return 0;
}

static int domain_key(struct file_reader *reader, const char *name, const char *value)
{
    if (!strcmp(name, "uids"))
        return domain_uids(reader, value);
    if (strcmp(name, "budget"))
        return config_error(reader->report, -EINVAL,
                            "%s:%u: unknown key '%.64s'; a domain has uids and budget", reader->path,
                            reader->line, name);
    int result = note_key(reader, KEY_BUDGET, name);
    return result ? result : size_key(reader, name, value, &reader->domain->budget_bytes);
}

static int shares_key(struct file_reader *reader, const char *value, uint32_t *field)
{
    uint64_t shares;

    if (budget_class_shares(value, field))
        return 0;
    if (config_parse_number(value, &shares) || !shares || shares > BUDGET_SHARES_MAX)
        return config_error(
            reader->report, -EINVAL,
            "%s:%u: shares: '%.40s' is neither low, normal or high nor a whole number from 1 to %u",
            reader->path, reader->line, value, BUDGET_SHARES_MAX);
    *field = (uint32_t)shares;
    return 0;
}

static int swap_key(struct file_reader *reader, const char *value, bool *field)
{
    if (strcmp(value, "never") && strcmp(value, "allowed"))
        return config_error(reader->report, -EINVAL, "%s:%u: swap: '%.40s' is neither never nor allowed",
                            reader->path, reader->line, value);
    *field = !strcmp(value, "never");
    return 0;
}

/* The path of a socket, vsock:PATH or vsock:CID. */
static bool agent_route_valid(const char *value)
{
    bool vsock = !strncmp(value, "vsock:", 6);
    const char *rest = vsock ? value + 6 : value;
    uint64_t cid;

    if (rest[0] == '/')
        return strlen(rest) < sizeof(((struct sockaddr_un *)0)->sun_path);
    return vsock && !config_parse_number(rest, &cid) && cid < UINT32_MAX;
}

static int agent_key(struct file_reader *reader, const char *value)
{
    struct core_config *core = &reader->config->core;
    const char *name = reader->rule->pattern;

    if (!name_is_valid(name))
        return config_error(reader->report, -EINVAL,
                            "%s:%u: agent: an agent belongs to one VM; [vm %s] is a pattern", reader->path,
                            reader->line, name);
    if (!agent_route_valid(value))
        return config_error(reader->report, -EINVAL,
                            "%s:%u: agent: '%.80s' is neither a socket's path, vsock:PATH nor vsock:CID",
                            reader->path, reader->line, value);
    for (unsigned i = 0; i < core->nagents; i++)
        if (!strcmp(core->agents[i].name, name))
            return config_error(reader->report, -EEXIST, "%s:%u: agent: VM %s has one already", reader->path,
                                reader->line, name);
    if (core->nagents == CORE_VM_RULES_MAX)
        return config_error(reader->report, -ENOSPC, "%s:%u: more than %d agents", reader->path, reader->line,
                            CORE_VM_RULES_MAX);
    struct core_agent_config *agent = &core->agents[core->nagents++];
    *agent = (struct core_agent_config){0};
    strcpy(agent->name, name);
    strcpy(agent->path, value);
    return 0;
}

/* What the section says of balloons: of a VM, or of those whose names match. */
static void balloon_open(struct file_reader *reader)
{
    struct config *config = reader->config;

    if (reader->balloon)
        return;
    reader->balloon = &config->balloons[config->nballoons++];
    memset(reader->balloon, 0, sizeof *reader->balloon);
    strcpy(reader->balloon->vm, reader->rule->pattern);
}

static int address_key(struct file_reader *reader, const char *value, char field[BALLOON_ADDRESS_BYTES])
{
    struct balloon_error error;

    if (!name_is_valid(reader->rule->pattern)) /* a socket has one VM behind it */
        return config_error(reader->report, -EINVAL,
                            "%s:%u: a balloon belongs to one VM; give it a section [vm NAME] without * ? [ ]",
                            reader->path, reader->line);
    if (balloons_check_address(value, &error))
        return config_error(reader->report, -EINVAL, "%s:%u: balloon: '%.60s': %s", reader->path,
                            reader->line, value, error.reason);
    strcpy(field, value);
    return 0;
}

static int balloon_key(struct file_reader *reader, enum section_key key, const char *name, const char *value)
{
    balloon_open(reader);
    struct balloons_spec *balloon = reader->balloon;

    if (key == KEY_BALLOON)
        return address_key(reader, value, balloon->address);
    if (key == KEY_BALLOON_AUTO) {
        if (strcmp(value, "on") && strcmp(value, "off"))
            return config_error(reader->report, -EINVAL, "%s:%u: balloon-auto: '%.40s' is neither on nor off",
                                reader->path, reader->line, value);
        balloon->is_auto = !strcmp(value, "on");
        return 0;
    }
    return size_key(reader, name, value, key == KEY_BALLOON_MIN ? &balloon->min_bytes : &balloon->max_bytes);
}

static int rule_key(struct file_reader *reader, const char *name, const char *value)
{
    static const struct {
        const char *name;
        enum section_key key;
    } keys[] = {{"reservation", KEY_RESERVATION}, {"limit", KEY_LIMIT},
                {"shares", KEY_SHARES},           {"swap", KEY_SWAP},
                {"swap-writes", KEY_WRITES},      {"agent", KEY_AGENT},
                {"balloon", KEY_BALLOON},         {"balloon-min", KEY_BALLOON_MIN},
                {"balloon-max", KEY_BALLOON_MAX}, {"balloon-auto", KEY_BALLOON_AUTO}};
    struct budget_terms *terms = &reader->rule->terms;
    size_t i = 0;

    while (i < sizeof keys / sizeof keys[0] && strcmp(keys[i].name, name))
        i++;
    if (i == sizeof keys / sizeof keys[0])
        return config_error(
            reader->report, -EINVAL,
            "%s:%u: unknown key '%.64s'; a VM has reservation, limit, shares, swap, swap-writes, "
            "agent, balloon, balloon-auto, balloon-min and balloon-max",
            reader->path, reader->line, name);
    int result = note_key(reader, keys[i].key, name);
    if (result)
        return result;
    switch (keys[i].key) {
    case KEY_RESERVATION:
        return size_key(reader, name, value, &terms->reservation_bytes);
    case KEY_LIMIT:
        return size_key(reader, name, value, &terms->limit_bytes);
    case KEY_SHARES:
        return shares_key(reader, value, &terms->shares);
    case KEY_WRITES:
        return size_key(reader, name, value, &terms->writes_bytes);
    case KEY_AGENT:
        return agent_key(reader, value);
    case KEY_SWAP:
        return swap_key(reader, value, &terms->swap_never);
    default:
        return balloon_key(reader, keys[i].key, name, value);
    }
}

static int memd_key(struct file_reader *reader, const char *name, const char *value)
{
    int option = config_option_find(name);
    char where[384];

    if (option < 0)
        return config_error(reader->report, -EINVAL, "%s:%u: unknown key '%.64s'; memd --help lists them",
                            reader->path, reader->line, name);
    if (!config_option_in_file(option))
        return config_error(reader->report, -EINVAL, "%s:%u: '%s' belongs on the command line, not in a file",
                            reader->path, reader->line, name);
    uint64_t bit = 1ull << option;
    if (reader->seen & bit)
        return config_error(reader->report, -EEXIST, "%s:%u: '%s' is given twice; keep one", reader->path,
                            reader->line, name);
    reader->seen |= bit;
    snprintf(where, sizeof where, "%s:%u: %s", reader->path, reader->line, name);
    return config_option_set(option, where, value, true, reader->config, reader->report);
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
        result = config_error(reader->report, -EINVAL, "%s:%u: '%.64s' is in no section; put [memd] above it",
                              reader->path, reader->line, name);
    else if (reader->domain)
        result = domain_key(reader, name, value);
    else if (reader->rule)
        result = rule_key(reader, name, value);
    else
        result = memd_key(reader, name, value);
    return result == 0;
}

int config_file_load(const char *path, bool must_exist, struct config *config, struct config_report *report)
{
    struct file_reader reader = {.path = path, .config = config, .report = report};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO without a writer would hang */
    struct stat st;

    if (fd < 0 && errno == ENOENT && !must_exist)
        return 0;
    if (fd < 0)
        return config_error(report, -errno,
                            "cannot read the configuration %s: %s; check --config and the file's mode", path,
                            strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > CONFIG_FILE_MAX) {
        close(fd);
        return config_error(report, -EINVAL, "the configuration %s is not a regular file of at most %u KiB",
                            path, CONFIG_FILE_MAX / 1024);
    }
    reader.stream = fdopen(fd, "r");
    if (!reader.stream) {
        close(fd);
        return config_error(report, -ENOMEM, "out of memory for the configuration %s", path);
    }
    int line = ini_parse_stream(read_line, &reader, file_key, &reader);
    if (line)
        config_error(report, -EINVAL, "%s:%u: neither [section] nor key = value", path, reader.line);
    else if (ferror(reader.stream))
        config_error(report, -EIO, "cannot read the configuration %s", path);
    else
        section_close(&reader);
    fclose(reader.stream);
    snprintf(config->file, sizeof config->file, "%s", path);
    return report->error;
}
