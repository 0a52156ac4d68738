/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sessions, handshake, the service thread. Theory of operation: see script.h. */
#include "script.h"

#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define MESSAGE_MAX 512
#define FDS_MAX     4

void script_violation(struct script_vm *vm, const char *format, ...)
{
    va_list args;

    if (vm->script->violations++ >= 20)
        return;
    fprintf(stderr, "protocol violation by %s: ", vm->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

struct wire_rec_budget script_budget_full(void)
{
    return (struct wire_rec_budget){.flags = WIRE_BUDGET_MERGE,
                                    .scan_pages_per_s = UINT32_MAX,
                                    .quiet_ms = 10,
                                    .round_ms_max = 50,
                                    .vmas_max = 60000,
                                    .heal_pages_per_s = 1000000};
}

/* ---- messages */

int script_send_fds(int sock, void *msg, uint16_t type, uint16_t bytes, const int *fds, unsigned nfds)
{
    struct wire_msg *h = msg;
    struct iovec iov = {msg, bytes};
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int) * 8)];
    } control = {0};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

    *h = (struct wire_msg){WIRE_MAGIC, type, bytes};
    if (nfds) {
        hdr.msg_control = control.buf;
        hdr.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&hdr);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
    }
    return sendmsg(sock, &hdr, MSG_NOSIGNAL) == bytes ? 0 : -errno;
}

static int recv_fds(int sock, void *buf, size_t bytes, int fds[FDS_MAX], unsigned *ret_nfds)
{
    struct iovec iov = {buf, bytes};
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int) * FDS_MAX)];
    } control;
    struct msghdr hdr = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
    ssize_t n = recvmsg(sock, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    unsigned nfds = 0;

    if (n <= 0)
        return n == 0 ? -EPIPE : errno == EAGAIN ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c; c = CMSG_NXTHDR(&hdr, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), nfds * sizeof(int));
        }
    *ret_nfds = nfds;
    return (int)n;
}

/* ---- sessions */

static void vm_close(struct script_vm *vm)
{
    int *const fds[] = {&vm->sock, &vm->kick_up, &vm->kick_down, &vm->shm_fd};

    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    if (vm->shm)
        munmap(vm->shm, sizeof *vm->shm);
    vm->shm = NULL;
    for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++) {
        struct script_region *r = &vm->region[i];
        if (r->map)
            munmap((void *)(uintptr_t)r->map, r->map_bytes);
        r->map = NULL;
    }
    if (vm->script->matcher)
        matcher_forget(vm);
    vm->state = VM_OVER;
}

static struct script_vm *vm_new(struct script *s, int sock)
{
    unsigned i = 0;

    while (i < SCRIPT_VMS_MAX && s->vm[i])
        i++;
    CHECK(i < SCRIPT_VMS_MAX, "more than %u engines", SCRIPT_VMS_MAX);
    struct script_vm *vm = calloc(1, sizeof *vm);
    CHECK(vm, "no memory");
    *vm = (struct script_vm){.script = s,
                             .state = VM_HELLO,
                             .sock = sock,
                             .kick_up = -1,
                             .kick_down = -1,
                             .shm_fd = -1,
                             .next_id = 1,
                             .oldest_id = 1,
                             .next_token = 1};
    s->vm[i] = vm;
    return vm;
}

/* A name that was here before is the same VM: its accounts go on, and so does the test's pointer to it. */
static struct script_vm *vm_recall(struct script_vm *fresh)
{
    struct script *s = fresh->script;
    struct script_vm *old = NULL;
    unsigned at = 0;

    for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++) {
        if (s->vm[i] == fresh)
            at = i;
        else if (s->vm[i] && !strcmp(s->vm[i]->name, fresh->name))
            old = s->vm[i];
    }
    if (!old)
        return fresh;
    if (old->state != VM_OVER)
        vm_close(old);
    old->state = VM_HELLO;
    old->sock = fresh->sock;
    old->pid = fresh->pid;
    old->said_bye = false;
    s->vm[at] = NULL;
    free(fresh);
    return old;
}

static int make_shm(struct script_vm *vm)
{
    int fd = memfd_create("script-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0 && !ftruncate(fd, sizeof *vm->shm) &&
              !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
          "session memory: %s", strerror(errno));
    vm->shm = mmap(NULL, sizeof *vm->shm, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(vm->shm != MAP_FAILED, "session memory: %s", strerror(errno));
    madvise(vm->shm, sizeof *vm->shm, MADV_DONTFORK);
    vm->shm->magic = WIRE_MAGIC;
    vm->shm->version = WIRE_VERSION_MAX;
    vm->shm->ring_bytes = WIRE_RING_BYTES;
    vm->shm->export_slots = WIRE_EXPORT_SLOTS;
    ring_init(&vm->up, &vm->shm->up, vm->shm->up_data);
    ring_init(&vm->down, &vm->shm->down, vm->shm->down_data);
    vm->shm_fd = fd;
    return fd;
}

static void welcome(struct script_vm *vm, const struct wire_msg_hello *hello)
{
    struct script *s = vm->script;
    uint16_t most = s->options.map_version ? s->options.map_version : WIRE_MAP_VERSION_MAX;
    struct wire_msg_welcome w = {.version = WIRE_VERSION_MAX,
                                 .map_version = hello->map_version_max < most ? hello->map_version_max : most,
                                 .nstores = 1,
                                 .vm_id = 1,
                                 .incarnation = s->incarnation,
                                 .store_bytes = (uint64_t)s->nblocks * SCRIPT_BLOCK_FRAMES * PAGE};
    char path[64];
    int fds[5];
    unsigned n = 0;

    snprintf(path, sizeof path, "/proc/self/fd/%d", s->store_fd);
    vm->kick_up = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vm->kick_down = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vm->map_version = w.map_version;
    fds[n++] = make_shm(vm);
    fds[n++] = vm->kick_up;
    fds[n++] = vm->kick_down;
    int store = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(store >= 0, "%s: %s", path, strerror(errno));
    fds[n++] = store;
    int dev = hello->flags & WIRE_HELLO_WANT_UFFD ? open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) : -1;
    if (dev >= 0) {
        w.flags = WIRE_WELCOME_UFFD;
        fds[n++] = dev;
    }
    vm->speaks_balloon = hello->flags & WIRE_HELLO_BALLOON;
    if (s->options.balloons && vm->speaks_balloon)
        w.flags |= WIRE_WELCOME_BALLOON;
    snprintf(w.domain, sizeof w.domain, "%s", hello->domain);
    if (script_send_fds(vm->sock, &w, WIRE_WELCOME, sizeof w, fds, n))
        vm_close(vm);
    else
        vm->state = VM_JOINING;
    close(store);
    if (dev >= 0)
        close(dev);
}

static void take_hello(struct script_vm *vm, const struct wire_msg_hello *hello)
{
    struct ucred cred;
    socklen_t bytes = sizeof cred;

    CHECK(!getsockopt(vm->sock, SOL_SOCKET, SO_PEERCRED, &cred, &bytes), "SO_PEERCRED");
    memcpy(vm->name, hello->name, sizeof vm->name);
    bool wants_swap = hello->flags & WIRE_HELLO_WANT_SWAP;
    if (!memchr(vm->name, 0, sizeof vm->name) || !vm->name[0] || hello->version_max < WIRE_VERSION_MIN)
        script_violation(vm, "HELLO");
    vm->name[sizeof vm->name - 1] = 0;
    vm->pid = cred.pid;
    vm = vm_recall(vm);
    vm->wants_swap = wants_swap;
    welcome(vm, hello);
}

static void take_region(struct script_vm *vm, const struct wire_msg_region_add *add, int fd)
{
    struct script_region *r = add->region < WIRE_REGIONS_MAX ? &vm->region[add->region] : NULL;
    struct stat st;

    if (!r || r->map || fd < 0 || fstat(fd, &st) || !(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK) ||
        (uint64_t)st.st_size < sizeof(struct wire_map) + add->npages * 8) {
        script_violation(vm, "REGION_ADD of region %u", add->region);
        return;
    }
    if (r->held && r->npages != add->npages) {
        script_violation(vm, "region %u came back with another size", add->region);
        return;
    }
    r->map_bytes = (size_t)st.st_size;
    r->map = mmap(NULL, r->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(r->map != MAP_FAILED, "page map: %s", strerror(errno));
    madvise((void *)(uintptr_t)r->map, r->map_bytes, MADV_DONTFORK);
    if (r->map->magic != WIRE_MAP_MAGIC || r->map->version != vm->map_version ||
        r->map->npages != add->npages || r->map->hva != add->hva)
        script_violation(vm, "the page map of region %u does not fit it", add->region);
    r->used = true;
    r->npages = (uint32_t)add->npages;
    r->hva = add->hva;
    if (!r->held)
        r->held = calloc(r->npages, sizeof *r->held);
    CHECK(r->held, "no memory");
}

/* O_DIRECT where the file system has it, as a daemon does. */
static void send_swap(struct script_vm *vm)
{
    const struct script_options *o = &vm->script->options;
    struct wire_msg_swap msg = {.max_bytes = o->swap_max ? o->swap_max : UINT64_MAX};
    int fd = open(o->swap, O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0600);

    if (fd < 0)
        fd = open(o->swap, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0, "%s: %s", o->swap, strerror(errno));
    OK(script_send_fds(vm->sock, &msg, WIRE_SWAP, sizeof msg, &fd, 1));
    close(fd);
}

static void go_live(struct script_vm *vm)
{
    struct wire_msg msg;

    records_adopt(vm);
    if (script_send_fds(vm->sock, &msg, WIRE_ADOPTED, sizeof msg, NULL, 0)) {
        vm_close(vm);
        return;
    }
    vm->state = VM_LIVE;
    vm->sessions_seen++;
    if (vm->script->options.swap && vm->wants_swap)
        send_swap(vm);
    if (vm->script->options.budget) {
        struct wire_rec_budget *b = orders_reserve(vm, WIRE_REC_BUDGET, 0, sizeof *b);
        struct wire_rec head = b->r;
        *b = vm->script->budget;
        b->r = head;
        orders_publish(vm);
    }
}

/* A session that is over takes nothing with it: the VM may come back and offer its page maps. */
static void session_over(struct script_vm *vm)
{
    if (vm->state == VM_LIVE && records_take(vm) < 0)
        script_violation(vm, "its ring is malformed");
    if (vm->said_bye) {
        for (unsigned i = 0; i < WIRE_REGIONS_MAX; i++)
            if (vm->region[i].used)
                script_violation(vm, "BYE with region %u still there", i);
    }
    vm_close(vm);
}

static void take_message(struct script_vm *vm, const void *buf, int bytes, int fd)
{
    const struct wire_msg *h = buf;
    const struct wire_msg_region *gone = buf;

    if (bytes < (int)sizeof *h || h->magic != WIRE_MAGIC || h->bytes != bytes) {
        script_violation(vm, "a malformed message of %d bytes", bytes);
        vm_close(vm);
        return;
    }
    if (h->type == WIRE_HELLO && bytes == sizeof(struct wire_msg_hello) && vm->state == VM_HELLO) {
        take_hello(vm, buf);
    } else if (h->type == WIRE_REGION_ADD && bytes == sizeof(struct wire_msg_region_add) &&
               (vm->state == VM_JOINING || vm->state == VM_LIVE || vm->state == VM_READY)) {
        take_region(vm, buf, fd);
    } else if (h->type == WIRE_REGION_DEL && bytes == sizeof *gone && vm->state >= VM_JOINING &&
               gone->region < WIRE_REGIONS_MAX) {
        if (vm->state == VM_LIVE)
            records_take(vm); /* what was dropped before is in the ring */
        records_region_gone(vm, gone->region);
    } else if (h->type == WIRE_READY && vm->state == VM_JOINING) {
        vm->state = VM_READY;
        records_ready(vm);
        if (!vm->script->hold_adopted)
            go_live(vm);
    } else if (h->type == WIRE_BYE) {
        vm->said_bye = true;
    } else {
        script_violation(vm, "message %u in state %d", h->type, vm->state);
        vm_close(vm);
    }
}

void script_take_messages(struct script_vm *vm)
{
    _Alignas(8) char buf[MESSAGE_MAX];
    int fds[FDS_MAX], sock = vm->sock, n;
    unsigned nfds;

    /* HELLO may hand the socket to another struct, see vm_recall(): the rest waits for the next turn */
    do {
        nfds = 0;
        n = recv_fds(sock, buf, sizeof buf, fds, &nfds);
        if (n < 0) {
            session_over(vm);
            return;
        }
        if (n == 0)
            return;
        bool hello = ((struct wire_msg *)(void *)buf)->type == WIRE_HELLO;
        take_message(vm, buf, n, nfds ? fds[0] : -1);
        for (unsigned i = 0; i < nfds; i++)
            close(fds[i]);
        if (hello)
            return;
    } while (vm->sock == sock);
}

/* ---- the service thread */

static void vm_turn(struct script_vm *vm)
{
    uint64_t count;

    if (vm->kick_up >= 0 && read(vm->kick_up, &count, sizeof count) < 0 && errno != EAGAIN)
        script_violation(vm, "eventfd: %s", strerror(errno));
    if (vm->state == VM_LIVE && records_take(vm) < 0) {
        script_violation(vm, "its ring is malformed");
        vm_close(vm);
        return;
    }
    if (vm->state == VM_READY && !vm->script->hold_adopted)
        go_live(vm);
    if (vm->sock >= 0)
        script_take_messages(vm);
}

static void accept_all(struct script *s)
{
    int sock;

    while (s->listen_fd >= 0 && (sock = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        vm_new(s, sock);
}

/* Under the lock: what to wait for; false: a ring has records, do not sleep. */
static bool collect(struct script *s, struct pollfd *fds, unsigned *ret_n)
{
    unsigned n = 0;
    bool sleep = true;

    fds[n++] = (struct pollfd){s->wake_fd, POLLIN, 0};
    if (s->listen_fd >= 0)
        fds[n++] = (struct pollfd){s->listen_fd, POLLIN, 0};
    for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++) {
        struct script_vm *vm = s->vm[i];
        if (!vm || vm->sock < 0)
            continue;
        fds[n++] = (struct pollfd){vm->sock, POLLIN, 0};
        if (vm->state != VM_LIVE)
            continue;
        fds[n++] = (struct pollfd){vm->kick_up, POLLIN, 0};
        sleep &= ring_sleep(&vm->up);
    }
    *ret_n = n;
    return sleep;
}

static void *service_main(void *arg)
{
    struct pollfd fds[2 + 2 * SCRIPT_VMS_MAX];
    struct script *s = arg;
    uint64_t count;
    unsigned n;

    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        bool sleep = collect(s, fds, &n);
        pthread_mutex_unlock(&s->lock);
        poll(fds, n, sleep ? 50 : 0);
        pthread_mutex_lock(&s->lock);
        if (read(s->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
            FAIL("eventfd: %s", strerror(errno));
        accept_all(s);
        for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++)
            if (s->vm[i] && s->vm[i]->state != VM_OVER)
                vm_turn(s->vm[i]);
        if (s->matcher)
            matcher_turn(s);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- life */

static void listen_at(struct script *s)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int n = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s", s->run_dir, WIRE_SOCKET_NAME);

    CHECK(n > 0 && n < (int)sizeof addr.sun_path, "%s is too long", s->run_dir);
    unlink(addr.sun_path);
    s->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK(s->listen_fd >= 0 && !bind(s->listen_fd, (struct sockaddr *)&addr, sizeof addr) &&
              !listen(s->listen_fd, SCRIPT_VMS_MAX),
          "%s: %s", addr.sun_path, strerror(errno));
}

static void wake_service(struct script *s)
{
    uint64_t one = 1;

    CHECK(write(s->wake_fd, &one, sizeof one) == sizeof one, "eventfd: %s", strerror(errno));
}

struct script *script_open(const struct script_options *options)
{
    struct script *s = calloc(1, sizeof *s);

    CHECK(s, "no memory");
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->options = *options;
    if (options->budget)
        s->budget = *options->budget;
    snprintf(s->run_dir, sizeof s->run_dir, "%s/script.XXXXXX", kit_tmp());
    CHECK(mkdtemp(s->run_dir), "%s: %s", s->run_dir, strerror(errno));
    OK(frames_open(s));
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->incarnation = 1;
    if (options->match)
        s->matcher = matcher_new();
    listen_at(s);
    int err = pthread_create(&s->thread, NULL, service_main, s);
    CHECK(!err, "pthread_create: %s", strerror(err));
    return s;
}

void script_vanish(struct script *s)
{
    char path[128];

    pthread_mutex_lock(&s->lock);
    close(s->listen_fd);
    s->listen_fd = -1;
    snprintf(path, sizeof path, "%s/%s", s->run_dir, WIRE_SOCKET_NAME);
    unlink(path);
    for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++)
        if (s->vm[i] && s->vm[i]->state != VM_OVER)
            vm_close(s->vm[i]);
    pthread_mutex_unlock(&s->lock);
    wake_service(s);
}

void script_appear(struct script *s)
{
    pthread_mutex_lock(&s->lock);
    s->incarnation++;
    listen_at(s);
    pthread_mutex_unlock(&s->lock);
    wake_service(s);
}

void script_close(struct script *s)
{
    char path[128];

    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    wake_service(s);
    pthread_join(s->thread, NULL);
    for (unsigned i = 0; i < SCRIPT_VMS_MAX; i++) {
        struct script_vm *vm = s->vm[i];
        if (!vm)
            continue;
        if (vm->state != VM_OVER)
            vm_close(vm);
        for (unsigned r = 0; r < WIRE_REGIONS_MAX; r++)
            free(vm->region[r].held);
        free(vm);
    }
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    close(s->wake_fd);
    frames_close(s);
    matcher_free(s->matcher);
    snprintf(path, sizeof path, "%s/%s", s->run_dir, WIRE_SOCKET_NAME);
    unlink(path);
    rmdir(s->run_dir);
    CHECK(!s->violations, "%llu protocol violations, see above", (unsigned long long)s->violations);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}
