/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See server.h. */
#include "tests/ctl/server.h"

#include "memd/daemon/control.h"
#include "tests/ctl/fake_core.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

char server_dir[] = "run.XXXXXX";
char server_path[64];
static struct control *control;

void server_start(void)
{
    char error[256] = "";

    assert_int_equal(
        control_start(fake_core_reset(), fake_balloons(), server_dir, &control, error, sizeof error), 0);
}

void server_stop(void)
{
    control_stop(control);
}

int server_setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(server_dir))
        return -1;
    snprintf(server_path, sizeof server_path, "%s/control.sock", server_dir);
    server_start();
    return 0;
}

int server_teardown(void **state)
{
    (void)state;
    server_stop();
    return rmdir(server_dir); /* nothing is left in it */
}

struct client_answer server_ask(const char *method, const char *url, const char *body)
{
    return client_ask(server_path, method, url, body);
}

int server_status_of(const char *method, const char *url, const char *body)
{
    return server_ask(method, url, body).status;
}

int server_fresh(void **state)
{
    (void)state;
    fake_core_reset();
    return 0;
}

int server_still_answers(void **state)
{
    (void)state;
    fake_core_reset();
    return server_status_of("GET", "/v1/status", NULL) != 200;
}

void server_assert_refused(struct client_answer answer, int status, const char *code)
{
    json_t *json = json_loads(answer.body, 0, NULL);
    const char *text = json_string_value(json_object_get(json, "error"));

    assert_int_equal(answer.status, status);
    assert_non_null(text);
    assert_null(strchr(text, '\n'));
    assert_string_equal(json_string_value(json_object_get(json, "code")), code);
    json_decref(json);
}
