/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * talk: one question and its answer over a unix socket, with a deadline.
 *
 *     talk qmp SOCKET SECONDS COMMAND [ARGUMENTS]    a command of QEMU's monitor, with a JSON object of
 * arguments talk guest SOCKET SECONDS WORD...              a command of the agent in the guest (guest/agent)
 *
 * Prints the answer: the value of QMP's "return", or the lines the guest's command printed. Exit code: 0
 * done; 1 refused or failed, the answer says why; 2 no answer in time, or nobody there.
 *
 * QMP sends an object per line. Answers to a command without an "id" have one key, so how a line begins says
 * what it is. The guest's lines begin with the id of the command they belong to; others are left over from an
 * earlier talk.
 *
 * memd-test: helper
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX (1u << 20)

enum { DONE = 0, REFUSED = 1, NO_ANSWER = 2 };

struct line_reader {
    int fd;
    int64_t deadline_ms;
    size_t filled;
    char bytes[LINE_BYTES_MAX];
    char line[LINE_BYTES_MAX];
};

static struct line_reader peer;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "talk: %s\n", what);
    exit(NO_ANSWER);
}

static void peer_wait(short events)
{
    struct pollfd p = {.fd = peer.fd, .events = events};
    int64_t left_ms = peer.deadline_ms - now_ms();

    if (left_ms <= 0 || poll(&p, 1, (int)left_ms) <= 0)
        give_up("no answer in time");
}

/* The socket of a QEMU that has just been started may not be there yet; its backlog may be full for a moment.
 */
static void peer_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof address.sun_path)
        give_up("the socket's path is too long");
    strcpy(address.sun_path, path);
    peer.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (peer.fd < 0)
        give_up(strerror(errno));
    while (connect(peer.fd, (struct sockaddr *)&address, sizeof address)) {
        if (errno != EAGAIN || now_ms() > peer.deadline_ms)
            give_up(strerror(errno));
        poll(NULL, 0, 10);
    }
}

static void peer_send(const char *format, ...)
{
    static char text[LINE_BYTES_MAX];
    va_list args;

    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof text)
        give_up("the question is too long");
    for (int sent = 0; sent < length;) {
        ssize_t n = send(peer.fd, text + sent, (size_t)(length - sent), MSG_NOSIGNAL);
        if (n >= 0)
            sent += (int)n;
        else if (errno == EAGAIN)
            peer_wait(POLLOUT);
        else if (errno != EINTR)
            give_up(strerror(errno));
    }
}

/* The next line, without its end. */
static char *peer_line(void)
{
    for (;;) {
        char *end = memchr(peer.bytes, '\n', peer.filled);
        if (end) {
            size_t length = (size_t)(end - peer.bytes);
            memcpy(peer.line, peer.bytes, length);
            peer.filled -= length + 1;
            memmove(peer.bytes, end + 1, peer.filled);
            while (length && peer.line[length - 1] == '\r')
                length--;
            peer.line[length] = 0;
            return peer.line;
        }
        if (peer.filled == sizeof peer.bytes)
            give_up("a line is too long");
        peer_wait(POLLIN);
        ssize_t n = read(peer.fd, peer.bytes + peer.filled, sizeof peer.bytes - peer.filled);
        if (n > 0)
            peer.filled += (size_t)n;
        else if (!n)
            give_up("the other end has closed the line");
        else if (errno != EAGAIN && errno != EINTR)
            give_up(strerror(errno));
    }
}

/* What follows the prefix, or NULL. */
static char *after(char *line, const char *prefix)
{
    size_t length = strlen(prefix);

    return strncmp(line, prefix, length) ? NULL : line + length;
}

static int qmp_answer(bool print)
{
    for (;;) {
        char *line = peer_line(), *value;
        if ((value = after(line, "{\"return\": "))) {
            if (print)
                printf("%.*s\n", (int)strlen(value) - 1, value);
            return DONE;
        }
        if ((value = after(line, "{\"error\": "))) {
            printf("%.*s\n", (int)strlen(value) - 1, value);
            return REFUSED;
        }
    }
}

static int talk_qmp(const char *command, const char *arguments)
{
    peer_send("{\"execute\": \"qmp_capabilities\"}\n");
    int result = qmp_answer(false);
    if (result)
        return result;
    if (arguments)
        peer_send("{\"execute\": \"%s\", \"arguments\": %s}\n", command, arguments);
    else
        peer_send("{\"execute\": \"%s\"}\n", command);
    return qmp_answer(true);
}

/* A newline goes first: it ends what an interrupted talk may have left in the guest's line. */
static int talk_guest(char **words)
{
    char id[32], command[4096] = "";
    size_t length = 0;

    for (; *words && length < sizeof command; words++)
        length += (size_t)snprintf(command + length, sizeof command - length, " %s", *words);
    if (length >= sizeof command)
        give_up("the question is too long");
    snprintf(id, sizeof id, "%d.%lld", (int)getpid(), (long long)now_ms());
    peer_send("\n%s%s\n", id, command);
    for (;;) {
        char *rest = after(peer_line(), id), *text;
        if (!rest)
            continue;
        if ((text = after(rest, " | ")))
            puts(text);
        else if (after(rest, " ok"))
            return DONE;
        else if (after(rest, " failed"))
            return REFUSED;
    }
}

int main(int argc, char **argv)
{
    bool qmp = argc >= 5 && argc <= 6 && !strcmp(argv[1], "qmp");

    if (!qmp && (argc < 5 || strcmp(argv[1], "guest"))) {
        fprintf(stderr,
                "usage: talk qmp SOCKET SECONDS COMMAND [ARGUMENTS] | guest SOCKET SECONDS WORD...\n");
        return NO_ANSWER;
    }
    peer.deadline_ms = now_ms() + (int64_t)(strtod(argv[3], NULL) * 1000);
    peer_connect(argv[2]);
    return qmp ? talk_qmp(argv[4], argv[5]) : talk_guest(argv + 4);
}
