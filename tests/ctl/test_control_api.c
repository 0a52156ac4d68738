/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of the control API over a fake core: what each answers, and what is refused how. */
#include "memd/common/clock.h"
#include "memd/daemon/control.h"
#include "tests/ctl/fake_core.h"
#include "tests/ctl/server.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

/* ---------------------------------------------------------------- who asks well */

static void every_route_answers(void **state)
{
    (void)state;
    struct client_answer status = server_ask("GET", "/v1/status", NULL);
    assert_int_equal(status.status, 200);
    assert_non_null(strstr(status.header, "Content-Type: application/json\r\n"));
    assert_int_equal(server_status_of("GET", "/v1/vms", NULL), 200);
    assert_int_equal(server_status_of("GET", "/v1/vms/alpha", NULL), 200);
    assert_int_equal(server_status_of("GET", "/v1/vms/2", NULL), 200);
    assert_int_equal(server_status_of("GET", "/v1/why/alpha", NULL), 200);
    assert_int_equal(server_status_of("GET", "/v1/why/gamma", NULL), 404);
    assert_int_equal(server_status_of("POST", "/v1/budget", "{\"dry_run\": true}"), 200);
    assert_int_equal(server_status_of("POST", "/v1/budget", "{\"bytes\": 0}"), 200);
    assert_non_null(strstr(server_ask("GET", "/metrics", NULL).header,
                           "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert_int_equal(server_status_of("POST", "/v1/merge", "{\"on\": true}"), 200);
    assert_int_equal(server_status_of("POST", "/v1/merge", "{\"on\": false, \"vm\": \"alpha\"}"), 200);
    assert_int_equal(server_status_of("POST", "/v1/unmerge", "{\"vm\": \"all\"}"), 202);
    assert_int_equal(server_status_of("POST", "/v1/settle", NULL), 202);
    assert_int_equal(server_status_of("POST", "/v1/settle", "{}"), 202);
    assert_int_equal(server_status_of("POST", "/v1/pageout", "{\"vm\": \"alpha\"}"), 202);
    assert_true(fake.last_paging.all && fake.last_paging.bytes == UINT64_MAX);
    assert_int_equal(server_status_of("POST", "/v1/pageout", "{\"vm\": \"alpha\", \"bytes\": 5000}"), 202);
    assert_true(!fake.last_paging.all && fake.last_paging.bytes == 8192 && fake.last_paging.park_ms);
    assert_int_equal(server_status_of("POST", "/v1/pagein", "{\"vm\": \"alpha\"}"), 202);
    assert_int_equal(server_status_of("POST", "/v1/estimate", "{}"), 202);
    assert_int_equal(server_status_of("POST", "/v1/estimate", "{\"vms\": [\"alpha\", \"2\"]}"), 202);
    assert_int_equal(server_status_of("GET", "/v1/agents", NULL), 200);
    assert_int_equal(server_status_of("POST", "/v1/reclaim", "{\"vm\": \"alpha\", \"bytes\": 5000}"), 202);
    assert_true(fake.last_paging.bytes == 5000 && fake.last_paging.park_ms == 60000);
    assert_int_equal(server_status_of("GET", "/v1/jobs/1", NULL), 200);
    assert_int_equal(server_status_of("DELETE", "/v1/jobs/1", NULL), 200);
}

/* HEAD announces a body it does not send: two of them on one connection tell. */
static void head_is_get_without_a_body(void **state)
{
    char text[8192];
    size_t got = 0;
    ssize_t n;
    (void)state;

    int fd = client_connect(server_path);
    client_send_text(fd, "HEAD /v1/status HTTP/1.1\r\nHost: memd\r\nConnection: close\r\n\r\n");
    while ((n = recv(fd, text + got, sizeof text - 1 - got, 0)) > 0)
        got += (size_t)n;
    text[got] = 0;
    close(fd);
    assert_memory_equal(text, "HTTP/1.1 200 ", 13);
    assert_string_equal(text + got - 4, "\r\n\r\n");
}

static void a_job_is_followed_to_its_end(void **state)
{
    (void)state;
    fake.job_polls = 3;
    json_t *json = json_loads(server_ask("POST", "/v1/estimate", NULL).body, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(json, "job")), 1);
    json_decref(json);

    json = json_loads(server_ask("GET", "/v1/jobs/1", NULL).body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "running");
    assert_null(json_object_get(json, "would_save_bytes"));
    json_decref(json);

    json = json_loads(server_ask("GET", "/v1/jobs/1?wait_ms=10000", NULL).body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "done");
    assert_int_equal(json_integer_value(json_object_get(json, "would_save_bytes")), 270ll << 20);
    json_decref(json);
}

static void a_wait_ends_when_its_time_is_up(void **state)
{
    (void)state;
    fake.job_polls = UINT32_MAX;
    assert_int_equal(server_status_of("POST", "/v1/settle", NULL), 202);
    uint64_t before_ns = clock_now_ns();
    assert_non_null(strstr(server_ask("GET", "/v1/jobs/1?wait_ms=300", NULL).body, "\"running\""));
    assert_true(clock_now_ns() - before_ns >= 300 * CLOCK_MS);
}

static void a_failed_job_says_why(void **state)
{
    (void)state;
    fake.job_polls = 1;
    fake.job_error = ENOMEM;
    assert_int_equal(server_status_of("POST", "/v1/unmerge", "{\"vm\": \"alpha\"}"), 202);
    struct client_answer answer = server_ask("GET", "/v1/jobs/1", NULL);
    server_assert_refused(answer, 200, "ENOMEM"); /* the request itself went well */
    assert_non_null(strstr(answer.body, "does not fit: 120 MiB wanted, 40 MiB available"));
}

/* Several requests in one packet are answered in their order. */
static void pipelined_requests_are_answered_in_order(void **state)
{
    static const char merge[] =
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 11\r\n\r\n{\"on\":true}";
    char all[4096] = "";
    (void)state;

    for (int i = 0; i < 8; i++) {
        strcat(all, "GET /v1/vms/alpha HTTP/1.1\r\nHost: memd\r\n\r\n");
        strcat(all, merge);
        strcat(all, "GET /v1/nothing HTTP/1.1\r\nHost: memd\r\n\r\n");
    }
    int fd = client_connect(server_path);
    client_send_text(fd, all);
    for (int i = 0; i < 8; i++) {
        struct client_answer answer = client_receive(fd);
        assert_int_equal(answer.status, 200);
        assert_non_null(strstr(answer.body, "\"alpha\""));
        answer = client_receive(fd);
        assert_int_equal(answer.status, 200);
        assert_non_null(strstr(answer.body, "\"on\": true"));
        assert_int_equal(client_receive(fd).status, 404);
    }
    close(fd);
    assert_int_equal(fake.commands, 8);
}

static void a_body_in_pieces_is_put_together(void **state)
{
    static const char chunked[] =
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\n{\"on\"\r\n7\r\n: false\r\n1\r\n}\r\n0\r\n\r\n";
    (void)state;

    int fd = client_connect(server_path);
    for (const char *c = chunked; *c; c++)
        client_send(fd, c, 1);
    assert_int_equal(client_receive(fd).status, 200);
    close(fd);
    assert_int_equal(fake.commands, 1);
    assert_false(fake.last_on);
}

/* ---------------------------------------------------------------- who does not */

static void bad_bodies_are_refused(void **state)
{
    static const struct {
        const char *url, *body;
    } bad[] = {
        {"/v1/merge", NULL},
        {"/v1/merge", "{}"},
        {"/v1/merge", "{\"on\": 1}"},
        {"/v1/merge", "{\"on\": \"yes\"}"},
        {"/v1/merge", "{\"on\": true, \"on\": false}"},
        {"/v1/merge", "{\"on\": true, \"wm\": \"alpha\"}"},
        {"/v1/merge", "{\"on\": true, \"vm\": \"\"}"},
        {"/v1/merge", "{\"on\": true, \"vm\": 1}"},
        {"/v1/merge", "{\"on\": true}garbage"},
        {"/v1/merge", "[{\"on\": true}]"},
        {"/v1/merge", "{\"on\": true"},
        {"/v1/merge", "\xff\xfe"},
        {"/v1/merge", "{\"on\": true, \"vm\": \"a\\u0000b\"}"},
        {"/v1/budget", NULL},
        {"/v1/budget", "{\"dry_run\": 1}"},
        {"/v1/budget", "{\"dry_run\": null}"},
        {"/v1/budget", "{\"dry_run\": true, \"bytes\": 0}"},
        {"/v1/unmerge", NULL},
        {"/v1/unmerge", "{\"vm\": null}"},
        {"/v1/unmerge", "{\"vm\": [\"all\"]}"},
        {"/v1/pageout", NULL},
        {"/v1/pageout", "{\"bytes\": 4096}"},
        {"/v1/pageout", "{\"vm\": \"alpha\", \"bytes\": 0}"},
        {"/v1/pageout", "{\"vm\": \"alpha\", \"bytes\": -1}"},
        {"/v1/pageout", "{\"vm\": \"alpha\", \"bytes\": \"1M\"}"},
        {"/v1/pagein", "{\"vm\": \"\"}"},
        {"/v1/settle", "{\"timeout\": 3}"},
        {"/v1/settle", "null"},
        {"/v1/estimate", "{\"vms\": \"alpha\"}"},
        {"/v1/estimate", "{\"vms\": [1]}"},
        {"/v1/estimate", "{\"vms\": [\"alpha\", \"\"]}"},
        {"/v1/estimate", "{\"vms\": [null]}"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        print_message("%s %s\n", bad[i].url, bad[i].body ? bad[i].body : "(none)");
        server_assert_refused(server_ask("POST", bad[i].url, bad[i].body), 400, "EINVAL");
    }
    assert_int_equal(fake.commands, 0);
}

static void a_name_too_long_does_not_reach_the_core(void **state)
{
    char body[512];
    (void)state;

    snprintf(body, sizeof body, "{\"on\": true, \"vm\": \"%0*d\"}", CORE_NAME_BYTES, 0);
    server_assert_refused(server_ask("POST", "/v1/merge", body), 400, "EINVAL");
    snprintf(body, sizeof body, "{\"on\": true, \"vm\": \"%0*d\"}", CORE_NAME_BYTES - 1, 0);
    server_assert_refused(server_ask("POST", "/v1/merge", body), 404, "ENOENT");
}

static void deep_and_wide_json_is_refused(void **state)
{
    enum { DEPTH = 60000 };
    char *body = malloc(DEPTH + 1);
    (void)state;

    memset(body, '[', DEPTH);
    body[DEPTH] = 0;
    server_assert_refused(server_ask("POST", "/v1/merge", body), 400, "EINVAL");
    size_t at = (size_t)sprintf(body, "{\"vms\": [\"1\"");
    for (int i = 0; i < CORE_VMS_MAX; i++)
        at += (size_t)sprintf(body + at, ",\"1\"");
    strcpy(body + at, "]}");
    server_assert_refused(server_ask("POST", "/v1/estimate", body), 400, "E2BIG");
    free(body);
}

static void unknown_paths_and_methods_are_refused(void **state)
{
    static const char *const nowhere[] = {
        "/",           "/v1",         "/v1/",          "/v1/status/",     "/v1/statusx",
        "/v1/vms/",    "/v1/vms/a/b", "/v1/vms/a%2fb", "/v1/vms/..%2f..", "/../v1/status",
        "//v1/status", "/v1/jobs/",   "/V1/STATUS",    "/v2/status",
    };
    (void)state;

    for (size_t i = 0; i < sizeof nowhere / sizeof nowhere[0]; i++) {
        print_message("%s\n", nowhere[i]);
        server_assert_refused(server_ask("GET", nowhere[i], NULL), 404, "ENOENT");
    }
    server_assert_refused(server_ask("GET", "/v1/vms/..", NULL), 404, "ENOENT");
    server_assert_refused(server_ask("POST", "/v1/status", "{}"), 405, "EINVAL");
    struct client_answer answer = server_ask("PUT", "/v1/jobs/1", NULL);
    server_assert_refused(answer, 405, "EINVAL");
    assert_non_null(strstr(answer.header, "Allow: GET, DELETE\r\n"));
    assert_non_null(strstr(server_ask("GET", "/v1/merge", NULL).header, "Allow: POST\r\n"));
    server_assert_refused(server_ask("BREW", "/v1/status", NULL), 405, "EINVAL");
}

static void bad_job_numbers_are_refused(void **state)
{
    static const char *const bad[] = {
        "x", "-1", "1x", "+1", "%201", "9223372036854775808", "99999999999999999999999999"};
    char url[128];
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(url, sizeof url, "/v1/jobs/%s", bad[i]);
        server_assert_refused(server_ask("GET", url, NULL), 400, "EINVAL");
        server_assert_refused(server_ask("DELETE", url, NULL), 400, "EINVAL");
    }
    server_assert_refused(server_ask("GET", "/v1/jobs/0", NULL), 404, "ENOENT");
    server_assert_refused(server_ask("GET", "/v1/jobs/7", NULL), 404, "ENOENT");
    assert_int_equal(server_status_of("POST", "/v1/settle", NULL), 202);
    server_assert_refused(server_ask("GET", "/v1/jobs/1?wait_ms=-5", NULL), 400, "EINVAL");
    server_assert_refused(server_ask("GET", "/v1/jobs/1?wait_ms=10001", NULL), 400, "EINVAL");
    server_assert_refused(server_ask("GET", "/v1/jobs/1?wait_ms=", NULL), 400, "EINVAL");
}

/* What the client chose comes back in one printable line. */
static void answers_quote_nothing_that_drives_a_terminal(void **state)
{
    (void)state;
    struct client_answer answer = server_ask("GET", "/v1/vms/%1b%5b31mred%0d%0a", NULL);
    server_assert_refused(answer, 404, "ENOENT");
    for (size_t i = 0; i < answer.body_bytes; i++)
        assert_true(answer.body[i] == '\n' || (answer.body[i] >= 0x20 && answer.body[i] < 0x7f));
    assert_null(strstr(answer.body, "\\u00"));
}

static void what_the_core_refuses_has_a_status(void **state)
{
    static const struct {
        int error, status;
        const char *code;
    } refusals[] = {
        {ETIMEDOUT, 504, "ETIMEDOUT"}, {EBUSY, 409, "EBUSY"},   {ESHUTDOWN, 503, "ESHUTDOWN"},
        {ENOMEM, 503, "ENOMEM"},       {EACCES, 403, "EACCES"}, {ENOTTY, 500, "EIO"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        fake.snapshot_error = fake.command_error = -refusals[i].error;
        server_assert_refused(server_ask("GET", "/v1/status", NULL), refusals[i].status, refusals[i].code);
        server_assert_refused(server_ask("GET", "/metrics", NULL), refusals[i].status, refusals[i].code);
        server_assert_refused(server_ask("POST", "/v1/settle", NULL), refusals[i].status, refusals[i].code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVER_TEST(every_route_answers),
        SERVER_TEST(head_is_get_without_a_body),
        SERVER_TEST(a_job_is_followed_to_its_end),
        SERVER_TEST(a_wait_ends_when_its_time_is_up),
        SERVER_TEST(a_failed_job_says_why),
        SERVER_TEST(pipelined_requests_are_answered_in_order),
        SERVER_TEST(a_body_in_pieces_is_put_together),
        SERVER_TEST(bad_bodies_are_refused),
        SERVER_TEST(a_name_too_long_does_not_reach_the_core),
        SERVER_TEST(deep_and_wide_json_is_refused),
        SERVER_TEST(unknown_paths_and_methods_are_refused),
        SERVER_TEST(bad_job_numbers_are_refused),
        SERVER_TEST(answers_quote_nothing_that_drives_a_terminal),
        SERVER_TEST(what_the_core_refuses_has_a_status),
    };

    return cmocka_run_group_tests(tests, server_setup, server_teardown);
}
