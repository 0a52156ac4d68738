/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see line.h. QMP sends an object per line, and events between answers: how a line
 * begins says what it is. A guest's lines begin with the id of the command they belong to.
 */
#include "bench/balloon/line.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MS 60000u

void line_open(struct line *line, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *line = (struct line){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (strlen(path) >= sizeof address.sun_path)
        bench_die("%s: the path is too long for a socket", path);
    strcpy(address.sun_path, path);
    if (line->fd < 0 || connect(line->fd, (struct sockaddr *)&address, sizeof address))
        bench_die("%s: %s", path, strerror(errno));
}

void line_close(struct line *line)
{
    close(line->fd);
}

/* The next line, without its end, or NULL when the time is up. */
static char *next(struct line *line, unsigned wait_ms)
{
    double end_s = bench_now_s() + wait_ms * 1e-3;

    for (;;) {
        char *end = memchr(line->bytes, '\n', line->filled);
        if (end) {
            size_t n = (size_t)(end - line->bytes);
            memcpy(line->text, line->bytes, n);
            line->filled -= n + 1;
            memmove(line->bytes, end + 1, line->filled);
            while (n && line->text[n - 1] == '\r')
                n--;
            line->text[n] = '\0';
            return line->text;
        }
        if (line->filled == sizeof line->bytes)
            bench_die("a line of QEMU's is too long");
        double left_s = end_s - bench_now_s();
        struct pollfd fd = {.fd = line->fd, .events = POLLIN};
        if (poll(&fd, 1, left_s > 0 ? (int)(left_s * 1000) : 0) != 1)
            return NULL;
        ssize_t got = read(line->fd, line->bytes + line->filled, sizeof line->bytes - line->filled);
        if (got <= 0)
            bench_die("a QEMU has ended");
        line->filled += (size_t)got;
    }
}

static void say(const struct line *line, const char *text, size_t n)
{
    if (send(line->fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
        bench_die("a QEMU has ended");
}

void line_order(struct line *line, const char *words)
{
    char text[512];
    int n = snprintf(text, sizeof text, "\nb%u %s\n", ++line->asked, words);

    say(line, text, (size_t)n);
}

bool line_done(struct line *line, unsigned wait_ms, char ret_answer[LINE_BYTES])
{
    char id[16];
    int n = snprintf(id, sizeof id, "b%u ", line->asked);

    for (char *text; (text = next(line, wait_ms));) {
        if (strncmp(text, id, (size_t)n))
            continue;
        if (text[n] == '|')
            snprintf(ret_answer, LINE_BYTES, "%s", text + n + 2);
        else if (!strncmp(text + n, "ok", 2))
            return true;
        else
            bench_die("a guest has failed: %s", ret_answer);
    }
    return false;
}

const char *line_qmp(struct line *line, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    text[n++] = '\n';
    say(line, text, (size_t)n);
    for (const char *answer; (answer = next(line, ANSWER_MS));) {
        if (!strncmp(answer, "{\"return\"", 9))
            return answer;
        if (!strncmp(answer, "{\"error\"", 8))
            bench_die("QEMU refuses %s: %s", text, answer);
    }
    bench_die("QEMU does not answer");
}

void line_negotiate(struct line *line)
{
    line_qmp(line, "{\"execute\": \"qmp_capabilities\"}");
}

bool line_number(const char *answer, const char *key, uint64_t *ret_value)
{
    char quoted[64];

    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = strstr(answer, quoted);
    if (!at)
        return false;
    *ret_value = strtoull(at + strlen(quoted), NULL, 10);
    return true;
}
