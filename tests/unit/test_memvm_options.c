/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memvm's command line and the words of its commands. */
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bench/memvm/options.h"

#define ARGS_MAX 16

/* Parse a NULL-terminated list of words after the program's name. */
static int parse(const char *const *words, struct options *options)
{
    char *argv[ARGS_MAX + 2] = {(char *)"memvm"};
    int argc = 1;

    for (; *words && argc <= ARGS_MAX; words++)
        argv[argc++] = (char *)*words;
    optind = 0; /* getopt's way of starting anew */
    return options_parse(argc, argv, options);
}
#define PARSE(options, ...) parse((const char *const[]){__VA_ARGS__, NULL}, options)

static void numbers_are_bounded_and_whole(void **state)
{
    uint64_t value = 5;

    (void)state;
    assert_int_equal(options_parse_u64("12", 0, 20, &value), 0);
    assert_int_equal(value, 12);
    assert_int_equal(options_parse_u64("0x10", 0, 20, &value), 0);
    assert_int_equal(value, 16);
    assert_int_not_equal(options_parse_u64("21", 0, 20, &value), 0);
    assert_int_not_equal(options_parse_u64("3", 4, 20, &value), 0);
    assert_int_not_equal(options_parse_u64("", 0, 20, &value), 0);
    assert_int_not_equal(options_parse_u64("-1", 0, UINT64_MAX, &value), 0);
    assert_int_not_equal(options_parse_u64("1x", 0, 20, &value), 0);
    assert_int_not_equal(options_parse_u64("99999999999999999999", 0, UINT64_MAX, &value), 0);
    assert_int_equal(value, 16);
}

static void sizes_take_suffixes(void **state)
{
    uint64_t bytes;

    (void)state;
    assert_int_equal(options_parse_bytes("4096", &bytes), 0);
    assert_int_equal(bytes, 4096);
    assert_int_equal(options_parse_bytes("2M", &bytes), 0);
    assert_int_equal(bytes, 2u << 20);
    assert_int_equal(options_parse_bytes("3g", &bytes), 0);
    assert_int_equal(bytes, 3ull << 30);
    assert_int_not_equal(options_parse_bytes("M", &bytes), 0);
    assert_int_not_equal(options_parse_bytes("1MM", &bytes), 0);
    assert_int_not_equal(options_parse_bytes("99999999999G", &bytes), 0);
}

static void shares_have_four_decimals(void **state)
{
    static const struct {
        const char *word;
        uint64_t ppm;
    } good[] = {{"0", 0}, {"1", 10000}, {"100", 1000000}, {"0.1", 1000}, {"0.0001", 1}, {"12.5", 125000}};
    static const char *const bad[] = {"", ".", "1001", "0.00001", "-1", "1.x", "1%"};
    uint64_t ppm;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(options_parse_ppm(good[i].word, &ppm), 0);
        assert_int_equal(ppm, good[i].ppm);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_not_equal(options_parse_ppm(bad[i], &ppm), 0);
}

static void defaults_are_what_help_says(void **state)
{
    struct options options;

    (void)state;
    assert_int_equal(parse((const char *const[]){NULL}, &options), 0);
    assert_string_equal(options.accel, "kvm");
    assert_int_equal(options.mem_mib, 256);
    assert_int_equal(options.vcpus, 1);
    assert_true(options.thp && options.dontfork);
    assert_false(options.verify || options.no_memd || options.no_daemon || options.inject);
    assert_non_null(strstr(options.name, "memvm-"));
    assert_int_not_equal(options.seed, 0);
}

static void options_reach_their_fields(void **state)
{
    struct options options;

    (void)state;
    assert_int_equal(PARSE(&options, "--accel", "thread", "--mem", "64", "--vcpus", "4", "--verify", "200",
                           "--churn", "1.5", "--thp", "off", "--shared=50", "--inject-corruption", "--name",
                           "web-1"),
                     0);
    assert_string_equal(options.accel, "thread");
    assert_int_equal(options.mem_mib, 64);
    assert_int_equal(options.vcpus, 4);
    assert_true(options.verify && options.inject);
    assert_int_equal(options.verify_mbps, 200);
    assert_int_equal(options.churn_ppm, 15000);
    assert_int_equal(options.shared_percent, 50);
    assert_false(options.thp);
    assert_string_equal(options.name, "web-1");
}

static void nonsense_is_refused(void **state)
{
    struct options options = {.mem_mib = 77};

    (void)state;
    assert_true(PARSE(&options, "--accel", "tcg") < 0);
    assert_true(PARSE(&options, "--mem", "4") < 0);
    assert_true(PARSE(&options, "--vcpus", "5") < 0);
    assert_true(PARSE(&options, "--name", "a b") < 0);
    assert_true(PARSE(&options, "--name", "") < 0);
    assert_true(PARSE(&options, "--mergeable") < 0); /* without --no-memd */
    assert_true(PARSE(&options, "--thp", "maybe") < 0);
    assert_true(PARSE(&options, "--nonesuch") < 0);
    assert_true(PARSE(&options, "word") < 0);
    assert_int_equal(options.mem_mib, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_bounded_and_whole), cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(shares_have_four_decimals),     cmocka_unit_test(defaults_are_what_help_says),
        cmocka_unit_test(options_reach_their_fields),    cmocka_unit_test(nonsense_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
