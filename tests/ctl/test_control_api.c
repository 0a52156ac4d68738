/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control server over a fake core, spoken to over raw sockets: by clients that ask well, and by clients
 * that do not.
 *
 * memd-test: timeout=120
 */
#include "memd/common/clock.h"
#include "memd/daemon/control.h"
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

#define ANSWER_BYTES (1u << 20)
#define PATIENCE_MS  20000 /* for an answer; a loaded machine is slow */

static char run_dir[] = "run.XXXXXX";
static struct control *control;

/* ---------------------------------------------------------------- a client */

static int client_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s/control.sock", run_dir);
    assert_true(fd >= 0);
    assert_return_code(connect(fd, (struct sockaddr *)&address, sizeof address), errno);
    return fd;
}

/* As much as the server takes: it may hang up in the middle. */
static void client_send(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        data += sent;
        bytes -= (size_t)sent;
    }
}

/* One answer: the status, 0 if the server hung up without; its body in `body`, of ANSWER_BYTES. */
static int client_receive(int fd, char *body)
{
    static _Thread_local char text[ANSWER_BYTES];
    size_t got = 0, want = SIZE_MAX;
    int status = 0;

    body[0] = 0;
    while (got < want && got < sizeof text - 1) {
        struct pollfd pollfd = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&pollfd, 1, PATIENCE_MS), 1);
        ssize_t n = recv(fd, text + got, want == SIZE_MAX ? 1 : want - got, 0); /* no byte of the next */
        if (n <= 0)
            return 0;
        got += (size_t)n;
        text[got] = 0;
        const char *end = want == SIZE_MAX && got >= 4 ? text + got - 4 : NULL;
        if (end && !strcmp(end, "\r\n\r\n")) {
            const char *length = strcasestr(text, "\r\nContent-Length: ");
            assert_int_equal(sscanf(text, "HTTP/1.1 %d ", &status), 1);
            if (status == 100) {
                got = 0;
                continue;
            }
            assert_non_null(length);
            want = got + strtoul(length + 18, NULL, 10);
            memmove(body, "", 1);
            text[0] = 0;
        }
    }
    size_t length = want - (want - got);
    const char *start = memchr(text + 1, 0, 1) ? text : text;
    (void)start;
    memcpy(body, text, length);
    body[length] = 0;
    return status;
}
