/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options from every source: what is taken, what is refused and in which words, and who wins. */
#include "memd/daemon/config.h"

#include "memd/memd.h"
#include "memd/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define ARGS_MAX 80

static struct config config;
static enum config_action action;
static char error_text[CONFIG_ERROR_BYTES];

/* config_load() with the words of a command line, NULL at the end, and no file but --config's. */
static int load_args(const char *const *words)
{
    char *argv[ARGS_MAX] = {"memd"};
    int argc = 1;

    for (; words[argc - 1]; argc++)
        argv[argc] = (char *)words[argc - 1];
    error_text[0] = 0;
    return config_load(argc, argv, NULL, &config, &action, error_text, sizeof error_text);
}
#define LOAD(...) load_args((const char *const[]){__VA_ARGS__, NULL})

/* config_load() of a file with this content and nothing else. */
static int load_file_bytes(const char *content, size_t bytes)
{
    FILE *file = fopen("test.conf", "w");

    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    fclose(file);
    return LOAD("--config", "test.conf");
}

static int load_file(const char *content)
{
    return load_file_bytes(content, strlen(content));
}

static int setup(void **state)
{
    (void)state;
    unsetenv("MEMD_RUN_DIR");
    memset(&config, 0xa5, sizeof config);
    return 0;
}

static void assert_says(const char *part)
{
    if (!strstr(error_text, part))
        fail_msg("\"%s\" does not say \"%s\"", error_text, part);
    assert_null(strchr(error_text, '\n'));
}

static void nothing_said_is_the_default(void **state)
{
    struct core_config expected;
    (void)state;

    core_config_default(&expected);
    assert_int_equal(LOAD(NULL), 0);
    assert_int_equal(action, CONFIG_RUN);
    assert_memory_equal(&config.core, &expected, sizeof expected);
    assert_true(config.core.merge);
    assert_string_equal(config.core.run_dir, WIRE_RUN_DIR);
    assert_string_equal(config.file, "");
    assert_false(config.background);
    assert_int_equal(config.log_level, MEMD_LOG_INFO);
}

static void every_option_reaches_its_field(void **state)
{
    (void)state;
    assert_int_equal(LOAD("--run-dir", "/r", "--state-dir=/s", "--merge", "off", "--merge-across-nodes", "on",
                          "--cpu-cap", "1.25", "--store-max", "3G", "--quiet-ms", "7", "--round-ms-max", "70",
                          "--huge-share", "33", "--heal-rate", "44", "--vmas-percent", "55", "--log-level",
                          "debug", "--daemon", "--nodes", "3", "--proc-root", "/p", "--sys-root", "/y",
                          "--swap", "off", "--swap-max", "5G", "--swap-writes", "6G", "--budget", "9G",
                          "--budget-soft", "10", "--budget-hard", "20", "--budget-low", "130", "--free-soft",
                          "30", "--free-hard", "20", "--free-low", "11", "--headroom", "12", "--idle-tax",
                          "13", "--refault-limit", "1.5", "--stall-limit", "2.5", "--dry-run", "on"),
                     0);
    assert_string_equal(config.core.run_dir, "/r");
    assert_string_equal(config.core.state_dir, "/s");
    assert_false(config.core.merge);
    assert_true(config.core.merge_across_nodes);
    assert_true(config.core.cpu_cap > 1.249 && config.core.cpu_cap < 1.251);
    assert_int_equal(config.core.store_bytes_max, 3ull << 30);
    assert_int_equal(config.core.quiet_ms, 7);
    assert_int_equal(config.core.round_ms_max, 70);
    assert_int_equal(config.core.huge_share_percent, 33);
    assert_int_equal(config.core.heal_pages_per_s, 44);
    assert_int_equal(config.core.vmas_percent, 55);
    assert_int_equal(config.log_level, MEMD_LOG_DEBUG);
    assert_true(config.background);
    assert_int_equal(config.core.nodes, 3);
    assert_string_equal(config.core.proc_root, "/p");
    assert_string_equal(config.core.sys_root, "/y");
    assert_false(config.core.swap);
    assert_int_equal(config.core.swap_bytes_max, 5ull << 30);
    assert_int_equal(config.core.swap_writes_bytes, 6ull << 30);
    assert_int_equal(config.core.budget_bytes, 9ull << 30);
    assert_int_equal(config.core.budget_soft_percent, 10);
    assert_int_equal(config.core.budget_hard_percent, 20);
    assert_int_equal(config.core.budget_low_percent, 130);
    assert_int_equal(config.core.free_soft_percent, 30);
    assert_int_equal(config.core.free_hard_percent, 20);
    assert_int_equal(config.core.free_low_percent, 11);
    assert_int_equal(config.core.headroom_percent, 12);
    assert_int_equal(config.core.idle_tax_percent, 13);
    assert_true(config.core.refault_percent > 1.49 && config.core.refault_percent < 1.51);
    assert_true(config.core.stall_percent > 2.49 && config.core.stall_percent < 2.51);
    assert_true(config.core.dry_run);
}

static void later_sources_win(void **state)
{
    static const char file[] = "[memd]\nrun-dir = /file\nquiet-ms = 5\nmerge = off\n";
    (void)state;

    setenv("MEMD_RUN_DIR", "/environment", 1);
    assert_int_equal(LOAD(NULL), 0);
    assert_string_equal(config.core.run_dir, "/environment");
    assert_int_equal(load_file(file), 0);
    assert_string_equal(config.core.run_dir, "/file");
    assert_string_equal(config.file, "test.conf");
    assert_int_equal(
        LOAD("--run-dir", "/words", "--config", "test.conf", "--quiet-ms", "6", "--quiet-ms", "8"), 0);
    assert_string_equal(config.core.run_dir, "/words");
    assert_int_equal(config.core.quiet_ms, 8);
    assert_false(config.core.merge);
    setenv("MEMD_RUN_DIR", "", 1);
    assert_int_equal(LOAD(NULL), 0);
    assert_string_equal(config.core.run_dir, WIRE_RUN_DIR);
}

static void the_default_file_is_read_if_it_exists(void **state)
{
    char *argv[] = {"memd", NULL};
    (void)state;

    assert_int_equal(load_file("[memd]\nquiet-ms = 77\n"), 0);
    assert_int_equal(config_load(1, argv, "test.conf", &config, &action, error_text, sizeof error_text), 0);
    assert_int_equal(config.core.quiet_ms, 77);
    assert_int_equal(config_load(1, argv, "no.conf", &config, &action, error_text, sizeof error_text), 0);
    assert_int_not_equal(config.core.quiet_ms, 77);
}

static void bad_values_are_refused(void **state)
{
    static const struct {
        const char *option, *value, *says;
    } bad[] = {
        {"--merge", "", "neither on nor off"},
        {"--merge", "ON", "neither on nor off"},
        {"--quiet-ms", "0", "from 1 to 3600000"},
        {"--quiet-ms", "3600001", "'3600001' is not a whole number"},
        {"--quiet-ms", "-1", "--quiet-ms: '-1'"},
        {"--quiet-ms", " 1", "whole number"},
        {"--quiet-ms", "1e3", "whole number"},
        {"--quiet-ms", "18446744073709551617", "whole number"},
        {"--cpu-cap", "0.001", "from 0.01 to 1024"},
        {"--cpu-cap", "1025", "from 0.01 to 1024"},
        {"--cpu-cap", "nan", "number"},
        {"--cpu-cap", "inf", "number"},
        {"--cpu-cap", "0x1", "number"},
        {"--cpu-cap", ".", "number"},
        {"--cpu-cap", "1.2.3", "number"},
        {"--store-max", "K", "not a size"},
        {"--store-max", "-1G", "not a size"},
        {"--store-max", "1GB", "not a size"},
        {"--store-max", "2000T", "at most 1024T"},
        {"--store-max", "99999999999999999999T", "not a size"},
        {"--vmas-percent", "91", "from 1 to 90"},
        {"--sample-pages", "4097", "from 0 to 4096"},
        {"--sample-ms", "99", "from 100 to 3600000"},
        {"--nodes", "9", "from 0 to 8"},
        {"--log-level", "loud", "error, warn, info or debug"},
        {"--run-dir", "", "empty path"},
        {"--config", "no/such/file", "no/such/file: No such file"},
        {"--config", ".", "not a regular file"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!LOAD(bad[i].option, bad[i].value))
            fail_msg("%s %s was taken", bad[i].option, bad[i].value);
        assert_says(bad[i].says);
        assert_int_equal(config.log_level, (int)0xa5a5a5a5); /* nothing was filled in */
    }
}

static void bad_words_are_refused(void **state)
{
    const char *many[ARGS_MAX] = {0};
    (void)state;

    assert_int_not_equal(LOAD("--mrege", "on"), 0);
    assert_says("'--mrege'");
    assert_int_not_equal(LOAD("-q"), 0);
    assert_says("'-q'");
    assert_int_not_equal(LOAD("--merge-"), 0);
    assert_int_equal(LOAD("--merge-a", "on"), 0); /* what is clear need not be written out */
    assert_int_not_equal(LOAD("--daemon=yes"), 0);
    assert_says("takes no value");
    assert_int_not_equal(LOAD("--merge"), 0);
    assert_says("--merge needs a value");
    assert_int_not_equal(LOAD("start"), 0);
    assert_says("'start' is no option");
    assert_int_not_equal(LOAD("--daemon", "--", "--merge"), 0);
    for (int i = 0; i < ARGS_MAX - 2; i++)
        many[i] = "--daemon";
    assert_int_not_equal(load_args(many), 0);
    assert_says("more than 64 options");
}

static void help_and_version_look_at_nothing_else(void **state)
{
    (void)state;
    assert_int_equal(LOAD("--help", "--config", "no/such/file"), 0);
    assert_int_equal(action, CONFIG_HELP);
    assert_int_equal(LOAD("-h"), 0);
    assert_int_equal(action, CONFIG_HELP);
    assert_int_equal(LOAD("--merge", "nonsense", "--version"), 0);
    assert_int_equal(action, CONFIG_VERSION);
}

static void help_names_every_option_and_its_default(void **state)
{
    static const char *const parts[] = {"--run-dir DIR",  "(default: /run/memd)", "--daemon ",
                                        "--merge on|off", "(default: on)",        "--config FILE",
                                        "Exit codes: 0",  "MEMD_RUN_DIR",         "(default: 100)"};
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    (void)state;

    config_help(out);
    fclose(out);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        assert_non_null(strstr(text, parts[i]));
    free(text);
}

static void paths_are_made_absolute_and_fit(void **state)
{
    char cwd[256], expected[400], path[600];
    (void)state;

    assert_non_null(getcwd(cwd, sizeof cwd));
    assert_int_equal(LOAD("--state-dir", "here/"), 0);
    snprintf(expected, sizeof expected, "%s/here", cwd);
    assert_string_equal(config.core.state_dir, expected);
    assert_int_equal(LOAD("--run-dir", "/"), 0);
    assert_string_equal(config.core.run_dir, "/");

    /* the longest run directory that leaves room for a socket, and one byte more */
    memset(path, 'a', sizeof path);
    path[0] = '/';
    size_t longest = sizeof(((struct sockaddr_un *)0)->sun_path) - sizeof "/" WIRE_CONTROL_NAME;
    path[longest] = 0;
    assert_int_equal(LOAD("--run-dir", path), 0);
    assert_string_equal(config.core.run_dir, path);
    strcat(path, "a");
    assert_int_not_equal(LOAD("--run-dir", path), 0);
    assert_says("with the name of a socket in it");
    memset(path, 'a', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = 0;
    assert_int_not_equal(LOAD("--state-dir", path), 0);
    assert_says("bytes long; at most");
    assert_int_not_equal(load_file("[memd]\nstate-dir = here\n"), 0);
    assert_says("test.conf:2: state-dir: 'here' is relative");
}

/* ---------------------------------------------------------------- files */

static void a_file_may_be_written_freely(void **state)
{
    (void)state;
    assert_int_equal(load_file("\xef\xbb\xbf# a comment\n\n; another\n[memd]\nmerge=off ; and one here\n"
                               "   quiet-ms : 12\r\n\t[domain one]\n  uids = 1, 2 3\nuids = 4,,\n"
                               "[domain two]\n[memd]\nheal-rate = 9"),
                     0);
    assert_false(config.core.merge);
    assert_int_equal(config.core.quiet_ms, 12);
    assert_int_equal(config.core.heal_pages_per_s, 9);
    assert_int_equal(config.core.ndomains, 2);
    const struct core_domain_config *one = &config.core.domains[0], *two = &config.core.domains[1];
    assert_string_equal(one->name, "one");
    assert_int_equal(one->nuids, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(one->uids[i], i + 1);
    assert_string_equal(two->name, "two");
    assert_int_equal(two->nuids, 0);
}

static void vms_have_terms(void **state)
{
    (void)state;
    assert_int_equal(
        load_file("[vm web-*]\nreservation = 64M\nlimit = 1G\nshares = 12\nswap = never\nswap-writes = 7G\n"
                  "[domain d]\nbudget = 3G\nuids = 1\n[vm *]\nswap = allowed\nshares = high\n[vm a?[bc]]\n"
                  "[memd]\nmerge = off\n"),
        0);
    assert_int_equal(config.core.nvm_rules, 3);
    const struct core_vm_rule *web = &config.core.vm_rules[0];
    assert_string_equal(web->pattern, "web-*");
    assert_int_equal(web->terms.reservation_bytes, 64 << 20);
    assert_int_equal(web->terms.limit_bytes, 1 << 30);
    assert_int_equal(web->terms.shares, 12);
    assert_true(web->terms.swap_never);
    assert_int_equal(web->terms.writes_bytes, 7ull << 30);
    assert_string_equal(config.core.vm_rules[1].pattern, "*");
    assert_false(config.core.vm_rules[1].terms.swap_never);
    assert_int_equal(config.core.vm_rules[1].terms.shares, BUDGET_SHARES_HIGH);
    assert_int_equal(config.core.domains[0].budget_bytes, 3ull << 30);
    assert_int_equal(config.core.domains[0].nuids, 1);
    assert_false(config.core.merge);
}

static void vms_have_balloons(void **state)
{
    (void)state;
    assert_int_equal(
        load_file("[vm web1]\nballoon = qmp:/run/web1.qmp\nballoon-min = 512M\nballoon-max = 2G\n"
                  "[vm web-*]\nlimit = 1G\n[vm db]\nshares = 5\nballoon = "
                  "libvirt:qemu:///system/db\n[memd]\nmerge = off\n"),
        0);
    assert_int_equal(config.nballoons, 2);
    assert_string_equal(config.balloons[0].vm, "web1");
    assert_string_equal(config.balloons[0].address, "qmp:/run/web1.qmp");
    assert_int_equal(config.balloons[0].min_bytes, 512 << 20);
    assert_int_equal(config.balloons[0].max_bytes, 2ull << 30);
    assert_string_equal(config.balloons[1].vm, "db");
    assert_string_equal(config.balloons[1].address, "libvirt:qemu:///system/db");
    assert_int_equal(config.balloons[1].min_bytes, 0);
    /* a section without terms does not stand in the way of one that has some */
    assert_int_equal(config.core.nvm_rules, 2);
    assert_string_equal(config.core.vm_rules[0].pattern, "web-*");
    assert_string_equal(config.core.vm_rules[1].pattern, "db");
    /* without an address: of VMs that bring their balloon with them */
    load_file("[vm web*]\nballoon-auto = on\nballoon-min = 1G\n");
    assert_int_equal(config.nballoons, 1);
    assert_string_equal(config.balloons[0].vm, "web*");
    assert_string_equal(config.balloons[0].address, "");
    assert_true(config.balloons[0].is_auto);
    assert_int_equal(config.balloons[0].min_bytes, 1ull << 30);
}

static void thresholds_are_in_order(void **state)
{
    (void)state;
    assert_int_not_equal(LOAD("--budget-soft", "97"), 0);
    assert_says("must not fall: 97, 96, 100");
    assert_int_not_equal(LOAD("--budget-low", "95"), 0);
    assert_int_not_equal(LOAD("--free-low", "5"), 0);
    assert_says("must not rise: 6, 4, 5");
    assert_int_equal(LOAD("--free-soft", "0", "--free-hard", "0", "--free-low", "0"), 0);
}

static void users_have_names(void **state)
{
    (void)state;
    assert_int_equal(load_file("[domain d]\nuids = root\n"), 0);
    assert_int_equal(config.core.domains[0].uids[0], 0);
    assert_int_equal(load_file("[domain d]\nuids = 4294967294\n"), 0);
    assert_int_equal(config.core.domains[0].uids[0], 4294967294u);
}

static void mistakes_in_a_file_are_named_by_line(void **state)
{
    static const struct {
        const char *content, *says;
    } bad[] = {
        {"merge = on\n", "test.conf:1: 'merge' is in no section; put [memd] above it"},
        {"\n[memd]\n\nmrege = on\n", "test.conf:4: unknown key 'mrege'"},
        {"[memd]\nmerge = perhaps\n", "test.conf:2: merge: 'perhaps' is neither on nor off"},
        {"[memd]\nmerge\n", "test.conf:2: neither [section] nor key = value"},
        {"[memd\nmerge = on\n", "test.conf:1: neither [section] nor key"},
        {"[memd]\nmerge\nquiet-ms = 0\n", "test.conf:2: neither [section] nor key"},
        {"[memd]\n\n\\\nquiet-ms = 0\n", "test.conf:3: neither [section] nor key"},
        {"[memd]\nmerge = on\n\nmerge = on\n", "test.conf:4: 'merge' is given twice"},
        {"[memd]\ndaemon = on\n", "test.conf:2: 'daemon' belongs on the command line"},
        {"[memd]\nconfig = x\n", "belongs on the command line"},
        {"[memd]\nhelp = x\n", "belongs on the command line"},
        {"[mend]\n", "test.conf:1: unknown section [mend]"},
        {"[domain]\nuids = 1\n", "unknown section [domain]"},
        {"[domain a b]\n", "'a b' is no domain name"},
        {"[domain ../x]\n", "is no domain name"},
        {"[domain a]\n[domain b]\n[domain a]\n", "test.conf:3: domain 'a' is opened twice"},
        {"[domain a]\ngids = 1\n", "test.conf:2: unknown key 'gids'; a domain has uids and budget"},
        {"[domain a]\nbudget = lots\n", "test.conf:2: budget: 'lots' is not a size"},
        {"[domain a]\nbudget = 1G\nbudget = 2G\n", "test.conf:3: 'budget' is given twice"},
        {"[vm]\n", "unknown section [vm]"},
        {"[vm a b]\n", "'a b' is no VM's name"},
        {"[vm a]\n[vm b]\n[vm a]\n", "test.conf:3: [vm a] is there twice"},
        {"[vm a]\nuids = 1\n", "test.conf:2: unknown key 'uids'; a VM has reservation"},
        {"[vm a]\nlimit = 2000T\n", "test.conf:2: limit: '2000T' is not a size"},
        {"[vm a]\nlimit = 1G\nlimit = 1G\n", "test.conf:3: 'limit' is given twice"},
        {"[vm a]\nagent = sock\n", "test.conf:2: agent: 'sock' is neither a socket's path"},
        {"[vm a]\nagent = vsock:\n", "neither a socket's path"},
        {"[vm a]\nagent = vsock:4294967295\n", "neither a socket's path"},
        {"[vm a]\nagent = vsock:x\n", "neither a socket's path"},
        {"[vm a*]\nagent = /s\n", "test.conf:2: agent: an agent belongs to one VM; [vm a*] is a pattern"},
        {"[vm a]\nagent = /s\nagent = /t\n", "test.conf:3: 'agent' is given twice"},
        {"[vm a]\nagent = /s\n[vm a]\nagent = /t\n", "test.conf:4: agent: VM a has one already"},
        {"[vm a]\nballoon = /run/a\n", "test.conf:2: balloon: '/run/a': give qmp:/PATH"},
        {"[vm a]\nballoon = qmp:a\n", "test.conf:2: balloon: 'qmp:a': the path of the VMM's socket"},
        {"[vm a-*]\nballoon = qmp:/a\n", "test.conf:2: a balloon belongs to one VM"},
        {"[vm a]\nballoon = qmp:/a\nballoon = qmp:/a\n", "test.conf:3: 'balloon' is given twice"},
        {"[vm a]\nballoon = qmp:/a\n[vm a]\n", "test.conf:3: [vm a] is there twice"},
        {"[vm a]\nballoon = qmp:/a\nballoon-min = 2G\nballoon-max = 1G\n[vm b]\n", "balloon-max is below"},
        {"[vm a]\nballoon = qmp:/a\nballoon-max = x\n", "test.conf:3: balloon-max: 'x' is not a size"},
        {"[memd]\nbudget = 64\n", "a budget of 64 bytes: give at least 1M; is a unit missing"},
        {"[domain a]\nbudget = 1023K\n", "[domain a]: a budget of 1047552 bytes: give at least 1M"},
        {"[vm a]\nlimit = 64\n", "[vm a]: a limit of 64 bytes: give at least 1M"},
        {"[vm a]\nshares = 0\n", "from 1 to 10000000"},
        {"[vm a]\nshares = higher\n", "neither low, normal or high"},
        {"[vm a]\nshares = -1\n", "test.conf:2: shares: '-1'"},
        {"[vm a]\nswap = off\n", "'off' is neither never nor allowed"},
        {"[vm a]\nlimit = 1M\nreservation = 2M\n[vm b]\n", "[vm a]: the limit is below the reservation"},
        {"[vm a]\nreservation = 2M\nlimit = 1M\n", "[vm a]: the limit is below the reservation"},
        {"[domain a]\nuids = 4294967295\n", "'4294967295' is neither a uid nor a user"},
        {"[domain a]\nuids = -1\n", "'-1' is neither"},
        {"[domain a]\nuids = 1, no-such-user-here\n", "'no-such-user-here' is neither"},
        {"[memd]\nrun-dir =\n", "test.conf:2: run-dir: an empty path"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (!load_file(bad[i].content))
            fail_msg("taken: %s", bad[i].content);
        assert_says(bad[i].says);
    }
}

static void a_file_has_limits(void **state)
{
    static char content[CONFIG_FILE_MAX + 2];
    size_t at = 0;
    (void)state;

    memset(content, 'x', 1000);
    memcpy(content, "[memd]\nrun-dir = /", 18);
    assert_int_not_equal(load_file(content), 0);
    assert_says("test.conf:2: the line is longer than");

    for (int i = 0; i <= CORE_DOMAINS_MAX; i++)
        at += (size_t)sprintf(content + at, "[domain d%d]\n", i);
    assert_int_not_equal(load_file(content), 0);
    assert_says("test.conf:65: more than 64 domains");

    at = 0;
    for (int i = 0; i <= CORE_VM_RULES_MAX; i++)
        at += (size_t)sprintf(content + at, "[vm v%d]\n", i);
    assert_int_not_equal(load_file(content), 0);
    assert_says("test.conf:257: more than 256 [vm] sections");

    at = (size_t)sprintf(content, "[domain d]\n");
    for (int i = 0; i < CORE_UIDS_MAX; i++)
        at += (size_t)sprintf(content + at, "uids = %d\n", i);
    assert_int_equal(load_file(content), 0);
    assert_int_equal(config.core.domains[0].nuids, CORE_UIDS_MAX);
    strcpy(content + at, "uids = 99\n");
    assert_int_not_equal(load_file(content), 0);
    assert_says("test.conf:34: more than 32 uids");

    memset(content, '\n', sizeof content);
    assert_int_equal(load_file_bytes(content, CONFIG_FILE_MAX), 0);
    assert_int_not_equal(load_file_bytes(content, CONFIG_FILE_MAX + 1), 0);
    assert_says("at most 256 KiB");
    assert_int_not_equal(load_file_bytes("[memd]\nmerge = on\0off\n", 22), 0);
    assert_says("zero byte");
}

/* The example says what the defaults are: with every option let in, nothing changes but the domain. */
static void the_example_is_right(void **state)
{
    static char content[CONFIG_FILE_MAX];
    char name[512];
    struct core_config expected;
    const char *source_dir = getenv("MEMD_SOURCE_DIR");
    (void)state;

    if (!source_dir) {
        print_message("skip: MEMD_SOURCE_DIR does not say where the example is\n");
        skip();
    }
    snprintf(name, sizeof name, "%s/docs/examples/memd.conf", source_dir);
    FILE *file = fopen(name, "r");
    assert_non_null(file);
    size_t bytes = fread(content, 1, sizeof content, file);
    fclose(file);
    assert_int_equal(load_file_bytes(content, bytes), 0);
    size_t noptions = 0;
    for (size_t i = 0; i < bytes; i++)
        if (content[i] == ';' && content[i - 1] == '\n') {
            content[i] = ' ';
            noptions++;
        }
    if (load_file_bytes(content, bytes))
        fail_msg("%s", error_text);
    assert_int_equal(noptions, 29);
    core_config_default(&expected);
    assert_int_equal(config.core.ndomains, 1);
    config.core.ndomains = 0;
    memset(config.core.domains, 0, sizeof config.core.domains);
    assert_int_equal(config.core.nvm_rules, 1);
    config.core.nvm_rules = 0;
    memset(config.core.vm_rules, 0, sizeof config.core.vm_rules);
    config.core.cpu_cap = expected.cpu_cap; /* the machine's */
    assert_memory_equal(&config.core, &expected, sizeof expected);
    assert_int_equal(config.log_level, MEMD_LOG_INFO);
}

/* Neither a FIFO nobody writes to nor a device makes memd wait. */
static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_not_equal(LOAD("--config", "fifo"), 0);
    assert_says("not a regular file");
    assert_int_not_equal(LOAD("--config", "/dev/zero"), 0);
    assert_says("not a regular file");
    unlink("fifo");
}

/* Whatever a file holds: an answer, and no crash. */
static void random_files_do_no_harm(void **state)
{
    static const char alphabet[] = "[]=;#:., \t\n\r\"memdoainus019-\xff\x01";
    char content[400];
    (void)state;

    srand(1);
    for (int i = 0; i < 400; i++) {
        size_t bytes = (size_t)rand() % sizeof content, at = 0;
        if (i % 2 && bytes > 20)
            at = (size_t)sprintf(content, "%s", i % 4 == 1 ? "[memd]\n" : "[domain d]\nuids=");
        for (; at < bytes; at++)
            content[at] = alphabet[(size_t)rand() % (sizeof alphabet - 1)];
        if (load_file_bytes(content, bytes))
            assert_true(error_text[0]);
    }
}

/* A section with an agent alone says nothing of memory. */
static void agents_are_told_by_vm(void **state)
{
    (void)state;
    assert_int_equal(load_file("[vm db-1]\nagent = /run/a.sock\n[vm db-2]\nlimit = 1G\nagent = vsock:7\n"
                               "[vm db-*]\nlimit = 2G\n[vm fc]\nagent = vsock:/run/fc.sock\n"),
                     0);
    assert_int_equal(config.core.nagents, 3);
    assert_string_equal(config.core.agents[0].name, "db-1");
    assert_string_equal(config.core.agents[0].path, "/run/a.sock");
    assert_string_equal(config.core.agents[1].path, "vsock:7");
    assert_string_equal(config.core.agents[2].path, "vsock:/run/fc.sock");
    assert_int_equal(config.core.nvm_rules, 2);
    assert_string_equal(config.core.vm_rules[0].pattern, "db-2");
    assert_string_equal(config.core.vm_rules[1].pattern, "db-*");
}

#define TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_said_is_the_default),
        TEST(every_option_reaches_its_field),
        TEST(later_sources_win),
        TEST(the_default_file_is_read_if_it_exists),
        TEST(bad_values_are_refused),
        TEST(bad_words_are_refused),
        TEST(help_and_version_look_at_nothing_else),
        TEST(help_names_every_option_and_its_default),
        TEST(paths_are_made_absolute_and_fit),
        TEST(a_file_may_be_written_freely),
        TEST(vms_have_terms),
        TEST(vms_have_balloons),
        TEST(thresholds_are_in_order),
        TEST(users_have_names),
        TEST(mistakes_in_a_file_are_named_by_line),
        TEST(a_file_has_limits),
        TEST(the_example_is_right),
        TEST(what_is_no_file_is_refused),
        TEST(random_files_do_no_harm),
        TEST(agents_are_told_by_vm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
