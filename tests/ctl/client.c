/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See client.h. */
#include "tests/ctl/client.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define HEADER_BYTES 4096

int client_connect(const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    assert_true(fd >= 0);
    assert_return_code(connect(fd, (struct sockaddr *)&address, sizeof address), errno);
    return fd;
}

void client_send(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        data += sent;
        bytes -= (size_t)sent;
    }
}

void client_send_text(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

/* Some bytes; 0: the server has hung up. */
static size_t receive_some(int fd, char *data, size_t bytes)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&pollfd, 1, CLIENT_PATIENCE_MS), 1);
    ssize_t got = recv(fd, data, bytes, 0);
    return got > 0 ? (size_t)got : 0;
}

/* Byte by byte up to the empty line, so that nothing of the body or of the next answer is taken. */
static size_t receive_header(int fd, char *header)
{
    size_t got = 0;

    while (got < HEADER_BYTES - 1) {
        if (!receive_some(fd, header + got, 1))
            return 0;
        header[++got] = 0;
        if (got >= 4 && !strcmp(header + got - 4, "\r\n\r\n"))
            return got;
    }
    fail_msg("the answer's header is longer than %d bytes", HEADER_BYTES);
    return 0;
}

struct client_answer client_receive(int fd)
{
    static _Thread_local char header[HEADER_BYTES], body[CLIENT_BODY_BYTES];
    struct client_answer answer = {.header = header, .body = body};
    int status = 0;

    header[0] = body[0] = 0;
    do {
        if (!receive_header(fd, header))
            return answer;
        assert_int_equal(sscanf(header, "HTTP/1.%*[01] %d ", &status), 1);
    } while (status == 100);
    const char *length = strcasestr(header, "\r\nContent-Length: ");
    size_t want = length ? strtoul(length + 18, NULL, 10) : 0;
    assert_in_range(want, 0, sizeof body - 1);
    while (answer.body_bytes < want) {
        size_t some = receive_some(fd, body + answer.body_bytes, want - answer.body_bytes);
        if (!some)
            return answer;
        answer.body_bytes += some;
    }
    body[want] = 0;
    answer.status = status;
    return answer;
}

struct client_answer client_ask(const char *socket_path, const char *method, const char *path,
                                const char *body)
{
    char head[1024];
    int fd = client_connect(socket_path);

    snprintf(head, sizeof head,
             "%s %s HTTP/1.1\r\nHost: memd\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", method, path,
             body ? strlen(body) : 0);
    client_send_text(fd, head);
    if (body)
        client_send_text(fd, body);
    struct client_answer answer = client_receive(fd);
    close(fd);
    return answer;
}
