/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The metrics page against the rules of OpenMetrics 1.0 (the ones a scraper stops at), with names and numbers
 * at their limits; and what it says of a snapshot.
 */
#include "memd/daemon/metrics.h"

#include "balloon-driver/backends/balloons.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FAMILIES_MAX 256
#define SAMPLES_MAX  16384

/* ---------------------------------------------------------------- a reader of the format */

struct family {
    char name[128], type[16], unit[16];
    bool helped;
};

static struct {
    struct family family[FAMILIES_MAX];
    size_t nfamilies, nsamples;
    char *sample[SAMPLES_MAX]; /* name and labels, without the value */
} page;

static void page_clear(void)
{
    for (size_t i = 0; i < page.nsamples; i++)
        free(page.sample[i]);
    page.nfamilies = page.nsamples = 0;
}

static bool is_name(const char *name, size_t length)
{
    return length && !(*name >= '0' && *name <= '9') &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_:") >= length;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), want = strlen(end);

    return length > want && !strcmp(text + length - want, end);
}

/* "# TYPE name type" begins a family; UNIT and HELP belong to the family begun last and come before its
 * samples. */
static void read_comment(const char *line)
{
    static const char *const types[] = {"gauge", "counter", "info", "histogram"};
    struct family *family = page.nfamilies ? &page.family[page.nfamilies - 1] : NULL;
    char name[128], word[16];
    bool known = false;

    if (sscanf(line, "# TYPE %127s %15s", name, word) == 2) {
        assert_true(page.nfamilies < FAMILIES_MAX);
        for (size_t i = 0; i < page.nfamilies; i++)
            assert_string_not_equal(page.family[i].name, name); /* one block per family */
        for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
            known |= !strcmp(word, types[i]);
        assert_true(known && is_name(name, strlen(name)));
        assert_false(ends_with(name, "_total") || ends_with(name, "_info"));
        family = &page.family[page.nfamilies++];
        *family = (struct family){0};
        strcpy(family->name, name);
        strcpy(family->type, word);
    } else if (sscanf(line, "# UNIT %127s %15s", name, word) == 2) {
        assert_string_equal(name, family->name);
        assert_true(ends_with(name, word) && name[strlen(name) - strlen(word) - 1] == '_');
        strcpy(family->unit, word);
    } else {
        assert_int_equal(sscanf(line, "# HELP %127s %15s", name, word), 2);
        assert_string_equal(name, family->name);
        assert_false(family->helped);
        family->helped = true;
    }
}

/* The end of a label set that begins with '{': escapes are \\, \" and \n; names are unique. */
static const char *read_labels(const char *at)
{
    char seen[8][32];
    size_t nseen = 0;

    do {
        size_t length = strcspn(++at, "=");
        assert_true(is_name(at, length) && length < sizeof seen[0] && nseen < 8);
        snprintf(seen[nseen], sizeof seen[0], "%.*s", (int)length, at);
        for (size_t i = 0; i < nseen; i++)
            assert_string_not_equal(seen[i], seen[nseen]);
        nseen++;
        at += length + 1;
        assert_int_equal(*at++, '"');
        for (; *at != '"'; at++) {
            assert_true(*at && *at != '\n');
            if (*at == '\\')
                assert_true(*++at == '\\' || *at == '"' || *at == 'n');
        }
    } while (*++at == ',');
    assert_int_equal(*at, '}');
    return at + 1;
}

static void read_sample(const char *line)
{
    const struct family *family = &page.family[page.nfamilies - 1];
    bool histogram = !strcmp(family->type, "histogram");
    size_t length = strcspn(line, "{ "), name = strlen(family->name);
    const char *suffix = !strcmp(family->type, "counter")              ? "_total"
                         : !strcmp(family->type, "info")               ? "_info"
                         : histogram && !strncmp(line + name, "_b", 2) ? "_bucket"
                         : histogram && !strncmp(line + name, "_c", 2) ? "_count"
                         : histogram                                   ? "_sum"
                                                                       : "";
    char expected[144], *end;

    assert_true(page.nfamilies && family->helped);
    snprintf(expected, sizeof expected, "%s%s", family->name, suffix);
    assert_int_equal(length, strlen(expected));
    assert_memory_equal(line, expected, length);
    const char *after = line[length] == '{' ? read_labels(line + length) : line + length;
    assert_int_equal(*after, ' ');
    double value = strtod(after + 1, &end);
    assert_true(end > after + 1 && !*end);
    assert_true(!*suffix || value >= 0);
    assert_true(page.nsamples < SAMPLES_MAX);
    char *series = strndup(line, (size_t)(after - line));
    for (size_t i = 0; i < page.nsamples; i++)
        assert_string_not_equal(page.sample[i], series); /* each series once */
    page.sample[page.nsamples++] = series;
}

/* The whole page, line by line; fails the test at the first line a scraper would refuse. */
static void read_page(const char *text, size_t bytes)
{
    page_clear();
    assert_int_equal(strlen(text), bytes);
    assert_true(bytes > 6 && !strcmp(text + bytes - 6, "# EOF\n"));
    char *copy = strdup(text), *next = copy;
    for (char *line; (line = strsep(&next, "\n")) && strcmp(line, "# EOF");) {
        if (*line == '#')
            read_comment(line);
        else
            read_sample(line);
    }
    assert_string_equal(next, ""); /* nothing behind it */
    free(copy);
    for (size_t i = 0; i < page.nfamilies; i++)
        if (ends_with(page.family[i].name, "_bytes") || ends_with(page.family[i].name, "_seconds"))
            assert_true(page.family[i].unit[0]);
}

/* ---------------------------------------------------------------- pages */

static char *text;
static struct balloons *balloons;

static int group_setup(void **state)
{
    const struct balloons_options none = {.proc_root = "/proc"};

    (void)state;
    return balloons_open(&none, &balloons);
}

static int group_teardown(void **state)
{
    (void)state;
    balloons_close(balloons);
    return 0;
}

static int end(void **state)
{
    (void)state;
    page_clear();
    free(text);
    text = NULL;
    return 0;
}

static void format(const struct core_snapshot *snapshot)
{
    size_t bytes;

    assert_int_equal(metrics_format(snapshot, balloons, &text, &bytes), 0);
    read_page(text, bytes);
}

static void assert_has(const char *line)
{
    char whole[256];

    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (!strstr(text, whole))
        fail_msg("no line \"%s\"", line);
}

static void an_empty_host_is_a_valid_page(void **state)
{
    struct core_snapshot snapshot = {.version = "1.2.3"};
    (void)state;

    format(&snapshot);
    assert_has("memd_build_info{version=\"1.2.3\"} 1");
    assert_has("memd_vms 0");
    assert_has("memd_saved_bytes 0");
    assert_has("memd_ineligible_bytes{reason=\"pinned\"} 0");
}

/* Every counter appears under its name, with its own value, in the sums and per VM. */
static void every_counter_is_there(void **state)
{
    struct core_vm vm = {.id = 5, .name = "web", .domain = "vm:web", .settled = true};
    struct core_snapshot snapshot = {.nvms = 1, .vms = &vm, .warning = "short"};
    uint64_t *total = (uint64_t *)&snapshot.totals, *own = (uint64_t *)&vm.c;
    char line[256];
    (void)state;

    for (size_t i = 0; i < sizeof snapshot.totals / sizeof *total; i++) {
        total[i] = 1000 + i;
        own[i] = 2000 + i;
    }
    format(&snapshot);
    for (size_t i = 0; i < metrics_ncounters; i++) {
        const struct metrics_counter *c = &metrics_counters[i];
        size_t at = c->offset / sizeof *total;
        if (c->kind == METRICS_COUNTER_NS)
            continue;
        const char *suffix = c->kind == METRICS_COUNTER ? "_total" : "";
        snprintf(line, sizeof line, "memd_%s%s %zu", c->name, suffix, 1000 + at);
        assert_has(line);
        snprintf(line, sizeof line, "memd_vm_%s%s{vm=\"web\",id=\"5\",domain=\"vm:web\"} %zu", c->name,
                 suffix, 2000 + at);
        assert_has(line);
    }
    snprintf(line, sizeof line, "memd_cpu_seconds_total 0.%09" PRIu64, snapshot.totals.cpu_ns);
    assert_has(line);
    snprintf(line, sizeof line, "memd_held_seconds_total 0.%09" PRIu64, snapshot.totals.held_ns);
    assert_has(line);
    snprintf(line, sizeof line,
             "memd_vm_ineligible_bytes{vm=\"web\",id=\"5\",domain=\"vm:web\",reason=\"hugetlb\"} %" PRIu64,
             vm.c.ineligible_bytes[MEMD_INELIGIBLE_HUGETLB]);
    assert_has(line);
    assert_has("memd_vm_settled{vm=\"web\",id=\"5\",domain=\"vm:web\"} 1");
    assert_has("memd_shortage 1");
}

static void numbers_are_exact_at_their_limits(void **state)
{
    struct core_snapshot snapshot = {.daemon_cpu_ns = 1234567890000000001, .uptime_ms = 61500};
    (void)state;

    snapshot.totals.guest_bytes = UINT64_MAX;
    snapshot.totals.net_saved_bytes = INT64_MIN;
    snapshot.totals.cpu_ns = UINT64_MAX;
    format(&snapshot);
    assert_has("memd_guest_bytes 18446744073709551615");
    assert_has("memd_net_saved_bytes -9223372036854775808");
    assert_has("memd_cpu_seconds_total 18446744073.709551615");
    assert_has("memd_daemon_cpu_seconds_total 1234567890.000000001");
    assert_has("memd_uptime_seconds 61.500000000");
}

static void decisions_are_counted(void **state)
{
    struct core_snapshot snapshot = {.version = "0"};

    (void)state;
    snapshot.policy.decisions[BUDGET_ORDERED] = 3;
    snapshot.policy.decisions[BUDGET_GIVEN_BACK] = UINT64_MAX;
    snapshot.policy.balloon_looks[BALLOON_RULE_SPARE] = 4;
    snapshot.policy.balloon_excluded[BALLOON_RISKY] = 5;
    snapshot.policy.orders[CORE_RUNG_PAGER] = 6;
    snapshot.policy.asked_bytes[CORE_RUNG_BALLOON] = 8192;
    snapshot.policy.returned_bytes[CORE_RUNG_BALLOON] = 4096;
    format(&snapshot);
    assert_has("memd_policy_decisions_total{reason=\"ordered\"} 3");
    assert_has("memd_policy_decisions_total{reason=\"given-back\"} 18446744073709551615");
    assert_has("memd_policy_balloon_looks_total{rule=\"spare\"} 4");
    assert_has("memd_policy_balloon_excluded_total{reason=\"risky\"} 5");
    assert_has("memd_policy_orders_total{rung=\"pager\"} 6");
    assert_has("memd_policy_asked_bytes_total{rung=\"balloon\"} 8192");
    assert_has("memd_policy_returned_bytes_total{rung=\"balloon\"} 4096");
    assert_has("memd_policy_returned_bytes_total{rung=\"pager\"} 0");
}

static void names_are_escaped(void **state)
{
    struct core_vm vms[2] = {{.id = 1, .name = "a\"b\\c\nd", .domain = "{}=,"},
                             {.id = 2, .name = "", .domain = ""}};
    struct core_domain domains[2] = {{.name = "\\"}, {.name = "\""}};
    struct core_snapshot snapshot = {.nvms = 2, .vms = vms, .ndomains = 2, .domains = domains};
    (void)state;

    format(&snapshot);
    assert_has("memd_vm_settled{vm=\"a\\\"b\\\\c\\nd\",id=\"1\",domain=\"{}=,\"} 0");
    assert_has("memd_domain_frames{domain=\"\\\\\"} 0");
}

/* Buckets count all that is below their bound, and the last one everything. */
static void usage_is_there(void **state)
{
    struct core_vm vm = {.id = 5,
                         .name = "web",
                         .domain = "d",
                         .ws = {.periods = 1,
                                .error_bytes = 7,
                                .samplable_bytes = 8,
                                .unsampled_bytes = 9,
                                .written_bytes = 10,
                                .nidle = 1,
                                .idle_ms = {30500},
                                .idle_bytes = {11}}};
    struct core_snapshot snapshot = {.nvms = 1, .vms = &vm};
    struct core_latency *swapped = &vm.latency[WIRE_TIER_SWAPPED];
    (void)state;

    swapped->buckets[0] = 1;
    swapped->buckets[2] = 2;
    swapped->buckets[WIRE_LATENCY_BUCKETS - 1] = 3;
    swapped->sum_ns = 1500000000;
    format(&snapshot);
    assert_has("memd_vm_working_set_error_bytes{vm=\"web\",id=\"5\",domain=\"d\"} 7");
    assert_has("memd_vm_samplable_bytes{vm=\"web\",id=\"5\",domain=\"d\"} 8");
    assert_has("memd_vm_unsampled_bytes{vm=\"web\",id=\"5\",domain=\"d\"} 9");
    assert_has("memd_vm_written_bytes{vm=\"web\",id=\"5\",domain=\"d\"} 10");
    assert_has("memd_vm_idle_bytes{vm=\"web\",id=\"5\",domain=\"d\",seconds=\"30.500\"} 11");
#define OF(name, more) \
    "memd_vm_fault_latency_seconds_" name "{vm=\"web\",id=\"5\",domain=\"d\",tier=\"swapped\"" more "} "
    assert_has(OF("bucket", ",le=\"0.000001024\"") "1");
    assert_has(OF("bucket", ",le=\"0.000002048\"") "1");
    assert_has(OF("bucket", ",le=\"0.000004096\"") "3");
    assert_has(OF("bucket", ",le=\"+Inf\"") "6");
    assert_has(OF("count", "") "6");
    assert_has(OF("sum", "") "1.500000000");
    vm.ws.periods = vm.ws.nidle = 0;
    free(text);
    format(&snapshot);
    assert_null(strstr(text, "memd_vm_samplable_bytes{"));
}

/* VMs of one name, which a restart can show for a moment, are still two series. */
static void many_vms_are_told_apart(void **state)
{
    static struct core_vm vms[40];
    struct core_snapshot snapshot = {.nvms = 40, .vms = vms};
    (void)state;

    for (uint32_t i = 0; i < 40; i++)
        vms[i] = (struct core_vm){.id = i, .name = "same", .domain = "d"};
    format(&snapshot);
    assert_true(page.nsamples > 40 * metrics_ncounters);
}

#define TEST(f) cmocka_unit_test_teardown(f, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_empty_host_is_a_valid_page),
        TEST(every_counter_is_there),
        TEST(numbers_are_exact_at_their_limits),
        TEST(names_are_escaped),
        TEST(decisions_are_counted),
        TEST(many_vms_are_told_apart),
        TEST(usage_is_there),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
