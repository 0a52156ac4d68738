/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The documents of the control API: every counter is in them, exactly, and they are JSON whatever they hold.
 */
#include "memd/daemon/control_json.h"

#include "memd/daemon/metrics.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The document as a client reads it; `document` is taken over. */
static json_t *read_back(json_t *document)
{
    char *text = json_dumps(document, 0);

    assert_non_null(text);
    json_decref(document);
    json_t *read = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(read);
    free(text);
    return read;
}

static json_int_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        fail_msg("%s is no integer", key);
    return json_integer_value(value);
}

static const char *string(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    if (!value)
        fail_msg("%s is no string", key);
    return value;
}

/* Every word of the counters is another number, and each appears once. */
static void every_counter_is_there(void **state)
{
    struct core_vm vm = {
        .id = 7, .pid = 70, .name = "web", .domain = "vm:web", .state = "off", .release = "0"};
    uint64_t *word = (uint64_t *)&vm.c;
    (void)state;

    for (size_t i = 0; i < sizeof vm.c / sizeof *word; i++)
        word[i] = 1000 + i;
    json_t *json = read_back(control_json_vm(&vm));
    for (size_t i = 0; i < metrics_ncounters; i++)
        assert_int_equal(number(json, metrics_counters[i].name),
                         1000 + metrics_counters[i].offset / sizeof *word);
    const json_t *reasons = json_object_get(json, "ineligible_bytes");
    assert_int_equal(json_object_size(reasons), MEMD_INELIGIBLE_COUNT);
    for (int i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        assert_int_equal(number(reasons, metrics_ineligible_names[i]), vm.c.ineligible_bytes[i]);
    assert_int_equal(number(json, "id"), 7);
    assert_int_equal(number(json, "pid"), 70);
    assert_string_equal(string(json, "state"), "off");
    assert_true(json_is_false(json_object_get(json, "merge")));
    json_decref(json);
}

static void numbers_at_their_limits(void **state)
{
    struct core_snapshot snapshot = {.incarnation = UINT64_MAX, .uptime_ms = UINT64_MAX, .version = "1.2.3"};
    (void)state;

    snapshot.totals.guest_bytes = UINT64_MAX;
    snapshot.totals.net_saved_bytes = INT64_MIN;
    json_t *json = read_back(control_json_status(&snapshot));
    const json_t *totals = json_object_get(json, "totals"), *daemon = json_object_get(json, "daemon");
    assert_true(number(totals, "guest_bytes") == INT64_MAX); /* not negative */
    assert_true(number(totals, "net_saved_bytes") == INT64_MIN);
    assert_string_equal(string(daemon, "incarnation"), "ffffffffffffffff");
    assert_string_equal(string(daemon, "version"), "1.2.3");
    assert_int_equal(json_array_size(json_object_get(json, "vms")), 0);
    json_decref(json);
}

static void lists_hold_all(void **state)
{
    static struct core_vm vms[CORE_VMS_MAX];
    static struct core_domain domains[CORE_VMS_MAX];
    struct core_snapshot snapshot = {.nvms = CORE_VMS_MAX,
                                     .vms = vms,
                                     .ndomains = CORE_VMS_MAX,
                                     .domains = domains,
                                     .warning = "short",
                                     .warning_age_ms = 7};
    (void)state;

    for (uint32_t i = 0; i < CORE_VMS_MAX; i++) {
        vms[i].id = i;
        domains[i].frames = i;
    }
    json_t *json = read_back(control_json_status(&snapshot));
    assert_int_equal(number(json_array_get(json_object_get(json, "vms"), 1023), "id"), 1023);
    assert_int_equal(number(json_array_get(json_object_get(json, "domains"), 1023), "frames"), 1023);
    assert_int_equal(number(json_object_get(json, "totals"), "vms"), CORE_VMS_MAX);
    assert_string_equal(string(json, "warning"), "short");
    assert_int_equal(json_integer_value(json_object_get(json, "warning_age_ms")), 7);
    json_decref(json);
}

/* What no name should hold does not spoil the document for everybody. */
static void text_that_is_no_text(void **state)
{
    struct core_vm vm = {.name = "\xff\xfe", .domain = "a\"b\\\n\x01", .state = ""};
    (void)state;

    json_t *json = read_back(control_json_vm(&vm));
    assert_string_equal(string(json, "name"), "?");
    assert_string_equal(string(json, "domain"), "a\"b\\\n\x01");
    json_decref(json);
    json = read_back(control_json_error(ENOENT, "no \x1b[31m\xc3\xa4 VM\n"));
    assert_string_equal(string(json, "error"), "no ?[31m?? VM?");
    assert_string_equal(string(json, "code"), "ENOENT");
    json_decref(json);
}

static void jobs(void **state)
{
    struct core_job job = {.id = 5, .kind = CORE_JOB_SETTLE, .progress = 0.25};
    (void)state;

    json_t *json = read_back(control_json_job(&job));
    assert_string_equal(string(json, "kind"), "settle");
    assert_string_equal(string(json, "state"), "running");
    assert_null(json_object_get(json, "error"));
    json_decref(json);

    job.kind = CORE_JOB_UNMERGE;
    job.state = CORE_JOB_FAILED;
    job.error = ECANCELED;
    json = read_back(control_json_job(&job));
    assert_string_equal(string(json, "error"), strerror(ECANCELED)); /* without a reason in words */
    assert_string_equal(string(json, "code"), "ECANCELED");
    json_decref(json);

    job = (struct core_job){
        .kind = CORE_JOB_ESTIMATE, .state = CORE_JOB_DONE, .zero_bytes = 4096, .frame_bytes = 12288};
    json = read_back(control_json_job(&job));
    assert_true(number(json, "would_save_bytes") == -8192);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_counter_is_there),
        cmocka_unit_test(numbers_at_their_limits),
        cmocka_unit_test(lists_hold_all),
        cmocka_unit_test(text_that_is_no_text),
        cmocka_unit_test(jobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
