/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The session with the daemon, from the engine's side: connect, handshake, records. See include/memd/wire.h.
 *
 * All of it runs on the worker thread with engine.work held, and nothing of it waits: the socket is
 * non-blocking, and without a daemon it tries again every RETRY_MS. What the daemon says is taken as a
 * proposal: every record is copied out of the ring and checked by whoever acts on it. While the session is
 * not live no reference is taken or reported; between READY and LIVE no frame field of a page map changes at
 * all (refs_drop only marks).
 */
#include "memd/engine/engine.h"
#include "memd/engine/pager.h"
#include "memd/engine/remote.h"
#include "memd/engine/sample.h"
#include "memd/engine/sock.h"
#include "memd/engine/stores.h"
#include "memd/engine/swap.h"
#include "memd/engine/vmballoon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define RETRY_MS         250u
#define REFUSED_RETRY_MS 5000u
#define HELLO_TIMEOUT_MS 10000u
#define FETCH_TIMEOUT_MS 1000
#define MESSAGE_MAX      512

bool session_can_report(const struct memd *m)
{
    return m->session.state == SESSION_LIVE;
}

bool merging_on(const struct memd *m)
{
    return (m->budget.flags & WIRE_BUDGET_MERGE) && !m->unmerged;
}

bool scanning_on(struct memd *m)
{
    bool reachable = session_can_report(m) || m->flags & MEMD_OPEN_NO_DAEMON;
    bool wanted = merging_on(m) || m->budget.flags & WIRE_BUDGET_ESTIMATE;

    return reachable && wanted && m->budget.scan_pages_per_s && !atomic_load(&m->paused) && !fork_pending(m);
}

static int say_hello(struct memd *m, bool want_uffd)
{
    struct wire_msg_hello hello = {.version_min = WIRE_VERSION_MIN,
                                   .version_max = WIRE_VERSION_MAX,
                                   .map_version_min = WIRE_MAP_VERSION_MIN,
                                   .map_version_max = WIRE_MAP_VERSION_MAX,
                                   .flags = WIRE_HELLO_BALLOON | (want_uffd ? WIRE_HELLO_WANT_UFFD : 0) |
                                            (!want_uffd && m->pager->swap_fd < 0 ? WIRE_HELLO_WANT_SWAP : 0),
                                   .pid = (uint32_t)getpid()};

    snprintf(hello.name, sizeof hello.name, "%s", m->name);
    snprintf(hello.domain, sizeof hello.domain, "%s", m->domain);
    snprintf(hello.release, sizeof hello.release, "%s", MEMD_VERSION);
    return sock_send(m, &hello, WIRE_HELLO, sizeof hello, -1);
}

static void retry_after(struct memd *m, unsigned ms)
{
    m->session.retry_ns = now_ns() + ms * 1000000ull;
}

void session_close(struct memd *m)
{
    struct session *s = &m->session;
    bool warned = s->warned;

    apply_forget(m);
    pager_forget(m);
    vmballoon_forget(m);
    if (s->shm) {
        atomic_store(&s->shm->stats.forks, 0); /* forks from here on are not told */
        munmap(s->shm, sizeof *s->shm);
    }
    for (unsigned i = 0; i < s->nstores; i++)
        close(s->store_fd[i]);
    if (s->sock >= 0) {
        shutdown(s->sock,
                 SHUT_RDWR); /* a helper process may hold it open: to the daemon we would still be here */
        close(s->sock);
    }
    if (s->kick_up >= 0)
        close(s->kick_up);
    if (s->kick_down >= 0)
        close(s->kick_down);
    uint64_t incarnation = s->incarnation;
    *s = (struct session){
        .sock = -1, .kick_up = -1, .kick_down = -1, .warned = warned, .incarnation = incarnation};
    stores_release(m);
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        if (m->regions[i])
            m->regions[i]->announced = false;
    retry_after(m, RETRY_MS);
}

static void fail(struct memd *m, const char *what, int err)
{
    log_msg(m, MEMD_LOG_WARN, "session with the daemon ended: %s (%s)", what, strerror(-err));
    session_close(m);
}

/* ---- handshake */

/* The daemon's, yet not trusted to be what it should: a shorter one would be a SIGBUS. */
static int map_shm(struct session *s, int fd, uint64_t forks)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) || st.st_size < (off_t)sizeof *s->shm)
        return -EPROTO;
    void *p = mmap(place_hint(sizeof *s->shm), sizeof *s->shm, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    madvise(p, sizeof *s->shm, MADV_DONTFORK);
    s->shm = p;
    if (s->shm->magic != WIRE_MAGIC || s->shm->ring_bytes != WIRE_RING_BYTES ||
        s->shm->export_slots != WIRE_EXPORT_SLOTS)
        return -EPROTO;
    atomic_store(&s->shm->stats.forks, forks);
    ring_init(&s->up, &s->shm->up, s->shm->up_data);
    ring_init(&s->down, &s->shm->down, s->shm->down_data);
    return 0;
}

static void announce(struct memd *m, struct region *r)
{
    struct wire_msg_region_add msg = {
        .region = r->id, .node = r->node, .hva = (uintptr_t)r->base, .npages = r->npages, .gpa = r->gpa};

    if (r->announced)
        return;
    r->map->version = m->session.map_version;
    int err = sock_send(m, &msg, WIRE_REGION_ADD, sizeof msg, r->map_fd);
    if (err)
        fail(m, "announcing a region", err);
    else
        r->announced = true;
}

/* Between READY and ADOPTED nothing is announced: adopted() does it. */
void session_announce(struct memd *m, struct region *r)
{
    if (m->session.state == SESSION_LIVE)
        announce(m, r);
}

void session_retire(struct memd *m, struct region *r)
{
    struct wire_msg_region msg = {.region = r->id};

    if (m->session.state < SESSION_READY || !r->announced)
        return;
    if (m->session.state == SESSION_READY) { /* its map is being counted: begin again without it */
        session_close(m);
        return;
    }
    /* what was dropped is in the ring before the region is gone, and is read with it. No kick: the daemon may
     * have died, and writing to its pipe on a thread of the VMM would raise SIGPIPE there */
    ring_publish(&m->session.up);
    int err = sock_send(m, &msg, WIRE_REGION_DEL, sizeof msg, -1);
    if (err)
        fail(m, "withdrawing a region", err);
}

/* Takes the fds over. */
static int welcome(struct memd *m, const struct wire_msg_welcome *w, int *fds, unsigned nfds)
{
    struct session *s = &m->session;
    unsigned want = 3u + w->nstores + (w->flags & WIRE_WELCOME_UFFD ? 1 : 0);

    if (nfds != want || !w->nstores || w->nstores > WIRE_NODES_MAX || !w->store_bytes ||
        w->store_bytes % PAGE_BYTES || w->version < WIRE_VERSION_MIN || w->version > WIRE_VERSION_MAX ||
        w->map_version < WIRE_MAP_VERSION_MIN || w->map_version > WIRE_MAP_VERSION_MAX || s->nstores) {
        sock_close_fds(fds, nfds);
        return -EPROTO;
    }
    s->kick_up = fds[1];
    s->kick_down = fds[2];
    s->nstores = w->nstores;
    s->store_bytes = w->store_bytes;
    s->incarnation = w->incarnation;
    s->balloons = w->flags & WIRE_WELCOME_BALLOON;
    s->map_version = w->map_version;
    memcpy(s->store_fd, fds + 3, w->nstores * sizeof *fds);
    if (w->flags & WIRE_WELCOME_UFFD)
        close(fds[nfds - 1]);
    int err = map_shm(s, fds[0], m->forks);
    close(fds[0]);
    for (unsigned i = 0; i < s->nstores && !err; i++)
        err = stores_map(m, i, s->store_fd[i], s->store_bytes);
    return err;
}

/* A daemon of an earlier release knows nothing of REMOTE pages: they come home before it is joined. */
static bool waits_for_remote(struct memd *m)
{
    bool room = remote_room(m);

    if (m->session.map_version >= WIRE_MAP_VERSION_REMOTE || !remote_count(m))
        return false;
    if (room || !m->session.warned)
        log_msg(m, room ? MEMD_LOG_INFO : MEMD_LOG_WARN,
                "memd is of an earlier release: %llu pages come home from its frames first%s",
                (unsigned long long)remote_count(m), room ? "" : ", when there is memory for them");
    m->session.warned |= !room;
    m->pager->remote_back = room;
    session_close(m);
    if (!room)
        retry_after(m, REFUSED_RETRY_MS);
    return true;
}

static int join(struct memd *m)
{
    struct wire_msg msg;

    m->session.state = SESSION_READY;
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++)
        if (m->regions[i] && m->session.state == SESSION_READY)
            announce(m, m->regions[i]);
    if (m->session.state != SESSION_READY)
        return -EPIPE;
    return sock_send(m, &msg, WIRE_READY, sizeof msg, -1);
}

/* The daemon may be a new one that knows no hash of ours: everything is to be told again. */
static void adopted(struct memd *m)
{
    m->session.state = SESSION_LIVE;
    m->session.warned = false;
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        if (r && m->session.state == SESSION_LIVE)
            announce(m, r);
        for (uint32_t c = 0; r && c < r->nchunks; c++)
            scan_forget(m, r, c);
    }
    m->round.asked = true;
    vmballoon_adopted(m);
    log_msg(m, MEMD_LOG_INFO, "joined the daemon");
}

static void take_swap(struct memd *m, const struct wire_msg_swap *msg, int fd)
{
    int err = swap_attach(m, fd, msg->max_bytes);

    if (err)
        log_msg(m, MEMD_LOG_WARN, "the swap file cannot be used (%s): pages leave RAM for the pool only",
                strerror(-err));
}

static void tell_refusal(struct memd *m, const void *buf, int bytes)
{
    const struct wire_msg_refused *msg = buf;

    if (bytes == sizeof *msg && !m->session.warned)
        log_msg(m, MEMD_LOG_WARN, "the daemon refused: %.*s", WIRE_REASON_BYTES, msg->reason);
    m->session.warned = true;
}

static int handle_msg(struct memd *m, const void *buf, int bytes, int *fds, unsigned nfds)
{
    const struct wire_msg *h = buf;

    if (h->type == WIRE_WELCOME && bytes == sizeof(struct wire_msg_welcome) &&
        m->session.state == SESSION_HELLO) {
        int err = welcome(m, buf, fds, nfds);
        return err || waits_for_remote(m) ? err : join(m);
    }
    if (h->type == WIRE_SWAP && bytes == sizeof(struct wire_msg_swap) && nfds == 1 &&
        m->session.state == SESSION_LIVE) {
        take_swap(m, buf, fds[0]);
        return 0;
    }
    sock_close_fds(fds, nfds);
    switch (h->type) {
    case WIRE_ADOPTED:
        if (m->session.state != SESSION_READY)
            return -EPROTO;
        adopted(m);
        return 0;
    case WIRE_BALLOON_ASK:
        return bytes == sizeof(struct wire_msg_balloon_ask) && m->session.balloons ? vmballoon_asked(m, buf)
                                                                                   : -EPROTO;
    case WIRE_REFUSED:
        tell_refusal(m, buf, bytes);
        session_close(m);
        retry_after(m, REFUSED_RETRY_MS);
        return 0;
    case WIRE_REGION_REFUSED:
        if (bytes == sizeof(struct wire_msg_region))
            log_msg(m, MEMD_LOG_WARN, "the daemon refused region %u: %s",
                    ((const struct wire_msg_region *)buf)->region,
                    strerror(((const struct wire_msg_region *)buf)->error));
        return 0;
    default:
        return -EPROTO;
    }
}

static void try_connect(struct memd *m, uint64_t now)
{
    if (m->flags & MEMD_OPEN_NO_DAEMON || now < m->session.retry_ns || m->pager->remote_back)
        return;
    stores_release(m);
    int fd = sock_connect(m->run_dir);
    if (fd < 0) {
        if (!m->session.warned)
            log_msg(m, MEMD_LOG_WARN,
                    "no session with memd at %s/%s (%s): nothing is merged until there is one", m->run_dir,
                    WIRE_SOCKET_NAME, strerror(-fd));
        m->session.warned = true;
        retry_after(m, RETRY_MS);
        return;
    }
    m->session.sock = fd;
    m->session.state = SESSION_HELLO;
    m->session.hello_ns = now;
    int err = say_hello(m, false);
    if (err)
        fail(m, "HELLO", err);
}

void session_turn(struct memd *m, uint64_t now)
{
    _Alignas(8) char buf[MESSAGE_MAX];
    int fds[SOCK_FDS_MAX], n = 0;
    unsigned nfds = 0;

    if (m->session.broken)
        session_close(m);
    if (m->session.state == SESSION_NONE)
        try_connect(m, now);
    while (m->session.sock >= 0 && (n = sock_recv(m, buf, sizeof buf, fds, &nfds)) > 0) {
        int err = handle_msg(m, buf, n, fds, nfds);
        if (err == -EPROTO || err == -EPIPE) {
            fail(m, "a message that makes no sense", err);
        } else if (err) { /* ours to mend, and it will not be so soon */
            if (err == -EXDEV && !m->session.warned)
                log_msg(
                    m, MEMD_LOG_WARN,
                    "cannot join memd: it has another frame store than the one merged pages are in, which "
                    "stay there");
            else if (!m->session.warned)
                log_msg(m, MEMD_LOG_WARN,
                        "cannot join memd (%s): are there limits on address space (ulimit -v) or mappings?",
                        strerror(-err));
            m->session.warned = true;
            session_close(m);
            retry_after(m, REFUSED_RETRY_MS);
        }
        if (err)
            return;
    }
    if (m->session.sock >= 0 && n < 0)
        fail(m, n == -EPIPE ? "it went away" : "receiving", n);
    else if (m->session.state == SESSION_HELLO && now - m->session.hello_ns > HELLO_TIMEOUT_MS * 1000000ull)
        fail(m, "no answer to HELLO", -ETIMEDOUT);
}

void session_bye(struct memd *m)
{
    struct wire_msg msg;

    if (m->session.state == SESSION_LIVE)
        sock_send(m, &msg, WIRE_BYE, sizeof msg, -1);
}

/* ---- a userfaultfd for an unprivileged VMM */

int session_fetch_uffd(struct memd *m)
{
    _Alignas(8) char buf[MESSAGE_MAX];
    const struct wire_msg_welcome *w = (void *)buf;
    int fds[SOCK_FDS_MAX], err;
    unsigned nfds = 0;

    m->session.sock = sock_connect(m->run_dir);
    if (m->session.sock < 0)
        return -EPERM;
    err = say_hello(m, true);
    struct pollfd p = {m->session.sock, POLLIN, 0};
    int n = !err && poll(&p, 1, FETCH_TIMEOUT_MS) == 1 ? sock_recv(m, buf, sizeof buf, fds, &nfds) : 0;
    err = -EPERM;
    if (n == sizeof *w && w->h.type == WIRE_WELCOME && w->flags & WIRE_WELCOME_UFFD && nfds)
        err = uffd_open(m, fds[nfds - 1]);
    else if (n > 0 && w->h.type == WIRE_REFUSED)
        tell_refusal(m, buf, n);
    if (n > 0)
        sock_close_fds(fds, nfds);
    session_close(m);
    m->session.retry_ns = 0;
    return err;
}

/* ---- records */

static void do_budget(struct memd *m, const struct wire_rec_budget *b)
{
    uint32_t was = m->budget.flags;

    m->budget = (struct budget){
        .flags = b->flags & (WIRE_BUDGET_MERGE | WIRE_BUDGET_ESTIMATE),
        .scan_pages_per_s = b->scan_pages_per_s,
        .quiet_ms = b->quiet_ms < 10      ? 10
                    : b->quiet_ms > 60000 ? 60000
                                          : b->quiet_ms,
        .round_ms_max = b->round_ms_max > 3600000 ? 3600000 : b->round_ms_max,
        .vmas_max = b->vmas_max,
        .heal_pages_per_s = b->heal_pages_per_s,
        .sample_pages = b->sample_pages < WIRE_SAMPLE_PAGES_MAX ? b->sample_pages : WIRE_SAMPLE_PAGES_MAX,
        .sample_ms = b->sample_ms < 10        ? 10
                     : b->sample_ms > 3600000 ? 3600000
                                              : b->sample_ms};
    uint64_t most = m->max_map_count > VMAS_SLACK ? m->max_map_count - VMAS_SLACK : 0;
    if (m->budget.vmas_max > most)
        m->budget.vmas_max = (uint32_t)most;
    if (!(m->budget.flags & WIRE_BUDGET_MERGE))
        m->unmerged = false;
    if (was == m->budget.flags)
        return;
    atomic_store(&m->stats.would_save_pages, 0);
    for (unsigned i = 0; i < MEMD_REGIONS_MAX; i++) {
        struct region *r = m->regions[i];
        for (uint32_t c = 0; r && c < r->nchunks; c++)
            scan_forget(m, r, c);
    }
    m->round.asked = true;
}

static void do_export(struct memd *m, const struct wire_rec_export *x)
{
    struct region *r = x->r.region < MEMD_REGIONS_MAX ? m->regions[x->r.region] : NULL;
    uint32_t n = x->count;
    struct wire_rec_export *answer = ring_reserve(&m->session.up, WIRE_REC_EXPORTED, sizeof *answer);

    if (!answer) {
        fail(m, "its ring is inconsistent", -EPROTO);
        return;
    }
    if (!r || x->slot >= WIRE_EXPORT_SLOTS || n > WIRE_EXPORT_SLOTS - x->slot || x->page >= r->npages ||
        n > r->npages - x->page)
        n = 0;
    for (uint32_t i = 0; i < n; i++) {
        unsigned state = entry_state(page_get(r, x->page + i));
        /* pages that were let go since are not read: reading would bring them into being again; those that
         * take no part may not even be readable */
        if (state == WIRE_PAGE_ZERO || state == WIRE_PAGE_GONE || entry_out(page_get(r, x->page + i)) ||
            !region_segment(r, x->page + i))
            n = 0;
        else
            page_copy(m->session.shm->exports[x->slot + i], page_hva(r, x->page + i));
    }
    *answer = (struct wire_rec_export){
        .r = {.type = WIRE_REC_EXPORTED, .bytes = sizeof *answer, .region = x->r.region},
        .page = x->page,
        .count = (uint16_t)n,
        .slot = x->slot};
}

static void answer_token(struct memd *m, uint16_t type, uint64_t id, int error)
{
    struct wire_rec_token *t = ring_reserve(&m->session.up, type, sizeof *t);

    if (t)
        *t = (struct wire_rec_token){.r = {.type = type, .bytes = sizeof *t}, .id = id, .error = error};
    else
        fail(m, "its ring is inconsistent", -EPROTO);
}

static void do_record(struct memd *m, const void *buf, int bytes)
{
    const struct wire_rec *rec = buf;
    const struct wire_rec_break *br = buf;
    struct region *r = rec->region < MEMD_REGIONS_MAX ? m->regions[rec->region] : NULL;

    if (rec->type == WIRE_REC_BUDGET && bytes == sizeof(struct wire_rec_budget))
        do_budget(m, buf);
    else if (rec->type == WIRE_REC_EXPORT && bytes == sizeof(struct wire_rec_export))
        do_export(m, buf);
    else if (rec->type == WIRE_REC_MERGE && bytes == sizeof(struct wire_rec_merge))
        apply_wish(m, buf);
    else if (rec->type == WIRE_REC_BREAK && bytes == sizeof *br) {
        if (r && br->page < r->npages && merging_on(m))
            scan_break_huge(m, r, br->page);
    } else if ((rec->type == WIRE_REC_UNMERGE || rec->type == WIRE_REC_FENCE) &&
               bytes == sizeof(struct wire_rec_token)) {
        m->session.barrier = *(const struct wire_rec_token *)buf;
        m->session.unmerge = (struct unmerge){0};
    } else if (rec->type == WIRE_REC_ROUND)
        m->round.asked = true;
    else if ((rec->type == WIRE_REC_PAGEOUT || rec->type == WIRE_REC_PAGEIN) &&
             bytes == sizeof(struct wire_rec_page))
        pager_order(m, buf);
    else
        fail(m, "a record that makes no sense", -EPROTO);
}

/* FENCE and UNMERGE wait until every proposal before them has been answered. False: not yet; *done counts
 * what was done for it. */
static bool pass_barrier(struct memd *m, unsigned *done)
{
    struct wire_rec_token *token = &m->session.barrier;

    if (!token->r.type)
        return true;
    if (m->apply.n)
        return false;
    if (token->r.type == WIRE_REC_UNMERGE) {
        ++*done;
        if (!unmerge_step(m, &m->session.unmerge, &token->error))
            return false;
        token->r.type = WIRE_REC_DONE;
    }
    /* the references given back may have filled the ring: the answer waits for room */
    if (!refs_flush_all(m) || ring_room(&m->session.up) < 2 * sizeof *token)
        return false;
    if (token->r.type == WIRE_REC_DONE)
        session_stats(m); /* whoever hears that it is done, and asks, is told what it has come to */
    answer_token(m, token->r.type == WIRE_REC_FENCE ? WIRE_REC_FENCED : WIRE_REC_DONE, token->id,
                 token->error);
    token->r.type = 0;
    return m->session.state == SESSION_LIVE;
}

int session_drain(struct memd *m, unsigned max)
{
    _Alignas(8) char buf[128];
    unsigned done = 0;

    /* a fork in progress shares our pages, a pause wants nothing moved: proposals wait in the ring */
    if (atomic_load(&m->paused) || fork_pending(m))
        return 0;
    while (done < max && m->session.state == SESSION_LIVE && m->apply.n < APPLY_WISHES_MAX &&
           ring_room(&m->session.up) >= 4 * sizeof(struct wire_rec_result) && pass_barrier(m, &done)) {
        int n = ring_pop(&m->session.down, buf, sizeof buf);
        if (n < 0)
            fail(m, "its ring is inconsistent", n);
        if (n <= 0)
            break;
        do_record(m, buf, n);
        done++;
        if (atomic_load(&m->api_waiting))
            break;
    }
    return (int)done;
}

void session_kick(struct memd *m)
{
    uint64_t one = 1;

    if (m->session.state == SESSION_LIVE && ring_publish(&m->session.up) &&
        write(m->session.kick_up, &one, sizeof one) < 0 && errno != EAGAIN)
        fail(m, "kicking it", -errno);
}

/* Gives the memory of the up ring back: only we write it, and all of it has been copied out. */
void session_trim(struct memd *m)
{
    struct session *s = &m->session;

    if (s->state != SESSION_LIVE || s->up.pos == s->trimmed_pos || ring_room(&s->up) != WIRE_RING_BYTES)
        return;
    madvise(s->shm->up_data, sizeof s->shm->up_data, MADV_REMOVE);
    s->trimmed_pos = s->up.pos;
}

/* ---- statistics */

#define PUT(field, value) atomic_store_explicit(&st->field, (value), memory_order_relaxed)

void session_round_done(struct memd *m)
{
    session_kick(m); /* what the round found is in the ring before the round is over */
    if (m->session.state != SESSION_LIVE)
        return;
    session_stats(m);
    struct wire_stats *st = &m->session.shm->stats;
    /* release: whoever sees that this round is over sees what it left to do */
    atomic_store_explicit(&st->prev_started_ns, m->round.last_started_ns, memory_order_release);
    atomic_store_explicit(&st->round_started_ns, m->round.started_ns, memory_order_release);
}

/* What samples say, and how long accesses waited. */
static void stats_samples(const struct memd *m, struct wire_stats *st, uint64_t broken_pages)
{
    struct sample_counts sample = sample_count(m);

    PUT(sample_ms, sample.period_ms);
    PUT(samplable_pages, sample.samplable);
    PUT(unsampled_pages, sample.unsampled + broken_pages);
    PUT(working_set_pages, sample.working_set);
    PUT(working_set_error_pages, sample.error);
    PUT(idle_ages, sample.ages);
    for (unsigned i = 0; i < WIRE_AGES; i++)
        PUT(idle_pages[i], sample.idle[i]);
    PUT(sample_periods, sample.periods);
    for (unsigned t = 0; t < WIRE_TIERS; t++) {
        _Atomic uint64_t *ns, *bucket = wire_stats_latency(st, t, &ns);
        atomic_store_explicit(ns, atomic_load_explicit(&m->stats.latency_ns[t], memory_order_relaxed),
                              memory_order_relaxed);
        for (unsigned i = 0; i < WIRE_LATENCY_BUCKETS; i++)
            atomic_store_explicit(&bucket[i],
                                  atomic_load_explicit(&m->stats.latency[t][i], memory_order_relaxed),
                                  memory_order_relaxed);
    }
}

void session_stats(struct memd *m)
{
    struct region_counts n = {0};
    uint64_t ineligible[MEMD_INELIGIBLE_COUNT] = {0}, skipped = 0;

    if (m->session.state != SESSION_LIVE)
        return;
    struct wire_stats *st = &m->session.shm->stats;
    engine_count(m, &n, ineligible, &skipped);
    PUT(zero_pages, n.zero);
    PUT(merged_pages, n.shared);
    PUT(broken_pages, n.broken);
    PUT(unshared_pages, n.tagged);
    PUT(volatile_pages, n.pending);
    PUT(skipped_pages, skipped);
    PUT(backlog_pages, m->round.left + m->apply.n + m->apply.todo);
    for (unsigned i = 0; i < MEMD_INELIGIBLE_COUNT; i++)
        PUT(ineligible_bytes[i], ineligible[i]);
#define COPY(field) PUT(field, atomic_load_explicit(&m->stats.field, memory_order_relaxed))
    COPY(full_scans);
    COPY(merges);
    COPY(zero_drops);
    COPY(cow_breaks);
    COPY(heals);
    COPY(faults);
    COPY(rejected);
    COPY(huge_broken);
    COPY(hashed_pages);
    COPY(written_pages);
    COPY(would_save_pages);
    COPY(page_outs);
    COPY(page_ins);
    COPY(parked_faults);
    COPY(packed_faults);
    COPY(swapped_faults);
    COPY(round_written_pages);
    COPY(sampled_faults);
    COPY(merged_outs);
    COPY(remote_outs);
    COPY(remote_faults);
    COPY(held_faults);
    COPY(held_ns);
    stats_samples(m, st, n.broken);
    struct pager_counts out = pager_count(m);
    PUT(sampled_pages, out.sampled);
    PUT(parked_pages, out.parked);
    PUT(packed_pages, out.packed);
    PUT(packed_bytes, out.packed_bytes);
    PUT(pool_bytes, out.host_bytes);
    PUT(swapped_pages, out.swapped);
    PUT(remote_pages, out.remote);
    PUT(swap_bytes, out.swap.file_bytes);
    PUT(swap_written_bytes, out.swap.written_bytes);
    PUT(swap_errors, out.swap.errors);
    PUT(swap_reads, out.swap.reads);
    PUT(prefetched_pages, out.swap.prefetched);
    PUT(prefetch_used, out.swap.prefetch_used);
    PUT(prefetch_wasted, out.swap.prefetch_wasted);
    PUT(lost_pages, m->pager->lost_pages);
    PUT(vmas_used, m->vmas_used);
    PUT(vmas_limit, m->budget.vmas_max);
    PUT(metadata_bytes, atomic_load(&m->metadata_bytes) + out.metadata_bytes);
    PUT(cpu_ns, atomic_load(&m->cpu_ns));
    PUT(state, atomic_load(&m->paused) ? WIRE_VM_PAUSED
               : m->map_count_short    ? WIRE_VM_MAP_COUNT
                                       : WIRE_VM_RUNNING);
}
