/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control server over a fake core, spoken to over raw sockets: by clients that ask well, and by clients
 * that do not. After each test the server must still answer.
 */
#include "memd/common/clock.h"
#include "memd/daemon/control.h"
#include "tests/ctl/client.h"
#include "tests/ctl/fake_core.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

static char run_dir[] = "run.XXXXXX", path[64];
static struct control *control;

static void server_start(void)
{
    char error[256] = "";

    assert_int_equal(control_start(fake_core_reset(), run_dir, &control, error, sizeof error), 0);
}

static int setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(run_dir))
        return -1;
    snprintf(path, sizeof path, "%s/control.sock", run_dir);
    server_start();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    control_stop(control);
    return rmdir(run_dir); /* nothing is left in it */
}

static struct client_answer ask(const char *method, const char *url, const char *body)
{
    return client_ask(path, method, url, body);
}

static int status_of(const char *method, const char *url, const char *body)
{
    return ask(method, url, body).status;
}

static int fresh(void **state)
{
    (void)state;
    fake_core_reset();
    return 0;
}

static int still_answers(void **state)
{
    (void)state;
    fake_core_reset();
    return status_of("GET", "/v1/status", NULL) != 200;
}

/* The answer is an object with this status, and, being an error, says so in one line. */
static void assert_refused(struct client_answer answer, int status, const char *code)
{
    json_t *json = json_loads(answer.body, 0, NULL);
    const char *text = json_string_value(json_object_get(json, "error"));

    assert_int_equal(answer.status, status);
    assert_non_null(text);
    assert_null(strchr(text, '\n'));
    assert_string_equal(json_string_value(json_object_get(json, "code")), code);
    json_decref(json);
}

/* ---------------------------------------------------------------- who asks well */

static void every_route_answers(void **state)
{
    (void)state;
    struct client_answer status = ask("GET", "/v1/status", NULL);
    assert_int_equal(status.status, 200);
    assert_non_null(strstr(status.header, "Content-Type: application/json\r\n"));
    assert_int_equal(status_of("GET", "/v1/vms", NULL), 200);
    assert_int_equal(status_of("GET", "/v1/vms/alpha", NULL), 200);
    assert_int_equal(status_of("GET", "/v1/vms/2", NULL), 200);
    assert_non_null(strstr(ask("GET", "/metrics", NULL).header,
                           "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert_int_equal(status_of("POST", "/v1/merge", "{\"on\": true}"), 200);
    assert_int_equal(status_of("POST", "/v1/merge", "{\"on\": false, \"vm\": \"alpha\"}"), 200);
    assert_int_equal(status_of("POST", "/v1/unmerge", "{\"vm\": \"all\"}"), 202);
    assert_int_equal(status_of("POST", "/v1/settle", NULL), 202);
    assert_int_equal(status_of("POST", "/v1/settle", "{}"), 202);
    assert_int_equal(status_of("POST", "/v1/estimate", "{}"), 202);
    assert_int_equal(status_of("POST", "/v1/estimate", "{\"vms\": [\"alpha\", \"2\"]}"), 202);
    assert_int_equal(status_of("GET", "/v1/jobs/1", NULL), 200);
    assert_int_equal(status_of("DELETE", "/v1/jobs/1", NULL), 200);
}

/* HEAD announces a body it does not send: two of them on one connection tell. */
static void head_is_get_without_a_body(void **state)
{
    char text[8192];
    size_t got = 0;
    ssize_t n;
    (void)state;

    int fd = client_connect(path);
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
    json_t *json = json_loads(ask("POST", "/v1/estimate", NULL).body, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(json, "job")), 1);
    json_decref(json);

    json = json_loads(ask("GET", "/v1/jobs/1", NULL).body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "running");
    assert_null(json_object_get(json, "would_save_bytes"));
    json_decref(json);

    json = json_loads(ask("GET", "/v1/jobs/1?wait_ms=10000", NULL).body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "state")), "done");
    assert_int_equal(json_integer_value(json_object_get(json, "would_save_bytes")), 270ll << 20);
    json_decref(json);
}

static void a_wait_ends_when_its_time_is_up(void **state)
{
    (void)state;
    fake.job_polls = UINT32_MAX;
    assert_int_equal(status_of("POST", "/v1/settle", NULL), 202);
    uint64_t before_ns = clock_now_ns();
    assert_non_null(strstr(ask("GET", "/v1/jobs/1?wait_ms=300", NULL).body, "\"running\""));
    assert_true(clock_now_ns() - before_ns >= 300 * CLOCK_MS);
}

static void a_failed_job_says_why(void **state)
{
    (void)state;
    fake.job_polls = 1;
    fake.job_error = ENOMEM;
    assert_int_equal(status_of("POST", "/v1/unmerge", "{\"vm\": \"alpha\"}"), 202);
    struct client_answer answer = ask("GET", "/v1/jobs/1", NULL);
    assert_refused(answer, 200, "ENOMEM"); /* the request itself went well */
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
    int fd = client_connect(path);
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

    int fd = client_connect(path);
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
        {"/v1/unmerge", NULL},
        {"/v1/unmerge", "{\"vm\": null}"},
        {"/v1/unmerge", "{\"vm\": [\"all\"]}"},
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
        assert_refused(ask("POST", bad[i].url, bad[i].body), 400, "EINVAL");
    }
    assert_int_equal(fake.commands, 0);
}

static void a_name_too_long_does_not_reach_the_core(void **state)
{
    char body[512];
    (void)state;

    snprintf(body, sizeof body, "{\"on\": true, \"vm\": \"%0*d\"}", CORE_NAME_BYTES, 0);
    assert_refused(ask("POST", "/v1/merge", body), 400, "EINVAL");
    snprintf(body, sizeof body, "{\"on\": true, \"vm\": \"%0*d\"}", CORE_NAME_BYTES - 1, 0);
    assert_refused(ask("POST", "/v1/merge", body), 404, "ENOENT");
}

static void deep_and_wide_json_is_refused(void **state)
{
    enum { DEPTH = 60000 };
    char *body = malloc(DEPTH + 1);
    (void)state;

    memset(body, '[', DEPTH);
    body[DEPTH] = 0;
    assert_refused(ask("POST", "/v1/merge", body), 400, "EINVAL");
    size_t at = (size_t)sprintf(body, "{\"vms\": [\"1\"");
    for (int i = 0; i < CORE_VMS_MAX; i++)
        at += (size_t)sprintf(body + at, ",\"1\"");
    strcpy(body + at, "]}");
    assert_refused(ask("POST", "/v1/estimate", body), 400, "E2BIG");
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
        assert_refused(ask("GET", nowhere[i], NULL), 404, "ENOENT");
    }
    assert_refused(ask("GET", "/v1/vms/..", NULL), 404, "ENOENT");
    assert_refused(ask("POST", "/v1/status", "{}"), 405, "EINVAL");
    struct client_answer answer = ask("PUT", "/v1/jobs/1", NULL);
    assert_refused(answer, 405, "EINVAL");
    assert_non_null(strstr(answer.header, "Allow: GET, DELETE\r\n"));
    assert_non_null(strstr(ask("GET", "/v1/merge", NULL).header, "Allow: POST\r\n"));
    assert_refused(ask("BREW", "/v1/status", NULL), 405, "EINVAL");
}

static void bad_job_numbers_are_refused(void **state)
{
    static const char *const bad[] = {
        "x", "-1", "1x", "+1", "%201", "9223372036854775808", "99999999999999999999999999"};
    char url[128];
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(url, sizeof url, "/v1/jobs/%s", bad[i]);
        assert_refused(ask("GET", url, NULL), 400, "EINVAL");
        assert_refused(ask("DELETE", url, NULL), 400, "EINVAL");
    }
    assert_refused(ask("GET", "/v1/jobs/0", NULL), 404, "ENOENT");
    assert_refused(ask("GET", "/v1/jobs/7", NULL), 404, "ENOENT");
    assert_int_equal(status_of("POST", "/v1/settle", NULL), 202);
    assert_refused(ask("GET", "/v1/jobs/1?wait_ms=-5", NULL), 400, "EINVAL");
    assert_refused(ask("GET", "/v1/jobs/1?wait_ms=10001", NULL), 400, "EINVAL");
    assert_refused(ask("GET", "/v1/jobs/1?wait_ms=", NULL), 400, "EINVAL");
}

/* What the client chose comes back in one printable line. */
static void answers_quote_nothing_that_drives_a_terminal(void **state)
{
    (void)state;
    struct client_answer answer = ask("GET", "/v1/vms/%1b%5b31mred%0d%0a", NULL);
    assert_refused(answer, 404, "ENOENT");
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
        assert_refused(ask("GET", "/v1/status", NULL), refusals[i].status, refusals[i].code);
        assert_refused(ask("GET", "/metrics", NULL), refusals[i].status, refusals[i].code);
        assert_refused(ask("POST", "/v1/settle", NULL), refusals[i].status, refusals[i].code);
    }
}

static void a_long_header_is_refused(void **state)
{
    char *header = malloc(2 * CONTROL_HEADER_BYTES);
    (void)state;

    size_t at = (size_t)sprintf(header, "GET /v1/status HTTP/1.1\r\nHost: memd\r\nX-Long: ");
    memset(header + at, 'a', 2 * CONTROL_HEADER_BYTES - at);
    int fd = client_connect(path);
    client_send(fd, header, 2 * CONTROL_HEADER_BYTES);
    assert_in_range(client_receive(fd).status, 400, 499);
    close(fd);

    memset(header, 'a', 2 * CONTROL_HEADER_BYTES); /* and the same without a method */
    fd = client_connect(path);
    client_send(fd, header, 2 * CONTROL_HEADER_BYTES);
    int status = client_receive(fd).status;
    assert_true(!status || (status >= 400 && status < 500));
    close(fd);
    free(header);
}

static void many_headers_are_refused(void **state)
{
    (void)state;
    int fd = client_connect(path);
    client_send_text(fd, "GET /v1/status HTTP/1.1\r\nHost: memd\r\n");
    for (int i = 0; i < 10000; i++)
        client_send_text(fd, "X: y\r\n");
    client_send_text(fd, "\r\n");
    int status = client_receive(fd).status;
    assert_true(!status || (status >= 400 && status < 500));
    close(fd);
}

static void a_body_too_long_is_not_kept(void **state)
{
    char *body = malloc(CONTROL_BODY_BYTES + 2);
    char head[256];
    (void)state;

    memset(body, ' ', CONTROL_BODY_BYTES + 1);
    memcpy(body, "{\"on\":true}", 11);
    body[CONTROL_BODY_BYTES + 1] = 0;
    assert_refused(ask("POST", "/v1/merge", body), 413, "EMSGSIZE");
    body[CONTROL_BODY_BYTES] = 0; /* one less fits */
    assert_int_equal(status_of("POST", "/v1/merge", body), 200);

    /* one without an end is read on for a while, then the server hangs up */
    snprintf(head, sizeof head,
             "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 100000000000\r\n\r\n");
    int fd = client_connect(path);
    client_send_text(fd, head);
    for (int i = 0; i < 64; i++)
        client_send(fd, body, CONTROL_BODY_BYTES);
    assert_int_not_equal(client_receive(fd).status, 200);
    close(fd);
    free(body);
    assert_int_equal(fake.commands, 1);
}

static void nonsense_is_refused(void **state)
{
    static const char *const nonsense[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /v1/status\r\n\r\n",
        "GET /v1/status HTTP/9.9\r\n\r\n",
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 1x\r\n\r\n",
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nTransfer-Encoding: "
        "chunked\r\n\r\nffffffffffffffff\r\n{}\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client",
    };
    (void)state;

    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        int fd = client_connect(path);
        client_send_text(fd, nonsense[i]);
        shutdown(fd, SHUT_WR);
        int status = client_receive(fd).status;
        print_message("%zu: %d\n", i, status);
        assert_true(!status || status >= 400);
        close(fd);
    }
    assert_int_equal(fake.commands, 0);
}

/* Random bytes, and requests with some bytes changed: nothing but refusals and the right answer. */
static void mangled_requests_do_no_harm(void **state)
{
    static const char good[] = "POST /v1/estimate HTTP/1.1\r\nHost: memd\r\nConnection: close\r\n"
                               "Content-Length: 26\r\n\r\n{\"vms\": [\"alpha\", \"beta\"]}";
    char text[sizeof good];
    (void)state;

    srand(1);
    fake.job_polls = 1;
    for (int i = 0; i < 300; i++) {
        memcpy(text, good, sizeof good);
        for (int n = rand() % 4 + 1; n; n--)
            text[(size_t)rand() % (sizeof good - 1)] = (char)rand();
        int fd = client_connect(path);
        client_send(fd, text, sizeof good - 1);
        shutdown(fd, SHUT_WR);
        int status = client_receive(fd).status;
        assert_true(!status || status == 202 || status >= 400);
        close(fd);
    }
}

/* A client gone before it is answered costs nothing; a waiting handler ends on its own. */
static void clients_that_leave_are_forgotten(void **state)
{
    (void)state;
    fake.job_polls = UINT32_MAX;
    assert_int_equal(status_of("POST", "/v1/settle", NULL), 202);
    for (int i = 0; i < 200; i++) {
        int fd = client_connect(path);
        client_send_text(fd, i % 2
                                 ? "GET /v1/jobs/1?wait_ms=100 HTTP/1.1\r\nHost: memd\r\n\r\n"
                                 : "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 9\r\n\r\n{\"on");
        close(fd);
    }
}

/* ---------------------------------------------------------------- many at once */

static void *ask_many(void *arg)
{
    int fd = client_connect(path);

    (void)arg;
    for (int i = 0; i < 50; i++) {
        client_send_text(fd, i % 5 ? "GET /v1/vms/beta HTTP/1.1\r\nHost: memd\r\n\r\n"
                                   : "GET /metrics HTTP/1.1\r\nHost: memd\r\n\r\n");
        assert_int_equal(client_receive(fd).status, 200);
    }
    close(fd);
    return NULL;
}

static void clients_at_once_do_not_meet(void **state)
{
    pthread_t threads[16];
    (void)state;

    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_many, NULL), 0);
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++)
        pthread_join(threads[i], NULL);
}

static bool is_served(void)
{
    int fd = client_connect(path);

    client_send_text(fd, "GET /v1/status HTTP/1.1\r\nHost: memd\r\n\r\n");
    int status = client_receive(fd).status;
    close(fd);
    assert_true(!status || status == 200);
    return status;
}

static void await_service(void)
{
    for (uint64_t end_ns = clock_now_ns() + CLIENT_PATIENCE_MS * CLOCK_MS; !is_served();)
        assert_true(clock_now_ns() < end_ns);
}

/* The house full of idle clients: who else comes is turned away at once, until one leaves. The idle ones are
 * turned out when their time is up. */
static void a_full_house_passes(void **state)
{
    int fds[CONTROL_CONNECTIONS_MAX];
    (void)state;

    uint64_t before_ns = clock_now_ns();
    for (int i = 0; i < CONTROL_CONNECTIONS_MAX; i++) {
        do { /* those of the test before may not be gone yet */
            fds[i] = client_connect(path);
            client_send_text(fds[i], "GET /v1/vms HTTP/1.1\r\nHost: memd\r\n\r\n");
        } while (!client_receive(fds[i]).status && !close(fds[i]));
        client_send_text(fds[i], "GET /v1/st"); /* and never a word more */
    }
    assert_false(is_served());
    close(fds[0]);
    await_service();
    for (int i = 1; i < CONTROL_CONNECTIONS_MAX; i++) {
        assert_int_not_equal(client_receive(fds[i]).status, 200); /* hung up, or 408 */
        close(fds[i]);
    }
    assert_true(clock_now_ns() - before_ns >= (CONTROL_IDLE_S - 2) * 1000 * CLOCK_MS);
    await_service();
}

/* ---------------------------------------------------------------- beginning and end */

static void the_socket_is_guarded(void **state)
{
    struct stat st;
    struct control *second;
    char error[256] = "";
    (void)state;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(control_start(fake_core_reset(), run_dir, &second, error, sizeof error), -EADDRINUSE);
    assert_non_null(strstr(error, "another memd serves this directory"));
    assert_int_equal(control_start(fake_core_reset(), "no/such/dir", &second, error, sizeof error), -ENOENT);
    assert_non_null(strstr(error, "no/such/dir/control.sock"));
}

/* Bound, but nobody listens: what a daemon leaves that was killed. */
static void a_dead_daemons_socket_is_replaced(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)state;

    control_stop(control);
    assert_int_equal(access(path, F_OK), -1);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    server_start();
    assert_int_equal(status_of("GET", "/v1/status", NULL), 200);
}

static void what_is_no_socket_is_not_replaced(void **state)
{
    struct control *second;
    char error[256] = "";
    FILE *file;
    (void)state;

    control_stop(control);
    assert_non_null(file = fopen(path, "w"));
    fclose(file);
    assert_int_equal(control_start(fake_core_reset(), run_dir, &second, error, sizeof error), -EADDRINUSE);
    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
    server_start();
}

static void stopping_does_not_wait_for_clients(void **state)
{
    (void)state;
    fake.job_polls = UINT32_MAX;
    assert_int_equal(status_of("POST", "/v1/settle", NULL), 202);
    int waiting = client_connect(path), idle = client_connect(path);
    client_send_text(waiting, "GET /v1/jobs/1?wait_ms=10000 HTTP/1.1\r\nHost: memd\r\n\r\n");
    client_send_text(idle, "GET /v1/st");
    for (unsigned polls = 0; !polls;) { /* until the handler is in its wait */
        fake_core_lock();
        polls = fake.polls;
        fake_core_unlock();
    }
    uint64_t before_ns = clock_now_ns();
    control_stop(control);
    assert_true(clock_now_ns() - before_ns < 5000 * CLOCK_MS);
    close(waiting);
    close(idle);
    server_start();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh, still_answers)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_route_answers),
        TEST(head_is_get_without_a_body),
        TEST(a_job_is_followed_to_its_end),
        TEST(a_wait_ends_when_its_time_is_up),
        TEST(a_failed_job_says_why),
        TEST(pipelined_requests_are_answered_in_order),
        TEST(a_body_in_pieces_is_put_together),
        TEST(bad_bodies_are_refused),
        TEST(a_name_too_long_does_not_reach_the_core),
        TEST(deep_and_wide_json_is_refused),
        TEST(unknown_paths_and_methods_are_refused),
        TEST(bad_job_numbers_are_refused),
        TEST(answers_quote_nothing_that_drives_a_terminal),
        TEST(what_the_core_refuses_has_a_status),
        TEST(a_long_header_is_refused),
        TEST(many_headers_are_refused),
        TEST(a_body_too_long_is_not_kept),
        TEST(nonsense_is_refused),
        TEST(mangled_requests_do_no_harm),
        TEST(clients_that_leave_are_forgotten),
        TEST(clients_at_once_do_not_meet),
        TEST(a_full_house_passes),
        TEST(the_socket_is_guarded),
        TEST(a_dead_daemons_socket_is_replaced),
        TEST(what_is_no_socket_is_not_replaced),
        TEST(stopping_does_not_wait_for_clients),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
