/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see agents.h. This file: connections. Which there are: agents_find.c. */
#include "memd/daemon/agents.h"

#include "memd/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define READS_A_TURN 4

static void on_ready(struct loop_source *source, uint32_t events);

/* ---------------------------------------------------------------- agents */

struct agent *agent_new(struct core *core, const char *name)
{
    struct agents *agents = &core->agents;
    struct agent *agent = agents->n < CORE_AGENTS_MAX ? calloc(1, sizeof *agent) : NULL;

    if (!agent) {
        if (!agents->full_warned)
            core_warn(core, "no more than %u agents are listened to: that of VM %s is not", agents->n, name);
        agents->full_warned = true;
        return NULL;
    }
    agent->core = core;
    agent->sock = (struct loop_source){.fd = -1, .ready = on_ready};
    agent->pause_ns = AGENTS_RETRY_NS_MIN;
    snprintf(agent->name, sizeof agent->name, "%s", name);
    cds_list_add_tail(&agent->link, &agents->list);
    agents->n++;
    return agent;
}

/* The VM of its name, if it has an engine. */
static struct vm *vm_of(const struct agent *agent)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &agent->core->vms, link)
        if (!strcmp(vm->engine.name, agent->name))
            return vm;
    return NULL;
}

/* The most memory the guest can have. */
static uint64_t cap_bytes(const struct agent *agent, const struct vm *vm)
{
    uint64_t pages = vm ? vm_guest_pages(vm) : 0;

    return pages ? pages * WIRE_PAGE_BYTES : agent->core->memory.total_bytes;
}

static void watch(struct agent *agent, bool on)
{
    struct loop *loop = &agent->core->loop;

    if (agent->watched == on)
        return;
    if (on && loop_add(loop, &agent->sock, agent->phase == AGENT_OPENS ? EPOLLOUT : EPOLLIN))
        return; /* the next tick tries again */
    if (!on)
        loop_del(loop, &agent->sock);
    agent->watched = on;
}

/* The job of a reclaim that is over, if anybody waits. */
static void settle_job(struct agent *agent)
{
    struct core *core = agent->core;
    struct jobs_record *r;
    uint64_t bytes;
    int error;
    char text[CORE_REASON_BYTES];

    if (!agent_peer_reclaim_over(&agent->peer, &bytes, &error))
        return;
    r = jobs_find(core, agent->job);
    agent->job = 0;
    if (!r || !jobs_runs(r))
        return;
    r->job.paged_bytes = bytes;
    snprintf(text, sizeof text, "the agent of VM %.64s %s", agent->name,
             error == ECONNRESET  ? "is gone"
             : error == ETIMEDOUT ? "does not answer"
             : error == EBUSY     ? "is at an earlier one still"
             : error == ENOTSUP   ? "cannot reclaim"
                                  : "was refused by its kernel");
    jobs_end(core, r, error, text);
}

static void close_connection(struct agent *agent, uint64_t now_ns)
{
    watch(agent, false);
    if (agent->sock.fd >= 0)
        close(agent->sock.fd);
    agent->sock.fd = -1;
    if (agent->phase == AGENT_OPEN)
        log_debug("agent of VM %s: the connection has ended", agent->name);
    agent->phase = AGENT_CLOSED;
    agent_peer_disconnected(&agent->peer);
    settle_job(agent);
    agent->retry_ns = now_ns + agent->pause_ns;
    agent->pause_ns *= 2;
    if (agent->pause_ns > AGENTS_RETRY_NS_MAX)
        agent->pause_ns = AGENTS_RETRY_NS_MAX;
}

void agent_retry(struct agent *agent)
{
    agent->retry_ns = 0;
    agent->pause_ns = AGENTS_RETRY_NS_MIN;
}

void agent_free(struct agent *agent)
{
    close_connection(agent, 0);
    cds_list_del(&agent->link);
    agent->core->agents.n--;
    free(agent);
}

/* ---------------------------------------------------------------- talking */

static void send_pending(struct agent *agent, uint64_t now_ns)
{
    const uint8_t *from;
    size_t bytes;

    while (agent->phase == AGENT_OPEN && (from = agent_peer_pending(&agent->peer, now_ns, &bytes))) {
        ssize_t put = send(agent->sock.fd, from, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && errno != EAGAIN && errno != EINTR) {
            close_connection(agent, now_ns);
            return;
        }
        if (put <= 0)
            return; /* the next tick tries again */
        agent_peer_sent(&agent->peer, (size_t)put);
    }
}

/* Whose socket this is must be one who may speak for the VM. */
static bool owner_is_right(struct agent *agent, const struct vm *vm)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;

    if (agent->route == AGENT_VSOCK || !vm || !vm->session)
        return true;
    if (getsockopt(agent->sock.fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes))
        return false;
    if (!peer.uid || peer.uid == geteuid() || peer.uid == vm->session->uid)
        return true;
    snprintf(agent->why, sizeof agent->why, "its socket is user %u's, the VM is user %u's",
             (unsigned)peer.uid, (unsigned)vm->session->uid);
    if (log_allowed(&agent->core->peer_log))
        log_warn("agent of VM %s refused: %s", agent->name, agent->why);
    return false;
}

static void open_frames(struct agent *agent, uint64_t now_ns)
{
    uint64_t session = 0;

    while (!session)
        if (getrandom(&session, sizeof session, GRND_NONBLOCK) < 0)
            session = now_ns;
    agent->phase = AGENT_OPEN;
    agent_peer_connected(&agent->peer, session, now_ns);
    send_pending(agent, now_ns);
}

static void connected(struct agent *agent, uint64_t now_ns)
{
    char text[32];

    watch(agent, false);
    if (!owner_is_right(agent, vm_of(agent))) {
        close_connection(agent, now_ns);
        return;
    }
    if (agent->route == AGENT_VMM_VSOCK) {
        int n = snprintf(text, sizeof text, "CONNECT %u\n", AGENT_VSOCK_PORT);
        if (send(agent->sock.fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n) {
            close_connection(agent, now_ns);
            return;
        }
        agent->phase = AGENT_ASKS;
        agent->nanswer = 0;
    } else {
        open_frames(agent, now_ns);
    }
    if (agent->phase != AGENT_CLOSED)
        watch(agent, true);
}

/* "OK 1073741824\n", byte by byte: what follows belongs to the agent. */
static void read_answer(struct agent *agent, uint64_t now_ns)
{
    char c;

    while (agent->nanswer < sizeof agent->answer - 1) {
        ssize_t got = recv(agent->sock.fd, &c, 1, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (got <= 0)
            break;
        if (c == '\n') {
            agent->answer[agent->nanswer] = '\0';
            if (strncmp(agent->answer, "OK ", 3))
                break;
            open_frames(agent, now_ns);
            return;
        }
        agent->answer[agent->nanswer++] = c;
    }
    close_connection(agent, now_ns); /* nobody listens there, or it is no VMM */
}

static void read_frames(struct agent *agent, uint64_t now_ns)
{
    struct vm *vm = vm_of(agent);
    uint64_t frames = agent->peer.frames;
    uint8_t *at;

    if (!owner_is_right(agent, vm)) { /* the VM may have joined since */
        close_connection(agent, now_ns);
        return;
    }
    for (unsigned i = 0; i < READS_A_TURN; i++) {
        size_t room = agent_peer_room(&agent->peer, now_ns, &at);
        if (!room) {
            watch(agent, false); /* until a tick finds that it may go on */
            break;
        }
        ssize_t got = recv(agent->sock.fd, at, room, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (got <= 0) {
            close_connection(agent, now_ns);
            return;
        }
        agent_peer_received(&agent->peer, (size_t)got, cap_bytes(agent, vm), now_ns);
    }
    if (agent->peer.answered)
        agent->pause_ns = AGENTS_RETRY_NS_MIN;
    if (agent->peer.frames != frames)
        inflate_heard(agent->core, agent->name);
    settle_job(agent);
    send_pending(agent, now_ns);
}

static void on_ready(struct loop_source *source, uint32_t events)
{
    struct agent *agent = caa_container_of(source, struct agent, sock);
    uint64_t now_ns = clock_now_ns();
    socklen_t bytes = sizeof(int);
    int error = 0;

    switch (agent->phase) {
    case AGENT_OPENS:
        if (getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) || error)
            close_connection(agent, now_ns);
        else
            connected(agent, now_ns);
        break;
    case AGENT_ASKS:
        read_answer(agent, now_ns);
        break;
    case AGENT_OPEN:
        if (events & EPOLLIN)
            read_frames(agent, now_ns);
        else
            close_connection(agent, now_ns);
        break;
    case AGENT_CLOSED:
        break;
    }
}

/* ---------------------------------------------------------------- connecting */

static int connect_to(const struct agent *agent, int fd)
{
    struct sockaddr_vm vsock = {.svm_family = AF_VSOCK, .svm_cid = agent->cid, .svm_port = AGENT_VSOCK_PORT};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;

    if (agent->route == AGENT_VSOCK)
        return connect(fd, (const struct sockaddr *)&vsock, sizeof vsock);
    if (agent->configured) {
        snprintf(address.sun_path, sizeof address.sun_path, "%.*s", (int)sizeof address.sun_path - 1,
                 agent->path);
        return connect(fd, (const struct sockaddr *)&address, sizeof address);
    }
    /* who may make sockets in RUN_DIR/agents may not send memd to other places */
    int path_fd = open(agent->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (path_fd < 0)
        return -1;
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", path_fd);
    int result = fstat(path_fd, &st) ? -1 : 0, error = errno;
    if (!result && !S_ISSOCK(st.st_mode)) {
        result = -1;
        error = ENOTSOCK;
    } else if (!result) {
        result = connect(fd, (const struct sockaddr *)&address, sizeof address);
        error = errno;
    }
    close(path_fd);
    errno = error;
    return result;
}

static void open_connection(struct agent *agent, uint64_t now_ns)
{
    int family = agent->route == AGENT_VSOCK ? AF_VSOCK : AF_UNIX;

    agent->since_ns = now_ns;
    agent->why[0] = '\0';
    agent->sock.fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (agent->sock.fd < 0) {
        close_connection(agent, now_ns);
    } else if (!connect_to(agent, agent->sock.fd)) {
        connected(agent, now_ns);
    } else if (errno == EINPROGRESS) {
        agent->phase = AGENT_OPENS;
        watch(agent, true);
    } else {
        close_connection(agent, now_ns);
    }
}

/* How far a job has come. */
static void show_progress(struct agent *agent)
{
    const struct agent_peer_reclaim *reclaim = &agent->peer.reclaim;
    struct jobs_record *r = agent->job ? jobs_find(agent->core, agent->job) : NULL;

    if (r && jobs_runs(r) && reclaim->runs && reclaim->want_bytes)
        r->job.progress = (double)reclaim->got_bytes / (double)reclaim->want_bytes;
}

static void tick(struct agent *agent, uint64_t now_ns)
{
    uint8_t *at;

    switch (agent->phase) {
    case AGENT_CLOSED:
        if (now_ns >= agent->retry_ns)
            open_connection(agent, now_ns);
        return;
    case AGENT_OPENS:
    case AGENT_ASKS:
        if (now_ns - agent->since_ns > AGENTS_OPEN_NS)
            close_connection(agent, now_ns);
        else
            watch(agent, true);
        return;
    case AGENT_OPEN:
        break;
    }
    if (!agent->watched || agent->peer.reclaim.runs) {
        agent_peer_tick(&agent->peer, cap_bytes(agent, vm_of(agent)), now_ns);
        show_progress(agent);
        settle_job(agent);
        if (!agent->watched && agent_peer_room(&agent->peer, now_ns, &at))
            watch(agent, true);
    }
    send_pending(agent, now_ns);
}

void agents_tick(struct core *core, uint64_t now_ns)
{
    struct agent *agent;

    agents_find_in_dir(core, now_ns);
    cds_list_for_each_entry (agent, &core->agents.list, link)
        tick(agent, now_ns);
}

void agents_open(struct core *core)
{
    agents_find_configured(core);
    agents_find_in_dir(core, clock_now_ns());
}

void agents_close(struct core *core)
{
    struct agent *agent, *next;

    cds_list_for_each_entry_safe (agent, next, &core->agents.list, link)
        agent_free(agent);
    agents_forget_dir(core);
}

const struct agent_peer *agents_peer(const struct core *core, const char *vm)
{
    const struct agent *agent;

    cds_list_for_each_entry (agent, &core->agents.list, link)
        if (!strcmp(agent->name, vm))
            return &agent->peer;
    return NULL;
}

/* ---------------------------------------------------------------- for users */

/* By the VM's name, else by its id. */
static struct agent *agent_find(struct core *core, const char *key)
{
    const struct vm *vm;
    struct agent *agent;

    cds_list_for_each_entry (agent, &core->agents.list, link)
        if (!strcmp(agent->name, key))
            return agent;
    vm = vm_find(core, key);
    cds_list_for_each_entry (agent, &core->agents.list, link)
        if (vm && !strcmp(agent->name, vm->engine.name))
            return agent;
    return NULL;
}

int agents_reclaim(struct core *core, const char *vm, uint64_t bytes, uint32_t timeout_ms, uint64_t *ret_job)
{
    struct agent *agent = agent_find(core, vm);
    uint64_t now_ns = clock_now_ns();
    struct jobs_record *r;

    if (!agent)
        return -ENOENT;
    if (agent_peer_state(&agent->peer, now_ns) != CORE_AGENT_LIVE)
        return -ENOTCONN;
    if (bytes > cap_bytes(agent, vm_of(agent)))
        return -ERANGE;
    int err = jobs_begin(core, CORE_JOB_RECLAIM, &r);
    if (err)
        return err;
    err = agent_peer_reclaim(&agent->peer, r->job.id, bytes, timeout_ms, now_ns);
    if (err) {
        jobs_end(core, r, -err, strerror(-err));
        return err;
    }
    *ret_job = agent->job = r->job.id;
    send_pending(agent, now_ns);
    return 0;
}

void agents_leave(struct core *core, uint64_t job)
{
    struct agent *agent;

    cds_list_for_each_entry (agent, &core->agents.list, link)
        if (agent->job == job) {
            agent->job = 0;
            agent_peer_reclaim_forget(&agent->peer);
        }
}

static void show(const struct agent *agent, struct core_agent *out, uint64_t now_ns)
{
    const struct agent_peer *peer = &agent->peer;

    *out = (struct core_agent){
        .state = agent->why[0] ? CORE_AGENT_REFUSED : agent_peer_state(peer, now_ns),
        .vm_connected = vm_of(agent),
        .can_reclaim = peer->features & AGENT_CAN_RECLAIM,
        .reclaims = peer->reclaim.runs,
        .age_ms = peer->reported_ns ? (now_ns - peer->reported_ns) / CLOCK_MS : 0,
        .present = peer->present,
        .stall_some_percent = peer->stall_some_percent,
        .stall_full_percent = peer->stall_full_percent,
        .frames = peer->frames,
        .lost_frames = peer->lost,
        .bad_frames = peer->bad,
        .throttled = peer->throttled,
        .clamped = peer->clamped,
        .nconsumers = peer->nconsumers,
    };
    snprintf(out->name, sizeof out->name, "%s", agent->name);
    snprintf(out->path, sizeof out->path, "%s", agent->path);
    snprintf(out->release, sizeof out->release, "%s", peer->release);
    if (agent->why[0])
        snprintf(out->why, sizeof out->why, "%s", agent->why);
    else if (out->state == CORE_AGENT_REFUSED)
        snprintf(out->why, sizeof out->why, "it speaks other versions of the protocol");
    memcpy(out->value, peer->value, sizeof out->value);
    memcpy(out->consumers, peer->consumers, sizeof out->consumers);
}

int agents_show(struct core *core, struct core_snapshot *snapshot, uint64_t now_ns)
{
    struct agent *agent;

    snapshot->agents = calloc(core->agents.n + 1, sizeof *snapshot->agents);
    if (!snapshot->agents)
        return -ENOMEM;
    cds_list_for_each_entry (agent, &core->agents.list, link)
        show(agent, &snapshot->agents[snapshot->nagents++], now_ns);
    return 0;
}
