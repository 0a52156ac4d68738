/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see join.h, and "Life of a session" in memd/wire.h. */
#include "memd/daemon/join.h"

#include "memd/common/clock.h"
#include "memd/common/name.h"
#include "memd/daemon/channel.h"
#include "memd/daemon/session.h"
#include "memd/daemon/state.h"
#include "memd/daemon/swap.h"
#include "memd/daemon/terms.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define WELCOME_FDS_MAX (3 + WIRE_NODES_MAX + 1)

static void set_state(struct session *session, enum session_state state)
{
    session->state = state;
    session->since_ns = clock_now_ns();
}

/* ---------------------------------------------------------------- who it is */

/* pid, start and pidfd of the peer. The kernel's word counts, not HELLO's. */
static int identify(struct session *session, struct registry_entry *engine)
{
    const char *proc_root = session->core->config.proc_root;
    if (session->pid <= 0)
        return -EXDEV;
    int err = proc_start_time(proc_root, session->pid, &engine->start);
    if (err)
        return err;

    int pidfd;
    socklen_t len = sizeof pidfd;
    if (getsockopt(session->sock.fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len)) {
        pidfd = proc_open_pidfd(proc_root, session->pid, engine->start);
        if (pidfd < 0)
            return pidfd;
    }
    if (proc_has_ended(pidfd)) { /* then `start` may be that of the pid's next owner */
        close(pidfd);
        return -ESRCH;
    }
    session->pidfd = pidfd;
    engine->pid = session->pid;
    engine->uid = session->uid;
    return 0;
}

static bool is_same(const struct registry_entry *a, const struct registry_entry *b)
{
    return a->pid == b->pid && a->start == b->start;
}

/* A VM of that name that is another process and alive. One that has just died is cleared away. */
static bool is_name_taken(struct core *core, const struct registry_entry *engine, int *ret_pid)
{
    struct awaited *awaited = domain_find_awaited_name(core, engine->name);
    if (awaited && !is_same(&awaited->entry, engine) && !proc_has_ended(awaited->pidfd.fd)) {
        *ret_pid = awaited->entry.pid;
        return true;
    }
    struct vm *vm, *next;
    cds_list_for_each_entry_safe (vm, next, &core->vms, link) {
        if (strcmp(vm->engine.name, engine->name) || is_same(&vm->engine, engine))
            continue;
        if (!proc_has_ended(vm->pidfd.fd)) {
            *ret_pid = vm->engine.pid;
            return true;
        }
        vm_gone(vm);
    }
    return false;
}

/* ---------------------------------------------------------------- HELLO */

/* Returns NULL, or what is wrong. */
static const char *check_hello(const struct wire_msg_hello *hello)
{
    if (!name_is_valid(hello->name))
        return "a VM's name is 1 to 63 characters of A-Z a-z 0-9 . _ -";
    if (!memchr(hello->domain, 0, sizeof hello->domain) || !memchr(hello->release, 0, sizeof hello->release))
        return "HELLO has a string without an end";
    if (hello->version_min > hello->version_max || hello->map_version_min > hello->map_version_max)
        return "HELLO has versions in the wrong order";
    return NULL;
}

static bool versions_meet(struct session *session, const struct wire_msg_hello *hello)
{
    if (hello->version_min <= WIRE_VERSION_MAX && hello->version_max >= WIRE_VERSION_MIN &&
        hello->map_version_min <= WIRE_MAP_VERSION_MAX && hello->map_version_max >= WIRE_MAP_VERSION_MIN)
        return true;
    session_end(
        session, EPROTONOSUPPORT,
        "this memd speaks protocol %d-%d with page maps %d-%d, libmemd %.15s in VM %.40s %d-%d with %d-%d:"
        " upgrade the older",
        WIRE_VERSION_MIN, WIRE_VERSION_MAX, WIRE_MAP_VERSION_MIN, WIRE_MAP_VERSION_MAX, hello->release,
        hello->name, hello->version_min, hello->version_max, hello->map_version_min, hello->map_version_max);
    return false;
}

static struct vm *find_name(struct core *core, const char *name)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link)
        if (!strcmp(vm->engine.name, name))
            return vm;
    return NULL;
}

/* Two engines of one process must not share a VM: what one does not hold would be taken from the other. One
 * that connects anew has closed its old connection, which we may not have seen yet. */
static bool is_served(struct core *core, const char *name)
{
    struct vm *vm = find_name(core, name);

    if (!vm || !vm->session)
        return false;
    session_read(vm->session);
    vm = find_name(core, name); /* it may have said goodbye */
    return vm && vm->session;
}

/* NULL, or why there may not be one more. */
static const char *check_crowd(const struct session *session)
{
    const struct core *core = session->core;
    unsigned of_process = 0, of_uid = 0;
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link) {
        of_process += vm->engine.pid == session->pid;
        of_uid += vm->engine.uid == session->uid;
    }
    if (core->nvms >= CORE_VMS_MAX)
        return "there are as many VMs as memd serves";
    if (of_process >= SESSION_VMS_PROCESS)
        return "this process has too many engines";
    if (of_uid >= SESSION_VMS_UID && !session_is_trusted(session))
        return "this user has half of the VMs memd serves";
    return NULL;
}

/* The VM of this process and name, made if it is new. NULL: the session has ended. */
static struct vm *find_vm(struct session *session, const struct wire_msg_hello *hello,
                          struct registry_entry *engine)
{
    struct core *core = session->core;
    struct awaited *awaited = domain_find_awaited(core, engine);
    struct domain *domain;
    struct vm *vm = find_name(core, engine->name);
    const char *crowd = vm ? NULL : check_crowd(session);

    if (vm || awaited) /* a process that was let in may have given up its rights since */
        engine->uid = vm ? vm->engine.uid : awaited->entry.uid;
    if (crowd) {
        session_end(session, ENOSPC, "%s", crowd);
        return NULL;
    }
    int err = domain_join(core, hello->domain, engine, &domain);
    if (err) {
        session_end(session, -err,
                    err == -ENOENT   ? "no domain %.40s: add [domain %.40s] to memd's configuration"
                    : err == -EACCES ? "domain %.40s is not open to this uid: add it to [domain %.40s]"
                                     : "cannot make domain \"%.40s\" for VM %.40s",
                    hello->domain, err == -ENOENT || err == -EACCES ? hello->domain : engine->name);
        return NULL;
    }
    if ((vm && vm->domain != domain) || (awaited && awaited->domain != domain)) {
        session_end(session, EINVAL, "VM %.40s has pages in domain %.60s and cannot change to another",
                    engine->name, vm ? vm->domain->name : awaited->domain->name);
        domain_left(domain);
        return NULL;
    }
    if (vm)
        return vm;
    char low[120];
    if (!awaited && reclaim_refuses(core, domain, low, sizeof low)) {
        session_end(session, ENOMEM, "VM %.40s: %s", engine->name, low);
        domain_left(domain);
        return NULL;
    }
    engine->merge_on = awaited ? awaited->entry.merge_on : core->merge_on;
    err = vm_new(core, domain, engine, session->pidfd, &vm);
    if (err) {
        session_end(session, -err, "cannot register VM %.40s: %s", engine->name, strerror(-err));
        domain_left(domain);
        return NULL;
    }
    session->pidfd = -1;
    terms_vm_joined(vm);
    return vm;
}

int join_send_fds(int sock, const void *msg, size_t bytes, const int *fds, size_t nfds)
{
    _Alignas(8) unsigned char control[CMSG_SPACE(WELCOME_FDS_MAX * sizeof(int))] = {0};
    struct iovec iov = {.iov_base = (void *)msg, .iov_len = bytes};
    struct msghdr header = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = control,
                            .msg_controllen = CMSG_SPACE(nfds * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
    memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
    return sendmsg(sock, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int send_welcome(struct session *session, const struct wire_msg_hello *hello)
{
    struct core *core = session->core;
    struct domain *domain = session->vm->domain;
    struct wire_msg_welcome welcome = {
        .h = {.magic = WIRE_MAGIC, .type = WIRE_WELCOME, .bytes = sizeof welcome},
        .version = WIRE_VERSION_MAX,
        .map_version =
            hello->map_version_max < WIRE_MAP_VERSION_MAX ? hello->map_version_max : WIRE_MAP_VERSION_MAX,
        .nstores = (uint16_t)domain->nstores,
        .vm_id = session->vm->id,
        .incarnation = core->incarnation,
        .store_bytes = (uint64_t)domain->stores[0].nframes * WIRE_PAGE_BYTES,
    };
    snprintf(welcome.domain, sizeof welcome.domain, "%.63s", domain->name);

    int fds[WELCOME_FDS_MAX] = {session->shm_fd, session->peer_up_fd, session->peer_down_fd};
    size_t nfds = 3;
    int err = 0;
    for (unsigned i = 0; i < domain->nstores && !err; i++) {
        int fd = store_open_readonly(domain->dir_fd, i);
        err = fd < 0 ? fd : 0;
        if (!err)
            fds[nfds++] = fd;
    }
    size_t opened = nfds;
    if ((hello->flags & WIRE_HELLO_WANT_UFFD) && core->uffd_fd >= 0) {
        fds[nfds++] = core->uffd_fd;
        welcome.flags |= WIRE_WELCOME_UFFD;
    }
    session->balloons = hello->flags & WIRE_HELLO_BALLOON;
    if (session->balloons)
        welcome.flags |= WIRE_WELCOME_BALLOON;
    if (!err)
        err = join_send_fds(session->sock.fd, &welcome, sizeof welcome, fds, nfds);
    for (size_t i = 3; i < opened; i++)
        close(fds[i]);
    return err;
}

void join_hello(struct session *session, const void *msg, int fd)
{
    const struct wire_msg_hello *hello = msg;
    struct registry_entry engine = {0};
    const char *fault = session->state == SESSION_GREETING ? check_hello(hello) : "HELLO said twice";
    int other_pid;

    (void)fd;
    if (fault) {
        session_end(session, EPROTO, "%s", fault);
        return;
    }
    if (!versions_meet(session, hello))
        return;
    strcpy(engine.name, hello->name);
    int err = identify(session, &engine);
    if (err == -ESRCH) {
        session_drop(session); /* it has ended meanwhile */
        return;
    }
    if (err) {
        session_end(session, -err,
                    "cannot tell which process this is: run memd in the VMM's pid namespace or "
                    "a parent of it");
        return;
    }
    if (is_name_taken(session->core, &engine, &other_pid)) {
        session_end(session, EEXIST, "a VM named %s is running (pid %d): give this one another name",
                    engine.name, other_pid);
        return;
    }
    if (is_served(session->core, engine.name)) {
        session_end(session, EEXIST, "this process has an engine named %s already", engine.name);
        return;
    }
    struct vm *vm = find_vm(session, hello, &engine);
    if (!vm)
        return;
    session->vm = vm;
    vm->session = session;
    snprintf(vm->release, sizeof vm->release, "%.15s", hello->release);
    set_state(session, SESSION_JOINING);
    session->wants_swap = hello->flags & WIRE_HELLO_WANT_SWAP;
    err = channel_open(session);
    if (!err)
        err = send_welcome(session, hello);
    if (err)
        session_end(session, -err, "cannot set up shared memory for VM %s: %s", vm->engine.name,
                    strerror(-err));
}

/* ---------------------------------------------------------------- regions */

static void refuse_region(struct session *session, uint32_t id, int error)
{
    struct wire_msg_region refused = {
        .h = {.magic = WIRE_MAGIC, .type = WIRE_REGION_REFUSED, .bytes = sizeof refused},
        .region = id,
        .error = error,
    };
    if (log_allowed(&session->core->peer_log))
        log_warn("VM %s: region %u refused: %s", session->vm->engine.name, id, strerror(error));
    if (send(session->sock.fd, &refused, sizeof refused, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        session_end(session, errno, "it does not read its socket");
}

static uint64_t joining_pages(const struct session *session)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
        if (session->joining[i])
            pages += session->joining[i]->npages;
    return pages;
}

/* Of this VM; for users other than root, of all VMs of the user. */
static uint64_t enrolled_pages(const struct session *session)
{
    uint64_t pages = 0;
    struct vm *vm;

    cds_list_for_each_entry (vm, &session->core->vms, link) {
        if (vm != session->vm && (session_is_trusted(session) || vm->engine.uid != session->uid))
            continue;
        pages +=
            !vm->session || session_is_live(vm->session) ? vm_guest_pages(vm) : joining_pages(vm->session);
    }
    return pages;
}

/* A region added later starts with an empty map: there is nothing to adopt. */
static void add_late(struct session *session, struct region *region)
{
    struct region **place = &session->vm->region[region->id];

    if (*place)
        region_succeed(region, *place);
    *place = region;
    vm_unsettle(session->vm);
    close(region->map_fd);
    region->map_fd = -1;
}

void join_region_add(struct session *session, const void *msg, int fd)
{
    const struct wire_msg_region_add *add = msg;
    struct vm *vm = session->vm;
    struct region *region;

    if (session->state != SESSION_JOINING && session->state != SESSION_LIVE) {
        close(fd);
        session_end(session, EPROTO, "REGION_ADD out of turn");
        return;
    }
    bool live = session->state == SESSION_LIVE;
    if (add->region < WIRE_REGIONS_MAX)
        session->ids_seen |= 1ull << add->region; /* also if it is refused: then it is not listened to */
    if (add->region >= WIRE_REGIONS_MAX || session->joining[add->region] ||
        (live && vm->region[add->region] && vm->region[add->region]->map)) {
        close(fd);
        refuse_region(session, add->region, add->region >= WIRE_REGIONS_MAX ? EINVAL : EEXIST);
        return;
    }
    int err = region_new(vm, add, fd, enrolled_pages(session), &region);
    if (err) {
        refuse_region(session, add->region, -err);
        return;
    }
    if (live)
        add_late(session, region);
    else
        session->joining[add->region] = region;
}

void join_region_del(struct session *session, const void *msg, int fd)
{
    const struct wire_msg_region *del = msg;
    struct vm *vm = session->vm;

    (void)fd;
    if (session->state != SESSION_LIVE || del->region >= WIRE_REGIONS_MAX ||
        !(session->ids_seen >> del->region & 1)) {
        session_end(session, EPROTO, "REGION_DEL of no region");
        return;
    }
    channel_drain(session); /* what it dropped before it said so */
    if (session->ended || !vm->region[del->region])
        return;
    struct region *region = vm->region[del->region];
    region_detach(region);
    region_settle_deleted(region);
}

/* ---------------------------------------------------------------- READY, BYE */

void join_ready(struct session *session, const void *msg, int fd)
{
    (void)msg;
    (void)fd;
    if (session->state != SESSION_JOINING) {
        session_end(session, EPROTO, "READY out of turn");
        return;
    }
    set_state(session, SESSION_ADOPTING);
    channel_wake(session);
}

void join_bye(struct session *session, const void *msg, int fd)
{
    (void)msg;
    (void)fd;
    if (!session->vm) {
        session_drop(session);
        return;
    }
    if (session_may_log(session))
        log_info("VM %s (pid %d) has left", session->vm->engine.name, (int)session->pid);
    vm_gone(session->vm);
}

/* ---------------------------------------------------------------- adopting */

/* One page map entry that names a frame. What an engine claims must be what this daemon gave it, or, after a
 * restart, be possible: then it is registered, and the frame has bytes. Returns false if it lies. */
static bool adopt_entry(struct session *session, struct region *region, uint64_t page, uint32_t number)
{
    struct vm *vm = session->vm;
    struct frame *frame = domain_frame(vm->domain, number);

    if (!frame || (frame->state != FRAME_LIVE && frame->state != FRAME_UNHASHED))
        return false;
    if (vm->adopted) {
        const struct region *old = vm->region[region->id];
        if (!old || !holdings_has(&old->holdings, (uint32_t)page, 1, number))
            return false;
    } else if (!domain_find_awaited(vm->core, &vm->engine)) {
        return false;
    }
    return !region_hold(region, (uint32_t)page, 1, number);
}

static void finish(struct session *session)
{
    struct vm *vm = session->vm;
    struct wire_msg adopted = {.magic = WIRE_MAGIC, .type = WIRE_ADOPTED, .bytes = sizeof adopted};
    struct awaited *awaited = domain_find_awaited(vm->core, &vm->engine);

    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        if (vm->region[i])
            region_free(vm->region[i]);
        vm->region[i] = session->joining[i];
        session->joining[i] = NULL;
        if (vm->region[i]) {
            close(vm->region[i]->map_fd);
            vm->region[i]->map_fd = -1;
        }
    }
    vm->adopted = true;
    vm->fence = vm->domain->fence; /* all it held is counted now */
    if (awaited)
        domain_forget_awaited(awaited);
    set_state(session, SESSION_LIVE);
    session->budget_due = true;
    vm_restart_pass(vm, session->since_ns);
    vm->advice = (struct advice){0};
    int err = channel_start(session);
    if (!err && send(session->sock.fd, &adopted, sizeof adopted, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        err = -errno;
    if (err) {
        session_end(session, -err, "cannot start: %s", strerror(-err));
        return;
    }
    if (session->wants_swap)
        swap_offer(session);
    if (session_may_log(session))
        log_info("VM %s (pid %d, libmemd %s) joined domain %s: %llu MiB, %llu pages merged", vm->engine.name,
                 (int)vm->engine.pid, vm->release, vm->domain->name,
                 (unsigned long long)vm_guest_pages(vm) >> 8, (unsigned long long)vm->held_pages);
    domain_tend_fence(vm->domain, session->since_ns);
}

bool session_adopt(struct session *session)
{
    unsigned budget = SESSION_ADOPT_ENTRIES;

    while (session->adopt_region < WIRE_REGIONS_MAX) {
        struct region *region = session->joining[session->adopt_region];
        uint64_t from, to;
        if (!region || !region_next_entries(region, session->adopt_page, &from, &to)) {
            session->adopt_region++;
            session->adopt_page = 0;
            continue;
        }
        if (to - from > budget)
            to = from + budget;
        for (uint64_t page = from; page < to; page++) {
            uint32_t number = (uint32_t)(region_entry(region, page) >> WIRE_PAGE_FRAME_SHIFT);
            if (number && !adopt_entry(session, region, page, number)) {
                session_end(session, EPROTO, "region %u, page %llu names frame %#x, which it never got",
                            region->id, (unsigned long long)page, number);
                return false;
            }
        }
        session->adopt_page = to;
        budget -= (unsigned)(to - from);
        if (!budget)
            return true;
    }
    finish(session);
    return false;
}
