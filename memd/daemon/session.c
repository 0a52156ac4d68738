/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see session.h. This file: the socket. Greeting and joining: join.c; rings: channel.c.
 */
#include "memd/daemon/session.h"

#include "memd/common/clock.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/join.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS_A_TURN  16
#define MESSAGES_A_TURN 16
#define MESSAGE_BYTES   256 /* the longest an engine sends is HELLO */

bool session_is_trusted(const struct session *session)
{
    return session->uid == 0 || session->uid == geteuid();
}

bool session_may_log(struct session *session)
{
    return session_is_trusted(session) || log_allowed(&session->core->peer_log);
}

/* ---------------------------------------------------------------- the end */

static void send_refused(struct session *session, int error, const char *reason)
{
    struct wire_msg_refused refused = {
        .h = {.magic = WIRE_MAGIC, .type = WIRE_REFUSED, .bytes = sizeof refused}, .error = error};
    snprintf(refused.reason, sizeof refused.reason, "%s", reason);
    send(session->sock.fd, &refused, sizeof refused, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void session_end(struct session *session, int error, const char *format, ...)
{
    if (session->ended)
        return;
    char reason[WIRE_REASON_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);

    if (log_allowed(&session->core->peer_log))
        log_warn("session of %s (pid %d) ended: %s", session->vm ? session->vm->engine.name : "an engine",
                 (int)session->pid, reason);
    send_refused(session, error, reason);
    session_drop(session);
}

/* The VM goes on without a session: what it holds it holds; its pages are nobody's candidates any more. */
static void leave_vm(struct session *session)
{
    struct vm *vm = session->vm;

    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        if (session->joining[i])
            region_free(session->joining[i]);
        session->joining[i] = NULL;
        if (vm->region[i])
            region_detach(vm->region[i]);
    }
    vm_restart_pass(vm, clock_now_ns());
    jobs_session_lost(vm);
    exports_abandon(session);
    proposals_drop_all(session);
    heirs_session_ends(vm);
    embed_session_lost(vm);
    for (unsigned i = 0; i < vm->domain->nstores; i++)
        store_lease_end(&vm->domain->stores[i], &session->lease[i]);
    vm->session = NULL;
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
        if (vm->region[i])
            vm->region[i]->unanswered = 0;
}

void session_drop(struct session *session)
{
    struct core *core = session->core;

    if (session->ended)
        return;
    if (session->vm)
        vm_read_stats(session->vm);
    session->ended = true;
    loop_del(&core->loop, &session->sock);
    if (session->vm)
        leave_vm(session);
    channel_close(session);
    close(session->sock.fd);
    if (session->pidfd >= 0)
        close(session->pidfd);
    cds_list_del_init(&session->busy_link);
    cds_list_del_init(&session->written_link);
    cds_list_del(&session->link);
    cds_list_add(&session->link, &core->ended);
    core->nsessions--;
}

void session_reap(struct core *core)
{
    struct session *session, *next;
    cds_list_for_each_entry_safe (session, next, &core->ended, link) {
        cds_list_del(&session->link);
        free(session);
    }
}

/* ---------------------------------------------------------------- messages in */

/* The fd that came with a message, or -1; -2 if more than one did. */
static int take_fd(struct msghdr *header)
{
    int kept = -1;
    bool many = header->msg_flags & MSG_CTRUNC;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (kept < 0 && !many) {
                kept = fd;
                continue;
            }
            many = true;
            close(fd);
        }
    }
    if (many && kept >= 0)
        close(kept);
    return many ? -2 : kept;
}

static const struct {
    uint16_t bytes;
    bool fd;
    void (*take)(struct session *session, const void *msg, int fd);
} messages[] = {
    [WIRE_HELLO] = {sizeof(struct wire_msg_hello), false, join_hello},
    [WIRE_REGION_ADD] = {sizeof(struct wire_msg_region_add), true, join_region_add},
    [WIRE_REGION_DEL] = {sizeof(struct wire_msg_region), false, join_region_del},
    [WIRE_READY] = {sizeof(struct wire_msg), false, join_ready},
    [WIRE_BYE] = {sizeof(struct wire_msg), false, join_bye},
};

static void take_message(struct session *session, const void *buf, size_t bytes, int fd)
{
    struct wire_msg header = {0};
    if (bytes >= sizeof header)
        memcpy(&header, buf, sizeof header);

    const char *fault = NULL;
    if (bytes < sizeof header || header.magic != WIRE_MAGIC)
        fault = "this is not memd's protocol";
    else if (header.type >= sizeof messages / sizeof messages[0] || !messages[header.type].take)
        fault = "message of an unknown type";
    else if (header.bytes != bytes || messages[header.type].bytes != bytes)
        fault = "message of a wrong length";
    else if (fd == -2 || messages[header.type].fd != (fd >= 0))
        fault = "message with a wrong number of file descriptors";
    if (fault) {
        if (fd >= 0)
            close(fd);
        session_end(session, EPROTO, "%s", fault);
        return;
    }
    messages[header.type].take(session, buf, fd);
}

void session_read(struct session *session)
{
    for (int i = 0; i < MESSAGES_A_TURN && !session->ended; i++) {
        _Alignas(8) unsigned char buf[MESSAGE_BYTES];
        _Alignas(8) unsigned char control[CMSG_SPACE(4 * sizeof(int))];
        struct iovec iov = {.iov_base = buf, .iov_len = sizeof buf};
        struct msghdr header = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(session->sock.fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            int fd = n < 0 ? -1 : take_fd(&header); /* a packet may be empty but for descriptors */
            if (fd >= 0)
                close(fd);
            if (session->vm && session_may_log(session))
                log_info("VM %s (pid %d) has closed its session", session->vm->engine.name,
                         (int)session->pid);
            session->hung_up = true;
            session_drop(session);
            return;
        }
        take_message(session, buf, (size_t)n, take_fd(&header));
    }
}

static void on_socket(struct loop_source *source, uint32_t events)
{
    struct session *session = caa_container_of(source, struct session, sock);
    (void)events;
    session_read(session);
}

/* ---------------------------------------------------------------- new connections */

static bool is_crowded(const struct core *core, uid_t uid)
{
    struct session *session;
    unsigned greeting = 0, of_uid = 0;

    cds_list_for_each_entry (session, &core->sessions, link)
        if (session->state == SESSION_GREETING) {
            greeting++;
            of_uid += session->uid == uid;
        }
    return core->nsessions >= SESSIONS_MAX || greeting >= SESSION_GREETINGS_MAX ||
           (uid != 0 && of_uid >= SESSION_GREETINGS_UID);
}

static void start(struct core *core, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) || is_crowded(core, peer.uid)) {
        close(fd);
        return;
    }
    struct session *session = calloc(1, sizeof *session);
    if (!session) {
        close(fd);
        return;
    }
    session->core = core;
    session->sock = (struct loop_source){.fd = fd, .ready = on_socket};
    session->up.fd = session->down_fd = session->shm_fd = session->pidfd = -1;
    session->peer_up_fd = session->peer_down_fd = -1;
    session->pid = peer.pid;
    session->uid = peer.uid;
    session->since_ns = clock_now_ns();
    exports_queue_init(&session->exports);
    CDS_INIT_LIST_HEAD(&session->busy_link);
    CDS_INIT_LIST_HEAD(&session->written_link);
    if (loop_add(&core->loop, &session->sock, EPOLLIN)) {
        close(fd);
        free(session);
        return;
    }
    cds_list_add_tail(&session->link, &core->sessions);
    core->nsessions++;
}

/* Without a free descriptor connections would wait, and have us called, for ever: they are turned away. */
static void turn_away(struct core *core)
{
    core_warn(core, "no file descriptors left for new VMs: raise the limit (ulimit -n)");
    if (core->spare_fd < 0)
        return;
    close(core->spare_fd);
    int fd = accept4(core->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        close(fd);
    core->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void session_accept(struct core *core)
{
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept4(core->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE)
                turn_away(core);
            return;
        }
        start(core, fd);
    }
}

void session_tend(struct session *session, uint64_t now_ns)
{
    uint64_t age_ms = (now_ns - session->since_ns) / CLOCK_MS;
    if (session->state == SESSION_GREETING && age_ms > SESSION_GREETING_MS)
        session_end(session, ETIMEDOUT, "no HELLO in %u s", SESSION_GREETING_MS / 1000);
    else if (session->state == SESSION_JOINING && age_ms > SESSION_JOINING_MS)
        session_end(session, ETIMEDOUT, "not READY in %u s", SESSION_JOINING_MS / 1000);
}
