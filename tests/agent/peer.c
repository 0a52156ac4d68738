/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * peer: the other end of memd-agent's protocol, well behaved or not.
 *
 *     peer connect PATH MODE SECONDS    a host end: connects to an agent, or to a VMM's chardev in front of
 * one peer pty MODE SECONDS             a host end at a terminal; says first how the agent's end is called
 *     peer listen PATH MODE SECONDS     agents: takes connections of memd, one after the other
 *
 * Modes of a host end
 *     greet    greet, and print what comes, a word per frame; exit code 0 once a report has come
 *     silent   say nothing, read nothing
 *     stall    greet once, read nothing
 *     flood    noise, as much as is taken
 *     hellos   greetings of ever new sessions, as many as are taken
 *     halves   half a greeting; then, for those who connect, again with another connection
 * Modes of an agent
 *     mute     say nothing
 *     flood    noise, as much as is taken
 *     lie      greet back, then reports of enormous numbers, as many as are taken
 *     hang-up  close each connection at once
 *     vsock    as a VMM with its own vsock: wait for CONNECT, answer OK, then as lie
 *
 * Prints "connected" when it is, and how many bytes were taken of a flood. It never waits without a bound,
 * nor does it spin: what is not taken is waited for with poll().
 *
 * memd-test: helper
 */
#include "memd/common/agent_codec.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define HALVES   20
#define PAUSE_MS 20

static int64_t end_ms;
static uint64_t session = 1;

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Until the descriptor is ready or the time is up; false: it is. */
static bool wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left = end_ms - now_ms();

    return left > 0 && poll(&p, 1, (int)left) > 0;
}

static void rest(void)
{
    while (now_ms() < end_ms)
        poll(NULL, 0, (int)(end_ms - now_ms()));
}

/* All of it, or until the time is up or the other end is gone; returns how much. */
static size_t put(int fd, const void *bytes, size_t n)
{
    size_t done = 0;

    while (done < n && wait_for(fd, POLLOUT)) {
        ssize_t got = write(fd, (const char *)bytes + done, n - done);
        if (got < 0 && errno != EAGAIN)
            break;
        done += got > 0 ? (size_t)got : 0;
    }
    return done;
}

/* ---- both */

static void flood(int fd)
{
    char noise[4096];
    size_t sum = 0, taken;

    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)(i * 2654435761u >> 13);
    do
        sum += taken = put(fd, noise, sizeof noise);
    while (taken == sizeof noise);
    printf("%zu bytes taken\n", sum);
}

/* ---- host ends */

static size_t hello(union agent_frame *frame)
{
    *frame = (union agent_frame){.hello = {.version_min = 1, .version_max = 1, .heartbeat_ms = 1000}};
    return agent_seal(frame, AGENT_HELLO, 1, 0, session);
}

static int greet(int fd)
{
    static const char *const words[] = {
        [AGENT_HERE] = "here", [AGENT_REPORT] = "report", [AGENT_CONSUMERS] = "consumers"};
    uint8_t in[AGENT_FRAME_MAX];
    union agent_frame frame;
    bool reported = false;
    size_t n = hello(&frame), used;

    put(fd, &frame, n);
    n = 0;
    while (wait_for(fd, POLLIN)) {
        ssize_t got = read(fd, in + n, sizeof in - n);
        if (!got || (got < 0 && errno != EAGAIN))
            break;
        n += got > 0 ? (size_t)got : 0;
        for (int result; (result = agent_decode(in, n, AGENT_TO_HOST, &frame, &used)); n -= used) {
            if (result > 0 && frame.h.session == session && words[frame.h.type])
                puts(words[frame.h.type]);
            reported |= result > 0 && frame.h.session == session && frame.h.type == AGENT_REPORT;
            memmove(in, in + used, n - used);
        }
        if (reported)
            return 0;
    }
    return 1;
}

static void hellos(int fd)
{
    union agent_frame frame;
    size_t sum = 0, n, taken;

    do {
        session++;
        n = hello(&frame);
        sum += taken = put(fd, &frame, n);
    } while (taken == n);
    printf("%zu bytes taken\n", sum);
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) || fcntl(fd, F_SETFL, O_NONBLOCK))
        die(path);
    return fd;
}

static void halves(int fd, const char *path)
{
    union agent_frame frame;
    size_t n = hello(&frame);

    for (unsigned i = 1; i <= HALVES && now_ms() < end_ms; i++) {
        put(fd, &frame, i * n / (HALVES + 1));
        if (path) {
            close(fd);
            fd = connect_to(path);
        }
        poll(NULL, 0, PAUSE_MS);
    }
}

static int host(int fd, const char *path, const char *mode)
{
    union agent_frame frame;

    session = (uint64_t)getpid() << 32 | (uint32_t)now_ms() | 1;
    if (!strcmp(mode, "greet"))
        return greet(fd);
    if (!strcmp(mode, "flood"))
        flood(fd);
    else if (!strcmp(mode, "hellos"))
        hellos(fd);
    else if (!strcmp(mode, "halves"))
        halves(fd, path);
    else if (!strcmp(mode, "stall"))
        put(fd, &frame, hello(&frame));
    else if (strcmp(mode, "silent"))
        return 2;
    rest();
    return 0;
}

static int open_pty(void)
{
    struct termios line;
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0 || grantpt(fd) || unlockpt(fd) || tcgetattr(fd, &line))
        die("pty");
    cfmakeraw(&line);
    tcsetattr(fd, TCSANOW, &line);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    /* without anybody at the other end it would count as hung up */
    if (open(ptsname(fd), O_RDWR | O_NOCTTY) < 0)
        die("pty");
    puts(ptsname(fd));
    fflush(stdout);
    return fd;
}

/* ---- agents */

/* The session of the greeting that comes; 0: none came. */
static uint64_t await_hello(int fd)
{
    uint8_t in[AGENT_FRAME_MAX];
    union agent_frame frame;
    size_t n = 0, used;

    while (wait_for(fd, POLLIN)) {
        ssize_t got = read(fd, in + n, sizeof in - n);
        if (!got || (got < 0 && errno != EAGAIN))
            return 0;
        n += got > 0 ? (size_t)got : 0;
        if (agent_decode(in, n, AGENT_TO_GUEST, &frame, &used) > 0 && frame.h.type == AGENT_HELLO)
            return frame.h.session;
    }
    return 0;
}

static void lie(int fd)
{
    union agent_frame frame = {.here = {.version_min = 1, .version_max = 1, .release = "lie"}};
    uint64_t of = await_hello(fd), sum = 0;
    uint32_t seq = 0;
    size_t n, taken;

    if (!of)
        return;
    n = agent_seal(&frame, AGENT_HERE, 1, seq++, of);
    put(fd, &frame, n);
    do {
        memset(&frame, 0xff, sizeof frame);
        n = agent_seal(&frame, AGENT_REPORT, 1, seq++, of);
        sum += taken = put(fd, &frame, n);
    } while (taken == n);
    printf("%llu bytes taken\n", (unsigned long long)sum);
}

static void vsock(int fd)
{
    char line[32];
    size_t n = 0;

    while (n < sizeof line - 1 && wait_for(fd, POLLIN) && read(fd, line + n, 1) == 1 && line[n] != '\n')
        n++;
    line[n] = 0;
    puts(line);
    fflush(stdout);
    put(fd, "OK 1073741824\n", 14);
    lie(fd);
}

static int agent(const char *path, const char *mode)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8))
        die(path);
    while (wait_for(listener, POLLIN)) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            die("accept");
        if (!strcmp(mode, "flood"))
            flood(fd);
        else if (!strcmp(mode, "lie"))
            lie(fd);
        else if (!strcmp(mode, "vsock"))
            vsock(fd);
        else if (!strcmp(mode, "mute"))
            rest();
        else if (strcmp(mode, "hang-up"))
            return 2;
        close(fd);
    }
    return 0;
}

int main(int argc, char *argv[])
{
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 4) {
        fprintf(stderr, "usage: peer connect|listen PATH MODE SECONDS, or peer pty MODE SECONDS\n");
        return 2;
    }
    end_ms = now_ms() + (int64_t)(1000 * atof(argv[argc - 1]));
    if (!strcmp(argv[1], "pty"))
        return host(open_pty(), NULL, argv[2]);
    if (argc == 5 && !strcmp(argv[1], "connect")) {
        int fd = connect_to(argv[2]);
        puts("connected");
        return host(fd, argv[2], argv[3]);
    }
    return argc == 5 && !strcmp(argv[1], "listen") ? agent(argv[2], argv[3]) : 2;
}
