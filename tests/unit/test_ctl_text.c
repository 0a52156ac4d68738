/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How memctl writes and reads sizes, durations and tables. */
#include "memd/ctl/ctl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void sizes(void **state)
{
    static const struct {
        int64_t bytes;
        const char *text;
    } sizes[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {-1023, "-1023 B"},
        {1024, "1.0 KiB"},
        {-4096, "-4.0 KiB"},
        {102400, "100 KiB"},
        {1023 << 10, "1023 KiB"},
        {(1 << 20) - 1, "1.0 MiB"},
        {256 << 20, "256 MiB"},
        {9ll << 30, "9.0 GiB"},
        {INT64_MAX, "8192 PiB"},
        {INT64_MIN, "-8192 PiB"},
    };
    char text[CTL_SIZE_BYTES];
    (void)state;

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_string_equal(ctl_size(text, sizes[i].bytes), sizes[i].text);
}

static void durations(void **state)
{
    static const struct {
        uint64_t ms;
        const char *text;
    } durations[] = {
        {0, "0.0 s"},           {59999, "59.9 s"},     {60000, "1 min 0 s"},
        {3600000, "1 h 0 min"}, {90000000, "1 d 1 h"}, {UINT64_MAX, "213503982334 d 14 h"},
    };
    char text[CTL_SIZE_BYTES];
    (void)state;

    for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++)
        assert_string_equal(ctl_duration(text, durations[i].ms), durations[i].text);
}

static void sizes_are_read(void **state)
{
    static const char *const bad[] = {"",    "G",  "-1",   "+1",   " 1",          "1 G",
                                      "1GB", "1Q", "0x10", "1.5G", "99999999999T"};
    uint64_t bytes = 7;
    (void)state;

    assert_int_equal(ctl_parse_size("16G", &bytes), 0);
    assert_int_equal(bytes, 16ull << 30);
    assert_int_equal(ctl_parse_size("12k", &bytes), 0);
    assert_int_equal(bytes, 12 << 10);
    assert_int_equal(ctl_parse_size("4096", &bytes), 0);
    assert_int_equal(bytes, 4096);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_not_equal(ctl_parse_size(bad[i], &bytes), 0);
    assert_int_equal(bytes, 4096); /* untouched */
}

static char *print_table(struct ctl_table *table)
{
    char *text = NULL;
    size_t bytes;
    struct ctl ctl = {.out = open_memstream(&text, &bytes)};

    ctl_table_print(&ctl, table);
    fclose(ctl.out);
    ctl_table_free(table);
    return text;
}

static void columns_are_as_wide_as_needed(void **state)
{
    struct ctl_table table = {.ncolumns = 3, .right = 1 << 1};
    (void)state;

    assert_int_equal(ctl_table_add(&table, "NAME\tN\tSTATE"), 0);
    assert_int_equal(ctl_table_add(&table, "%s\t%d\t%s", "a", 100, "off"), 0);
    assert_int_equal(ctl_table_add(&table, "longer\t7"), 0);
    char *text = print_table(&table);
    assert_string_equal(text, "NAME      N  STATE\na       100  off\nlonger    7  \n");
    free(text);
}

/* A peer's text stays in its cell and cannot drive the terminal. */
static void cells_are_tame(void **state)
{
    struct ctl_table table = {.ncolumns = 1, .headless = true};
    char line[] = "\033]0;x\a\r\n\177";
    char wide[3 * CTL_CELL_BYTES];
    (void)state;

    memset(wide, 'w', sizeof wide);
    wide[sizeof wide - 1] = 0;
    for (int i = 0; i < 40; i++) /* beyond what was there at first */
        assert_int_equal(ctl_table_add(&table, "%s", i ? "\033[31m" : wide), 0);
    char *text = print_table(&table);
    assert_null(strchr(text, '\033'));
    assert_int_equal(strcspn(text, "\n"), CTL_CELL_BYTES - 1);
    free(text);
    assert_string_equal(ctl_printable(line), "?]0;x????");
}

/* Fields that are missing or of another kind read as nothing. */
static void fields_of_another_kind_are_nothing(void **state)
{
    json_t *object = json_pack("{s:i, s:s, s:b, s:n}", "number", 5, "text", "t", "flag", 1, "null");
    (void)state;

    assert_int_equal(ctl_get_int(object, "number"), 5);
    assert_int_equal(ctl_get_int(object, "text"), 0);
    assert_int_equal(ctl_get_int(object, "none"), 0);
    assert_int_equal(ctl_get_int(NULL, "number"), 0);
    assert_string_equal(ctl_get_text(object, "text"), "t");
    assert_string_equal(ctl_get_text(object, "number"), "");
    assert_string_equal(ctl_get_text(object, "null"), "");
    assert_true(ctl_get_bool(object, "flag"));
    assert_false(ctl_get_bool(object, "number"));
    json_decref(object);
}

static void paths_are_escaped(void **state)
{
    char path[CTL_PATH_BYTES], name[CTL_PATH_BYTES];
    (void)state;

    assert_int_equal(ctl_http_path(path, sizeof path, "/v1/vms/", "a b/c?d%e"), 0);
    assert_string_equal(path, "/v1/vms/a%20b%2Fc%3Fd%25e");
    memset(name, '/', sizeof name);
    name[sizeof name - 1] = 0;
    assert_int_not_equal(ctl_http_path(path, sizeof path, "/v1/vms/", name), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes_are_read),
        cmocka_unit_test(columns_are_as_wide_as_needed),
        cmocka_unit_test(cells_are_tame),
        cmocka_unit_test(fields_of_another_kind_are_nothing),
        cmocka_unit_test(paths_are_escaped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
