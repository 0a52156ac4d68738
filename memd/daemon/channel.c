/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see channel.h; the rings and their records: memd/wire.h. */
#include "memd/daemon/channel.h"

#include "memd/common/clock.h"
#include "memd/daemon/advice.h"
#include "memd/daemon/matcher.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RECORDS_A_TURN 128
#define KEEP_FOR_DUE   256u /* bytes of the down ring proposals leave to everything else */

/* ---------------------------------------------------------------- life */

static int make_memory(struct session *session)
{
    int fd = memfd_create("memd-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    session->shm_fd = fd;
    if (ftruncate(fd, sizeof(struct wire_shm)) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return -errno;
    void *map = mmap(NULL, sizeof(struct wire_shm), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    session->shm = map;
    session->shm->magic = WIRE_MAGIC;
    session->shm->version = WIRE_VERSION_MAX;
    session->shm->ring_bytes = WIRE_RING_BYTES;
    session->shm->export_slots = WIRE_EXPORT_SLOTS;
    ring_init(&session->up_ring, &session->shm->up, session->shm->up_data);
    ring_init(&session->down_ring, &session->shm->down, session->shm->down_data);
    return 0;
}

/* Pipes, not eventfds: O_NONBLOCK belongs to the open file, and who has the same one can take it off and have
 * us wait for ever. The engine gets the other end. We keep that open, too: its end is no event. */
static int make_pipe(int *ret_read, int *ret_write)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
        return -errno;
    *ret_read = fds[0];
    *ret_write = fds[1];
    return 0;
}

int channel_open(struct session *session)
{
    int err = make_memory(session);

    if (!err)
        err = make_pipe(&session->up.fd, &session->peer_up_fd);
    if (!err)
        err = make_pipe(&session->peer_down_fd, &session->down_fd);
    return err;
}

void channel_close(struct session *session)
{
    if (session->up.ready)
        loop_del(&session->core->loop, &session->up);
    if (session->shm)
        munmap(session->shm, sizeof *session->shm);
    const int fds[] = {session->shm_fd, session->up.fd, session->down_fd, session->peer_up_fd,
                       session->peer_down_fd};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    session->shm = NULL;
    session->shm_fd = session->up.fd = session->down_fd = session->peer_up_fd = session->peer_down_fd = -1;
}

static void on_kick(struct loop_source *source, uint32_t events)
{
    struct session *session = caa_container_of(source, struct session, up);
    uint64_t kicks[64];

    (void)events;
    ssize_t ignored = read(source->fd, kicks, sizeof kicks);
    (void)ignored; /* the ring tells what there is */
    channel_wake(session);
}

int channel_start(struct session *session)
{
    session->up.ready = on_kick;
    session->last_ns = clock_now_ns();
    int err = loop_add(&session->core->loop, &session->up, EPOLLIN);
    if (err)
        session->up.ready = NULL;
    else
        channel_wake(session);
    return err;
}

void channel_wake(struct session *session)
{
    if (!session->ended && session->state >= SESSION_ADOPTING && cds_list_empty(&session->busy_link))
        cds_list_add_tail(&session->busy_link, &session->core->busy);
}

/* ---------------------------------------------------------------- out */

void *channel_reserve(struct session *session, enum wire_rec_type type, uint32_t bytes, uint32_t keep)
{
    /* a record that does not fit before the end of the ring takes that rest, too: less than its own size */
    if (ring_room(&session->down_ring) < 2 * bytes + keep)
        return NULL;
    void *rec = ring_reserve(&session->down_ring, (uint16_t)type, bytes);
    if (rec && cds_list_empty(&session->written_link))
        cds_list_add_tail(&session->written_link, &session->core->written);
    return rec;
}

void channel_flush_all(struct core *core)
{
    struct session *session, *next;
    uint64_t one = 1;

    cds_list_for_each_entry_safe (session, next, &core->written, written_link) {
        cds_list_del_init(&session->written_link);
        if (ring_publish(&session->down_ring)) {
            ssize_t ignored = write(session->down_fd, &one, sizeof one);
            (void)ignored; /* a full pipe wakes just as well */
        }
    }
}

static bool send_token(struct session *session, enum wire_rec_type type, uint64_t id)
{
    struct wire_rec_token *token = channel_reserve(session, type, sizeof *token, 0);

    if (!token)
        return false;
    token->id = id;
    token->error = 0;
    token->reserved = 0;
    return true;
}

static bool send_budget(struct session *session, bool merge)
{
    struct wire_rec_budget plan = session->vm->advice.sent;
    struct wire_rec_budget *budget = channel_reserve(session, WIRE_REC_BUDGET, sizeof *budget, 0);

    if (!budget)
        return false;
    plan.r = budget->r;
    if (exports_hold_back(&session->exports))
        plan.scan_pages_per_s = 0;
    if (!merge)
        plan.flags &= ~WIRE_BUDGET_MERGE;
    *budget = plan;
    return true;
}

void channel_send_due(struct session *session)
{
    /* an engine whose merging was off, for however short, tells all hashes anew when it is on again */
    if (session->rescan_due && send_budget(session, false)) {
        session->rescan_due = false;
        session->budget_due = true;
    }
    if (session->budget_due) {
        advice_make(session->vm);
        session->budget_due = !send_budget(session, true);
    }
    if (session->fence_due && send_token(session, WIRE_REC_FENCE, session->fence_due)) {
        session->fence_sent = session->fence_due;
        session->fence_due = 0;
    }
    if (session->unmerge_due && !session->budget_due &&
        send_token(session, WIRE_REC_UNMERGE, session->unmerge_id))
        session->unmerge_due = false;
    if (session->round_due && channel_reserve(session, WIRE_REC_ROUND, sizeof(struct wire_rec), 0))
        session->round_due = false;
    paging_send(session);
    exports_flush(session);
    proposals_flush(session);
}

/* ---------------------------------------------------------------- in */

/* What a record is about. The socket and the ring are two channels: a region may have been announced on the
 * socket, or withdrawn, since the record was written. So the socket is read before a record is called a lie,
 * and what is said of a region that was withdrawn is nobody's concern: NULL. */
static int find_region(struct session *session, uint32_t id, struct region **ret_region)
{
    if (id >= WIRE_REGIONS_MAX)
        return -EPROTO;
    if (!session->vm->region[id])
        session_read(session);
    if (session->ended)
        return -ESHUTDOWN;
    *ret_region = session->vm->region[id];
    return *ret_region || session->ids_seen >> id & 1 ? 0 : -EPROTO;
}

static bool in_region(const struct region *region, uint32_t page, uint32_t count, uint32_t count_max)
{
    return count && count <= count_max && page < region->npages && count <= region->npages - page;
}

static int take_hashes(struct region *region, const void *buf, size_t bytes)
{
    const struct wire_rec_hashes *rec = buf;
    bool survey = rec->r.type == WIRE_REC_SURVEY;
    uint32_t most = survey ? WIRE_CHUNK_PAGES : WIRE_HASHES_MAX;

    if (bytes < sizeof *rec || bytes != sizeof *rec + rec->count * sizeof rec->hash[0] ||
        !in_region(region, rec->page, rec->count, most))
        return -EPROTO;
    if (!region->map)
        return 0;
    if (survey)
        matcher_survey(region, rec);
    else
        matcher_hashes(region, rec);
    return 0;
}

/* Ranges of holdings end at chunk boundaries of the region; those of the engine at boundaries of addresses.
 */
static int drop_pieces(struct region *region, uint32_t page, uint32_t count, uint32_t frame)
{
    while (count) {
        uint32_t room = WIRE_CHUNK_PAGES - page % WIRE_CHUNK_PAGES, n = count < room ? count : room;
        int err = region_drop(region, page, n, frame);
        if (err)
            return err == -ENOENT ? -EPROTO : err;
        page += n, frame += n, count -= n;
    }
    return 0;
}

static int take_result(struct session *session, const void *buf, size_t bytes)
{
    const struct wire_rec_result *rec = buf;

    if (bytes != sizeof *rec)
        return -EPROTO;
    if (rec->why == WIRE_WHY_MAP_COUNT)
        session->vm->short_of_maps = true;
    return proposals_result(session, rec);
}

static int take_dropped(struct region *region, const void *buf, size_t bytes)
{
    const struct wire_rec_dropped *rec = buf;

    if (bytes != sizeof *rec || !in_region(region, rec->page, rec->count, WIRE_CHUNK_PAGES))
        return -EPROTO;
    return drop_pieces(region, rec->page, rec->count, rec->frame);
}

static int take_token(struct session *session, const void *buf, size_t bytes)
{
    const struct wire_rec_token *token = buf;
    struct vm *vm = session->vm;

    if (bytes != sizeof *token)
        return -EPROTO;
    if (token->r.type == WIRE_REC_DONE) {
        if (!session->unmerge_id || session->unmerge_due || token->id != session->unmerge_id)
            return -EPROTO;
        session->unmerge_id = 0;
        /* the engine takes merging for off until it is told so and then that it is on, which may have been
         * asked for meanwhile */
        session->rescan_due = true;
        jobs_unmerged(vm, token->error);
        return 0;
    }
    if (token->id != session->fence_sent || token->id <= vm->fence)
        return -EPROTO;
    vm->fence = token->id;
    domain_tend_fence(vm->domain, clock_now_ns());
    return 0;
}

static int take_record(struct session *session, const void *buf, size_t bytes)
{
    const struct wire_rec *rec = buf;

    if (rec->type == WIRE_REC_FENCED || rec->type == WIRE_REC_DONE)
        return take_token(session, buf, bytes);
    if (rec->type == WIRE_REC_EXPORTED) /* of a region that may be gone by now */
        return bytes == sizeof(struct wire_rec_export) ? exports_done(session, buf) : -EPROTO;
    if (rec->type == WIRE_REC_PAGED)
        return bytes == sizeof(struct wire_rec_paged) ? paging_answered(session, buf) : -EPROTO;
    if (rec->type == WIRE_REC_BALLOON)
        return bytes == sizeof(struct wire_rec_balloon) ? embed_heard(session, buf) : -EPROTO;
    struct region *region;
    int err = find_region(session, rec->region, &region);
    if (err || !region)
        return err;
    switch (rec->type) {
    case WIRE_REC_HASHES:
    case WIRE_REC_SURVEY:
        return take_hashes(region, buf, bytes);
    case WIRE_REC_RESULT:
        return take_result(session, buf, bytes);
    case WIRE_REC_DROPPED:
        return take_dropped(region, buf, bytes);
    default:
        return -EPROTO;
    }
}

/* Up to `most` records; true if there may be more. */
static bool take_records(struct session *session, unsigned most)
{
    _Alignas(8) unsigned char buf[WIRE_REC_BYTES_MAX];

    for (unsigned i = 0; i < most && !session->ended; i++) {
        int n = ring_pop(&session->up_ring, buf, sizeof buf);
        if (!n)
            return false;
        if (n < 0 || ((struct wire_rec *)buf)->type != WIRE_REC_BALLOON) { /* it disturbs nobody's rest */
            session->last_ns = clock_now_ns();
            session->trimmed = false;
        }
        int err = n < 0 ? n : take_record(session, buf, (size_t)n);
        if (err && !session->ended)
            session_end(session, -err,
                        err == -EPROTO ? "record of type %u makes no sense here"
                                       : "record of type %u could not be dealt with",
                        n < 0 ? 0 : ((struct wire_rec *)buf)->type);
    }
    return !session->ended;
}

/* Not for ever: what a peer adds meanwhile is not waited for. Nor again from a message that is read on the
 * way: a peer could have us go ever deeper. */
void channel_drain(struct session *session)
{
    if (session->draining)
        return;
    session->draining = true;
    take_records(session, WIRE_RING_BYTES / sizeof(struct wire_rec));
    session->draining = false;
}

/* Too many proposals wait for room: hashes would only make more of them. */
static bool holds_back(struct session *session)
{
    uint64_t now = clock_now_ns();

    if (session->proposals.n < SESSION_BACKLOG_HIGH) {
        session->stuck_ns = 0;
        return false;
    }
    if (!session->stuck_ns)
        session->stuck_ns = now;
    if (now - session->stuck_ns < SESSION_STUCK_MS * CLOCK_MS)
        return true;
    session->stuck_ns = now;
    return false;
}

bool channel_turn(struct session *session)
{
    if (session->state == SESSION_ADOPTING)
        return session_adopt(session);
    ring_awake(&session->up_ring);
    channel_send_due(session);
    if (holds_back(session))
        return false; /* looked at again with every fast tick */
    bool more = take_records(session, RECORDS_A_TURN);
    if (session->ended)
        return false;
    channel_send_due(session);
    return more || !ring_sleep(&session->up_ring);
}

bool channel_is_waiting(const struct session *session)
{
    return session->budget_due || session->rescan_due || session->fence_due || session->unmerge_due ||
           session->round_due || session->page_due || session->proposals.n ||
           (session->exports.n && !session->exports.busy);
}

void channel_trim(struct session *session)
{
    if (session->trimmed || session->exports.busy || ring_room(&session->down_ring) != WIRE_RING_BYTES)
        return;
    /* the up ring is the engine's to write at any moment; these two are ours */
    madvise(session->shm->exports, sizeof session->shm->exports, MADV_REMOVE);
    madvise(session->shm->down_data, sizeof session->shm->down_data, MADV_REMOVE);
    session->trimmed = true;
}

size_t channel_shared_bytes(const struct session *session)
{
    size_t all = sizeof *session->shm;

    if (!session->shm)
        return 0;
    return session->trimmed ? all - sizeof session->shm->exports - sizeof session->shm->down_data : all;
}

size_t channel_bytes(const struct session *session)
{
    return sizeof *session + proposals_bytes(&session->proposals) + channel_shared_bytes(session);
}
