/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control server and clients that mean no good, or only dawdle: too long, too many, too slow, nonsense.
 * And its beginning and end. After each test it must still answer.
 *
 * memd-test: timeout=120
 */
#include "memd/common/clock.h"
#include "memd/daemon/control.h"
#include "tests/ctl/fake_core.h"
#include "tests/ctl/server.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static void a_long_header_is_refused(void **state)
{
    char *header = malloc(2 * CONTROL_HEADER_BYTES);
    (void)state;

    size_t at = (size_t)sprintf(header, "GET /v1/status HTTP/1.1\r\nHost: memd\r\nX-Long: ");
    memset(header + at, 'a', 2 * CONTROL_HEADER_BYTES - at);
    int fd = client_connect(server_path);
    client_send(fd, header, 2 * CONTROL_HEADER_BYTES);
    assert_in_range(client_receive(fd).status, 400, 499);
    close(fd);

    memset(header, 'a', 2 * CONTROL_HEADER_BYTES); /* and the same without a method */
    fd = client_connect(server_path);
    client_send(fd, header, 2 * CONTROL_HEADER_BYTES);
    int status = client_receive(fd).status;
    assert_true(!status || (status >= 400 && status < 500));
    close(fd);
    free(header);
}

static void many_headers_are_refused(void **state)
{
    (void)state;
    int fd = client_connect(server_path);
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
    server_assert_refused(server_ask("POST", "/v1/merge", body), 413, "EMSGSIZE");
    body[CONTROL_BODY_BYTES] = 0; /* one less fits */
    assert_int_equal(server_status_of("POST", "/v1/merge", body), 200);

    /* one without an end is read on for a while, then the server hangs up */
    snprintf(head, sizeof head,
             "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 100000000000\r\n\r\n");
    int fd = client_connect(server_path);
    client_send_text(fd, head);
    for (int i = 0; i < 64; i++)
        client_send(fd, body, CONTROL_BODY_BYTES);
    assert_int_not_equal(client_receive(fd).status, 200);
    close(fd);
    free(body);
    assert_int_equal(fake.commands, 1);
}

#define MERGE_HEAD "POST /v1/merge HTTP/1.1\r\nHost: memd\r\n"

static void nonsense_is_refused(void **state)
{
    static const char *const nonsense[] = {
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /v1/status\r\n\r\n",
        "GET /v1/status HTTP/9.9\r\n\r\n",
        MERGE_HEAD "Content-Length: -1\r\n\r\n",
        MERGE_HEAD "Content-Length: 1x\r\n\r\n",
        MERGE_HEAD "Content-Length: 99999999999999999999999\r\n\r\n",
        MERGE_HEAD "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        MERGE_HEAD "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client",
    };
    (void)state;

    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        int fd = client_connect(server_path);
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
        int fd = client_connect(server_path);
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
    assert_int_equal(server_status_of("POST", "/v1/settle", NULL), 202);
    for (int i = 0; i < 200; i++) {
        int fd = client_connect(server_path);
        client_send_text(fd, i % 2
                                 ? "GET /v1/jobs/1?wait_ms=100 HTTP/1.1\r\nHost: memd\r\n\r\n"
                                 : "POST /v1/merge HTTP/1.1\r\nHost: memd\r\nContent-Length: 9\r\n\r\n{\"on");
        close(fd);
    }
}

/* ---------------------------------------------------------------- many at once */

static void *ask_many(void *arg)
{
    int fd = client_connect(server_path);

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
    int fd = client_connect(server_path);

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
            fds[i] = client_connect(server_path);
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

    assert_int_equal(stat(server_path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(
        control_start(fake_core_reset(), fake_balloons(), server_dir, &second, error, sizeof error),
        -EADDRINUSE);
    assert_non_null(strstr(error, "another memd serves this directory"));
    assert_int_equal(
        control_start(fake_core_reset(), fake_balloons(), "no/such/dir", &second, error, sizeof error),
        -ENOENT);
    assert_non_null(strstr(error, "no/such/dir/control.sock"));
}

/* Bound, but nobody listens: what a daemon leaves that was killed. */
static void a_dead_daemons_socket_is_replaced(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)state;

    server_stop();
    assert_int_equal(access(server_path, F_OK), -1);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", server_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    server_start();
    assert_int_equal(server_status_of("GET", "/v1/status", NULL), 200);
}

static void what_is_no_socket_is_not_replaced(void **state)
{
    struct control *second;
    char error[256] = "";
    FILE *file;
    (void)state;

    server_stop();
    assert_non_null(file = fopen(server_path, "w"));
    fclose(file);
    assert_int_equal(
        control_start(fake_core_reset(), fake_balloons(), server_dir, &second, error, sizeof error),
        -EADDRINUSE);
    assert_int_equal(access(server_path, F_OK), 0);
    unlink(server_path);
    server_start();
}

static void stopping_does_not_wait_for_clients(void **state)
{
    (void)state;
    fake.job_polls = UINT32_MAX;
    assert_int_equal(server_status_of("POST", "/v1/settle", NULL), 202);
    int waiting = client_connect(server_path), idle = client_connect(server_path);
    client_send_text(waiting, "GET /v1/jobs/1?wait_ms=10000 HTTP/1.1\r\nHost: memd\r\n\r\n");
    client_send_text(idle, "GET /v1/st");
    for (unsigned polls = 0; !polls;) { /* until the handler is in its wait */
        fake_core_lock();
        polls = fake.polls;
        fake_core_unlock();
    }
    uint64_t before_ns = clock_now_ns();
    server_stop();
    assert_true(clock_now_ns() - before_ns < 9000 * CLOCK_MS);
    close(waiting);
    close(idle);
    server_start();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SERVER_TEST(a_long_header_is_refused),
        SERVER_TEST(many_headers_are_refused),
        SERVER_TEST(a_body_too_long_is_not_kept),
        SERVER_TEST(nonsense_is_refused),
        SERVER_TEST(mangled_requests_do_no_harm),
        SERVER_TEST(clients_that_leave_are_forgotten),
        SERVER_TEST(clients_at_once_do_not_meet),
        SERVER_TEST(a_full_house_passes),
        SERVER_TEST(the_socket_is_guarded),
        SERVER_TEST(a_dead_daemons_socket_is_replaced),
        SERVER_TEST(what_is_no_socket_is_not_replaced),
        SERVER_TEST(stopping_does_not_wait_for_clients),
    };

    return cmocka_run_group_tests(tests, server_setup, server_teardown);
}
