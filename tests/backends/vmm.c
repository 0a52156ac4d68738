/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See vmm.h. */
#include "tests/backends/vmm.h"

#include "tests/backends/vmm_parts.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TURN_MS    20 /* how soon it notices that it is to end */
#define HUGE_BYTES (3u << 20)
#define DEEP_BYTES 100000u

const char *vmm_scheme(enum vmm_kind kind)
{
    static const char *const schemes[] = {"qmp", "firecracker", "cloud-hypervisor"};

    static_assert(sizeof schemes / sizeof schemes[0] == VMM_KINDS, "a scheme for each kind");
    return schemes[kind];
}

void vmm_lock(struct vmm *vmm)
{
    pthread_mutex_lock(&vmm->lock);
}

void vmm_unlock(struct vmm *vmm)
{
    pthread_mutex_unlock(&vmm->lock);
}

unsigned vmm_connections(struct vmm *vmm)
{
    vmm_lock(vmm);
    unsigned n = vmm->connections;
    vmm_unlock(vmm);
    return n;
}

void vmm_look(struct vmm *vmm)
{
    uint64_t apart = vmm->balloon > vmm->wanted ? vmm->balloon - vmm->wanted : vmm->wanted - vmm->balloon;
    uint64_t by = apart < vmm->step ? apart : vmm->step;

    if (!vmm->driver)
        vmm->balloon = 0;
    else if (vmm->balloon > vmm->wanted)
        vmm->balloon -= by;
    else
        vmm->balloon += by;
}

/* ---------------------------------------------------------------- bytes */

bool vmm_wait(struct vmm *vmm, int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    while (!atomic_load(&vmm->stopping)) {
        int n = poll(&p, 1, TURN_MS);
        if (n > 0)
            return true;
    }
    return false;
}

bool vmm_write(struct vmm *vmm, int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            data += n;
            bytes -= (size_t)n;
        } else if (errno != EAGAIN || !vmm_wait(vmm, fd, POLLOUT)) {
            return false;
        }
    }
    return true;
}

/* A body in the form of the protocol: a line, or an answer of HTTP. */
static bool write_framed(struct vmm *vmm, int fd, const char *body, size_t bytes)
{
    char header[128];

    if (vmm->kind == VMM_QMP)
        return vmm_write(vmm, fd, body, bytes) && vmm_write(vmm, fd, "\r\n", 2);
    int length = snprintf(header, sizeof header,
                          "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: %zu\r\n\r\n", bytes);
    return vmm_write(vmm, fd, header, (size_t)length) && vmm_write(vmm, fd, body, bytes);
}

/* `bytes` of `fill`, which begin with `begin` */
static bool write_filled(struct vmm *vmm, int fd, const char *begin, char fill, size_t bytes)
{
    char *text = malloc(bytes);

    memset(text, fill, bytes);
    memcpy(text, begin, strlen(begin));
    bool ok = write_framed(vmm, fd, text, bytes);
    free(text);
    return ok;
}

static void repeat(struct vmm *vmm, int fd, const char *text)
{
    while (!atomic_load(&vmm->stopping) && vmm_write(vmm, fd, text, strlen(text)))
        ;
}

static void drip(struct vmm *vmm, int fd, const char *text)
{
    while (*text && !atomic_load(&vmm->stopping) && vmm_write(vmm, fd, text++, 1))
        poll(NULL, 0, TURN_MS);
}

/* Nothing more is said on this connection, until the other side ends it. */
static bool fall_silent(struct vmm *vmm, int fd)
{
    char ignored[256];

    while (vmm_wait(vmm, fd, POLLIN) && recv(fd, ignored, sizeof ignored, MSG_DONTWAIT) > 0)
        ;
    return false;
}

/* An answer, or what comes in place of it. `text` is what is said, `lie` the same with every number and type
 * wrong in the way of the misdeed. false: the connection ends. */
bool vmm_answer(struct vmm *vmm, int fd, const char *text, const char *lie)
{
    size_t bytes = strlen(text), half = bytes / 2;
    enum vmm_misdeed misdeed = vmm->answers++ >= vmm->misdeed_from ? vmm->misdeed : VMM_GOOD;

    vmm_unlock(vmm);
    bool goes_on = false;
    switch (misdeed) {
    case VMM_GOOD:
        goes_on = vmm_write(vmm, fd, text, bytes);
        break;
    case VMM_SILENT:
        fall_silent(vmm, fd);
        break;
    case VMM_HANGS_UP:
        break;
    case VMM_TRUNCATES:
        vmm_write(vmm, fd, text, half);
        break;
    case VMM_HALF:
        vmm_write(vmm, fd, text, half);
        fall_silent(vmm, fd);
        break;
    case VMM_DRIPS:
        drip(vmm, fd, text);
        fall_silent(vmm, fd);
        break;
    case VMM_ENDLESS:
        if (vmm->kind == VMM_QMP)
            vmm_write(vmm, fd, "{\"return\": \"", 12);
        else
            repeat(vmm, fd, "HTTP/1.1 200 OK and so on ");
        repeat(vmm, fd, "and so on, and so on, and so on ");
        break;
    case VMM_HUGE:
        write_filled(vmm, fd, "{\"return\": {}}", ' ', HUGE_BYTES);
        fall_silent(vmm, fd);
        break;
    case VMM_NOISE:
        vmm_write(vmm, fd, "\0\377\r\n\r\n\1\2\3\n", 10);
        fall_silent(vmm, fd);
        break;
    case VMM_NOT_JSON:
        goes_on = write_framed(vmm, fd, "<html>no</html>", 15);
        break;
    case VMM_DEEP:
        goes_on = write_filled(vmm, fd, "", '[', DEEP_BYTES);
        break;
    case VMM_FLOODS:
        if (vmm->kind == VMM_QMP)
            repeat(vmm, fd, "{\"event\": \"BALLOON_CHANGE\", \"data\": {\"actual\": 1048576}}\r\n");
        else if (vmm_write(vmm, fd, "HTTP/1.1 200 OK\r\n", 17))
            repeat(vmm, fd, "X-More: and more of it\r\n");
        break;
    default:
        goes_on = write_framed(vmm, fd, lie, strlen(lie));
        break;
    }
    vmm_lock(vmm);
    return goes_on;
}

/* ---------------------------------------------------------------- the thread */

static void *serve(void *arg)
{
    struct vmm *vmm = arg;

    while (vmm_wait(vmm, vmm->listen_fd, POLLIN)) {
        int fd = accept4(vmm->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        vmm_lock(vmm);
        vmm->connections++;
        if (vmm->kind == VMM_QMP) {
            vmm->answers = 0;
            vmm_serve_qmp(vmm, fd);
        } else {
            vmm_serve_http(vmm, fd);
        }
        vmm_unlock(vmm);
        close(fd);
    }
    return NULL;
}

static void listen_at(struct vmm *vmm, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(vmm->path, sizeof vmm->path, "%s", path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    vmm->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (vmm->listen_fd < 0 || bind(vmm->listen_fd, (struct sockaddr *)&address, sizeof address) ||
        listen(vmm->listen_fd, 4)) {
        perror("vmm");
        abort();
    }
}

void vmm_start(struct vmm *vmm, enum vmm_kind kind, const char *path)
{
    *vmm = (struct vmm){.kind = kind,
                        .ram = 1024 * MIB,
                        .step = 1024 * MIB,
                        .device = true,
                        .driver = true,
                        .stats = true,
                        .updates = 1};
    pthread_mutex_init(&vmm->lock, NULL);
    listen_at(vmm, path);
    if (pthread_create(&vmm->thread, NULL, serve, vmm))
        abort();
}

void vmm_stop(struct vmm *vmm)
{
    if (vmm->listen_fd < 0)
        return;
    atomic_store(&vmm->stopping, true);
    pthread_join(vmm->thread, NULL);
    close(vmm->listen_fd);
    unlink(vmm->path);
    vmm->listen_fd = -1;
}
