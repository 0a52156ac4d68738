/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see talk.h. */
#include "guest-agent/talk.h"

#include "memd/memd.h"

#include <string.h>

static_assert(sizeof MEMD_VERSION <= AGENT_RELEASE_BYTES, "the release fits");

#define TIGHT_SHARE 4 /* one part in so many of the guest's memory available is little */
/* A process that touches new memory takes 1 GiB a second and more: so fast that there are some looks before
 * nothing is left. */
#define TAKES_MS         (4ull << 20)
#define WARY_SHARE       2   /* and of all it has ever had, with what its balloon has, not much */
#define CHANGE_SHARE     64u /* one part in so many of all memory is news */
#define CHANGE_BYTES_MIN (4u << 20)
#define REREAD_BYTES     (1u << 20) /* pages read again so soon after they were reclaimed: memory is lacking */
#define STALL_SHARE      100u       /* one part in so many of the time since */
#define STALL_US_MAX     19999u     /* or what the kernel wakes us for: sample.c, TRIGGER */

void talk_open(struct talk *talk, uint64_t instance, uint64_t boot, uint32_t features, unsigned interval_ms,
               uint64_t now_ms)
{
    *talk = (struct talk){.instance = instance,
                          .boot = boot,
                          .features = features,
                          .own_interval_ms = interval_ms,
                          .interval_ms = interval_ms,
                          .heartbeat_ms = TALK_HEARTBEAT_MS,
                          .allowance = TALK_BYTES_BURST,
                          .allowed_ms = now_ms};
}

/* A reclaim of a session that is over is nobody's. */
static void session_end(struct talk *talk)
{
    talk->session = 0;
    talk->version = 0;
    talk->here_due = talk->report_due = talk->consumers_due = talk->refusal_due = false;
    talk->reclaim = (struct talk_reclaim){0};
}

void talk_reset(struct talk *talk)
{
    session_end(talk);
    talk->nin = talk->nout = talk->sent = 0;
}

/* ---------------------------------------------------------------- frames in */

static unsigned clamp(unsigned value, unsigned min, unsigned max)
{
    return value < min ? min : value > max ? max : value;
}

static void take_hello(struct talk *talk, const struct agent_hello *hello)
{
    if (!hello->h.session)
        return;
    if (hello->h.session != talk->session) {
        session_end(talk);
        talk->session = hello->h.session;
    }
    talk->version =
        agent_common_version(AGENT_VERSION_MIN, AGENT_VERSION_MAX, hello->version_min, hello->version_max);
    talk->interval_ms = hello->interval_ms
                            ? clamp(hello->interval_ms, TALK_INTERVAL_MS_MIN, TALK_INTERVAL_MS_MAX)
                            : talk->own_interval_ms;
    talk->heartbeat_ms = clamp(hello->heartbeat_ms ? hello->heartbeat_ms : TALK_HEARTBEAT_MS,
                               talk->interval_ms, TALK_HEARTBEAT_MS_MAX);
    talk->here_due = true;
    talk->told = (struct sample){0}; /* everything is news */
}

static void take_reclaim(struct talk *talk, const struct agent_reclaim *reclaim, uint64_t now_ms)
{
    struct talk_reclaim *r = &talk->reclaim;

    if (r->state != TALK_RECLAIM_NONE && r->id == reclaim->id)
        return; /* asked for twice */
    if (r->state == TALK_RECLAIM_RUNS) {
        talk->refusal_due = true;
        talk->refused_id = reclaim->id;
        return;
    }
    *r = (struct talk_reclaim){.state = TALK_RECLAIM_RUNS,
                               .id = reclaim->id,
                               .want_bytes = reclaim->bytes,
                               .step_bytes = TALK_RECLAIM_STEP,
                               .told_ms = now_ms,
                               .until_ms = now_ms + clamp(reclaim->timeout_ms, 1, TALK_RECLAIM_MS_MAX)};
    if (!(talk->features & AGENT_CAN_RECLAIM)) {
        r->state = TALK_RECLAIM_OVER;
        r->error = AGENT_ERROR_UNSUPPORTED;
        r->due = true;
    }
}

static void take_frame(struct talk *talk, const union agent_frame *frame, uint64_t now_ms)
{
    if (frame->h.type == AGENT_HELLO)
        take_hello(talk, &frame->hello);
    else if (talk_is_on(talk) && frame->h.session == talk->session && frame->h.version <= talk->version)
        take_reclaim(talk, &frame->reclaim, now_ms);
}

static void refill(struct talk *talk, uint64_t now_ms)
{
    uint64_t earned = (now_ms - talk->allowed_ms) * TALK_BYTES_PER_S / 1000;

    if (!earned)
        return;
    talk->allowed_ms = now_ms;
    talk->allowance =
        earned < TALK_BYTES_BURST - talk->allowance ? talk->allowance + earned : TALK_BYTES_BURST;
}

size_t talk_room(struct talk *talk, uint64_t now_ms, uint8_t **ret_at)
{
    size_t room = sizeof talk->in - talk->nin;

    refill(talk, now_ms);
    *ret_at = talk->in + talk->nin;
    return room < talk->allowance ? room : (size_t)talk->allowance;
}

unsigned talk_room_in_ms(const struct talk *talk, uint64_t now_ms)
{
    uint64_t since = now_ms - talk->allowed_ms;

    return talk->allowance || since >= TALK_INTERVAL_MS_MIN ? 0 : (unsigned)(TALK_INTERVAL_MS_MIN - since);
}

void talk_received(struct talk *talk, size_t bytes, uint64_t now_ms)
{
    union agent_frame frame;
    size_t at = 0, used;
    int result;

    talk->nin += bytes;
    talk->allowance -= bytes;
    while ((result = agent_decode(talk->in + at, talk->nin - at, AGENT_TO_GUEST, &frame, &used))) {
        at += used;
        if (result > 0)
            take_frame(talk, &frame, now_ms);
    }
    talk->nin -= at;
    memmove(talk->in, talk->in + at, talk->nin);
}

/* ---------------------------------------------------------------- news */

static uint64_t difference(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

bool talk_heartbeat_due(const struct talk *talk, uint64_t now_ms)
{
    return now_ms - talk->told_ms >= talk->heartbeat_ms || !talk->told.present;
}

static uint64_t refaults(const struct sample *sample)
{
    return sample->value[AGENT_REFAULT_ANON] + sample->value[AGENT_REFAULT_FILE];
}

unsigned talk_look_in_ms(struct talk *talk)
{
    const uint64_t *value = talk->sample.value;
    uint64_t total = value[AGENT_MEM_TOTAL], available = value[AGENT_MEM_AVAILABLE];
    bool rereads = refaults(&talk->sample) - talk->seen_refaults >= REREAD_BYTES;
    unsigned ms = talk->interval_ms;

    talk->seen_refaults = refaults(&talk->sample);
    if (talk->total_max < total)
        talk->total_max = total;
    if (available < total / TIGHT_SHARE || talk->report_due || rereads)
        ms = TALK_TIGHT_MS;
    else if (available < talk->total_max / WARY_SHARE)
        ms = TALK_WARY_MS;
    if (ms < TALK_INTERVAL_MS && available / TAKES_MS < ms)
        ms = available / TAKES_MS > TALK_SOON_MS ? (unsigned)(available / TAKES_MS) : TALK_SOON_MS;
    return ms < talk->interval_ms ? ms : talk->interval_ms;
}

bool talk_is_news(const struct talk *talk, uint64_t now_ms)
{
    const struct sample *now = &talk->sample, *told = &talk->told;
    uint64_t since_us = (now_ms - talk->told_ms) * 1000;
    uint64_t stall_us = since_us / STALL_SHARE < STALL_US_MAX ? since_us / STALL_SHARE : STALL_US_MAX;
    uint64_t bytes = now->value[AGENT_MEM_TOTAL] / CHANGE_SHARE;

    if (talk_heartbeat_due(talk, now_ms) || now->present != told->present)
        return true;
    if (bytes < CHANGE_BYTES_MIN)
        bytes = CHANGE_BYTES_MIN;
    return difference(now->value[AGENT_MEM_AVAILABLE], told->value[AGENT_MEM_AVAILABLE]) >= bytes ||
           difference(now->value[AGENT_MEM_FREE], told->value[AGENT_MEM_FREE]) >= bytes ||
           now->value[AGENT_MEM_TOTAL] != told->value[AGENT_MEM_TOTAL] ||
           now->value[AGENT_STALL_SOME_US] - told->value[AGENT_STALL_SOME_US] > stall_us ||
           now->value[AGENT_OOM_KILLS] != told->value[AGENT_OOM_KILLS] ||
           refaults(now) - refaults(told) >= REREAD_BYTES;
}

void talk_tell(struct talk *talk)
{
    talk->report_due = true;
}

/* ---------------------------------------------------------------- frames out */

static void seal(struct talk *talk, enum agent_type type, unsigned version)
{
    talk->nout = agent_seal(&talk->out, type, (uint8_t)version, talk->seq++, talk->session);
    talk->sent = 0;
}

static void put_here(struct talk *talk)
{
    struct agent_here *here = &talk->out.here;

    *here = (struct agent_here){.version_min = AGENT_VERSION_MIN,
                                .version_max = AGENT_VERSION_MAX,
                                .features = talk->features,
                                .instance = talk->instance,
                                .boot = talk->boot,
                                .release = MEMD_VERSION};
    talk->here_due = false;
    seal(talk, AGENT_HERE, 1);
}

static void put_report(struct talk *talk, uint64_t now_ms)
{
    talk->out.report.present = talk->sample.present;
    memcpy(talk->out.report.value, talk->sample.value, sizeof talk->sample.value);
    talk->told = talk->sample;
    talk->told_ms = now_ms;
    talk->paced_ms = (talk->paced_ms > now_ms ? talk->paced_ms : now_ms) + TALK_REPORT_MS;
    talk->report_due = false;
    seal(talk, AGENT_REPORT, talk->version);
}

static void put_consumers(struct talk *talk)
{
    struct agent_consumers *consumers = &talk->out.consumers;

    memset(consumers, 0, sizeof *consumers);
    consumers->count = talk->nconsumers;
    memcpy(consumers->top, talk->consumers, talk->nconsumers * sizeof talk->consumers[0]);
    talk->consumers_due = false;
    seal(talk, AGENT_CONSUMERS, talk->version);
}

static void put_reclaimed(struct talk *talk)
{
    struct talk_reclaim *r = &talk->reclaim;

    talk->out.reclaimed =
        (struct agent_reclaimed){.id = r->id,
                                 .bytes = r->got_bytes,
                                 .error = r->error,
                                 .flags = r->state == TALK_RECLAIM_RUNS ? AGENT_RECLAIM_MORE : 0};
    r->due = false;
    seal(talk, AGENT_RECLAIMED, talk->version);
}

static void put_refusal(struct talk *talk)
{
    talk->out.reclaimed = (struct agent_reclaimed){.id = talk->refused_id, .error = AGENT_ERROR_BUSY};
    talk->refusal_due = false;
    seal(talk, AGENT_RECLAIMED, talk->version);
}

const uint8_t *talk_pending(struct talk *talk, uint64_t now_ms, size_t *ret_bytes)
{
    if (talk->sent == talk->nout && talk->session) {
        talk->nout = talk->sent = 0;
        if (talk->here_due)
            put_here(talk);
        else if (!talk->version)
            return NULL;
        else if (talk->reclaim.due)
            put_reclaimed(talk);
        else if (talk->refusal_due)
            put_refusal(talk);
        else if (talk->report_due && talk->paced_ms <= now_ms + TALK_REPORT_MS * TALK_REPORTS_BURST)
            put_report(talk, now_ms);
        else if (talk->consumers_due)
            put_consumers(talk);
    }
    *ret_bytes = talk->nout - talk->sent;
    return *ret_bytes ? (const uint8_t *)&talk->out + talk->sent : NULL;
}

void talk_written(struct talk *talk, size_t bytes)
{
    talk->sent += bytes;
}

/* ---------------------------------------------------------------- reclaim */

static void reclaim_end(struct talk_reclaim *r, enum agent_error error)
{
    r->state = TALK_RECLAIM_OVER;
    r->error = error;
    r->due = true;
}

uint64_t talk_reclaim_step(struct talk *talk, uint64_t now_ms)
{
    struct talk_reclaim *r = &talk->reclaim;

    if (r->state != TALK_RECLAIM_RUNS)
        return 0;
    if (r->got_bytes >= r->want_bytes) {
        reclaim_end(r, AGENT_OK);
        return 0;
    }
    if (now_ms >= r->until_ms) {
        reclaim_end(r, AGENT_ERROR_TIMEOUT);
        return 0;
    }
    uint64_t left = r->want_bytes - r->got_bytes;
    if (r->step_bytes > left)
        r->step_bytes = left;
    return r->step_bytes;
}

/* The kernel says of a step that it has reclaimed all of it, or that it could not: then a smaller one may
 * still do. */
void talk_reclaim_stepped(struct talk *talk, enum agent_error error, uint64_t now_ms)
{
    struct talk_reclaim *r = &talk->reclaim;

    if (!error) {
        r->got_bytes += r->step_bytes;
        if (now_ms - r->told_ms >= TALK_PROGRESS_MS) {
            r->told_ms = now_ms;
            r->due = true;
        }
    } else if (error == AGENT_ERROR_DRY && r->step_bytes > TALK_RECLAIM_STEP_MIN) {
        r->step_bytes /= 2;
    } else {
        reclaim_end(r, error);
    }
}
