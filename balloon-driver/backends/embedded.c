/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see embedded.h. */
#include "balloon-driver/backends/embedded.h"

#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/link.h"

#include "memd/common/clock.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static_assert(WIRE_BALLOON_TAGS == MEMD_BALLOON_TAGS, "the wire has a place for each statistic");

struct embedded {
    int asks_fd, wake_fd; /* not ours */
    int news_fd;          /* readable: something has been said since the keeper looked */

    pthread_mutex_t lock; /* guards what follows; taken alone */
    bool connected;
    struct wire_rec_balloon said;
    struct wire_msg_balloon_ask ask; /* the last one */
    bool ask_due;                    /* it has not been sent */

    uint64_t stats_asked_ns; /* the keeper's own */
};

static void poke(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one);

    (void)ignored; /* a full counter wakes just as well */
}

static void drain(int fd)
{
    uint64_t count;
    ssize_t ignored = read(fd, &count, sizeof count);

    (void)ignored; /* it does not block */
}

/* ---------------------------------------------------------------- the loop's side */

bool embedded_is_sane(const struct wire_rec_balloon *said)
{
    if (!(said->flags & WIRE_BALLOON_ATTACHED))
        return true;
    return said->ram_bytes && said->ram_bytes <= BALLOON_RAM_MAX &&
           said->ram_bytes % MEMD_BALLOON_PAGE_BYTES == 0 && said->target_bytes <= said->ram_bytes &&
           said->actual_bytes <= said->ram_bytes && said->error >= 0;
}

struct embedded *embedded_new(int asks_fd, int wake_fd)
{
    struct embedded *port = calloc(1, sizeof *port);

    if (!port)
        return NULL;
    port->asks_fd = asks_fd;
    port->wake_fd = wake_fd;
    port->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (port->news_fd < 0) {
        free(port);
        return NULL;
    }
    pthread_mutex_init(&port->lock, NULL);
    return port;
}

void embedded_free(struct embedded *port)
{
    if (!port)
        return;
    pthread_mutex_destroy(&port->lock);
    close(port->news_fd);
    free(port);
}

void embedded_say(struct embedded *port, const struct wire_rec_balloon *said)
{
    pthread_mutex_lock(&port->lock);
    bool back = !port->connected;
    port->connected = true;
    port->said = *said;
    pthread_mutex_unlock(&port->lock);
    poke(port->news_fd);
    if (back)
        poke(port->wake_fd); /* an attempt at once */
}

void embedded_lost(struct embedded *port)
{
    pthread_mutex_lock(&port->lock);
    port->connected = port->ask_due = false;
    pthread_mutex_unlock(&port->lock);
    poke(port->news_fd);
}

bool embedded_ask(struct embedded *port, struct wire_msg_balloon_ask *ret_ask)
{
    pthread_mutex_lock(&port->lock);
    bool due = port->ask_due && port->connected;
    port->ask_due = false;
    *ret_ask = port->ask;
    pthread_mutex_unlock(&port->lock);
    return due;
}

/* ---------------------------------------------------------------- the keeper's side */

static int gone(struct balloon_error *error)
{
    return balloon_fail(error, -ENOTCONN, "the VM's engine has no session with memd");
}

/* What it said last. 0 or -ENOTCONN. */
static int hear(struct embedded *port, struct wire_rec_balloon *ret_said, struct balloon_error *error)
{
    pthread_mutex_lock(&port->lock);
    bool connected = port->connected;
    *ret_said = port->said;
    pthread_mutex_unlock(&port->lock);
    return connected ? 0 : gone(error);
}

static void note(const struct wire_rec_balloon *said, struct balloon_facts *facts)
{
    facts->can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_EVENTS | BALLOON_CAN_DRIVER |
                 (said->flags & WIRE_BALLOON_STATS ? BALLOON_CAN_STATS : 0) |
                 (said->flags & WIRE_BALLOON_REPORTING ? BALLOON_CAN_REPORTING : 0) |
                 (said->flags & WIRE_BALLOON_DEFLATE_ON_OOM ? BALLOON_CAN_DEFLATE_ON_OOM : 0);
    facts->no_driver = !(said->flags & WIRE_BALLOON_DRIVER);
    facts->ram_bytes = said->ram_bytes;
    facts->actual_bytes = said->ram_bytes - said->actual_bytes;
    facts->target_bytes = said->ram_bytes - said->target_bytes;
    if (!said->stats_serial) {
        facts_clear_stats(facts);
        return;
    }
    facts->stats_serial = said->stats_serial;
    memcpy(facts->stats, said->stats, sizeof facts->stats);
}

static bool changed(const struct balloon_facts *before, const struct balloon_facts *now)
{
    return before->can != now->can || before->no_driver != now->no_driver ||
           before->ram_bytes != now->ram_bytes || before->actual_bytes != now->actual_bytes ||
           before->target_bytes != now->target_bytes || before->stats_serial != now->stats_serial;
}

/* Until something has been said, or the deadline. 0, -ETIMEDOUT, -ESHUTDOWN. */
static int wait_news(const struct balloon_ctl *ctl, struct embedded *port, uint64_t deadline_ns,
                     struct balloon_error *error)
{
    struct pollfd fds[] = {{.fd = ctl->stop_fd, .events = POLLIN}, {.fd = port->news_fd, .events = POLLIN}};
    uint64_t now = clock_now_ns();
    int n = poll(fds, 2, deadline_ns > now ? (int)((deadline_ns - now) / CLOCK_MS) + 1 : 0);

    if (n > 0 && fds[0].revents)
        return balloon_fail(error, -ESHUTDOWN, "memd is ending");
    if (clock_now_ns() >= deadline_ns)
        return balloon_fail(error, -ETIMEDOUT, "the VM's engine does not answer");
    drain(port->news_fd);
    return 0;
}

/* Ask, and wait for the answer. 0; -ENOTCONN, -ETIMEDOUT, -ESHUTDOWN. */
static int ask(const struct balloon_ctl *ctl, struct embedded *port, uint32_t flags, uint64_t bytes,
               struct wire_rec_balloon *ret_said, struct balloon_error *error)
{
    uint64_t deadline_ns = link_deadline(ctl->call_ms);
    int result = 0;

    pthread_mutex_lock(&port->lock);
    port->ask = (struct wire_msg_balloon_ask){.flags = flags, .id = port->ask.id + 1, .bytes = bytes};
    port->ask_due = true;
    uint64_t id = port->ask.id;
    pthread_mutex_unlock(&port->lock);
    poke(port->asks_fd);
    while (!result) {
        result = hear(port, ret_said, error);
        if (!result && ret_said->answered == id)
            return 0;
        if (!result)
            result = wait_news(ctl, port, deadline_ns, error);
    }
    return result;
}

struct peer {
    const struct balloon_ctl *ctl;
    struct embedded *port;
};

static int embedded_check(const char *address, struct balloon_error *error)
{
    (void)address;
    return balloon_fail(error, -EINVAL, "a VMM that embeds libmemd needs no address for its balloon");
}

static int embedded_open(const struct balloon_ctl *ctl, const char *address, void **ret_peer,
                         struct balloon_error *error)
{
    struct wire_rec_balloon said;
    int result = hear(ctl->port, &said, error);

    (void)address;
    if (result)
        return result;
    struct peer *peer = malloc(sizeof *peer);
    if (!peer)
        return balloon_fail(error, -ENOMEM, "out of memory");
    *peer = (struct peer){.ctl = ctl, .port = ctl->port};
    *ret_peer = peer;
    return 0;
}

static bool wants_stats(const struct balloon_ctl *ctl, struct embedded *port,
                        const struct balloon_facts *facts)
{
    uint64_t now = clock_now_ns();

    if (facts->no_driver || !(facts->can & BALLOON_CAN_STATS) ||
        (port->stats_asked_ns && now - port->stats_asked_ns < ctl->stats_every_s * CLOCK_S - CLOCK_S / 4))
        return false;
    port->stats_asked_ns = now;
    return true;
}

static int embedded_refresh(void *arg, bool quick, struct balloon_facts *facts, struct balloon_error *error)
{
    struct peer *peer = arg;
    struct wire_rec_balloon said;
    int result = hear(peer->port, &said, error);

    if (result)
        return result;
    note(&said, facts);
    if (quick) /* it says by itself what changes */
        return 0;
    uint32_t flags = wants_stats(peer->ctl, peer->port, facts) ? WIRE_BALLOON_STATS_WANTED : 0;
    result = ask(peer->ctl, peer->port, flags, 0, &said, error);
    if (!result)
        note(&said, facts);
    return result;
}

static int embedded_set(void *arg, uint64_t bytes, struct balloon_facts *facts, struct balloon_error *error)
{
    struct peer *peer = arg;
    struct wire_rec_balloon said;
    int result = ask(peer->ctl, peer->port, WIRE_BALLOON_SET, facts->ram_bytes - bytes, &said, error);

    if (!result && said.error)
        return balloon_fail(error, -ERANGE, "the VMM refuses: %s", strerror(said.error));
    if (!result)
        note(&said, facts);
    return result;
}

static int embedded_wait(void *arg, unsigned ms, struct balloon_facts *facts, struct balloon_error *error)
{
    struct peer *peer = arg;
    struct wire_rec_balloon said;
    struct pollfd fds[] = {{.fd = peer->ctl->stop_fd, .events = POLLIN},
                           {.fd = peer->ctl->wake_fd, .events = POLLIN},
                           {.fd = peer->port->news_fd, .events = POLLIN}};
    unsigned pause_ms = ms < EMBEDDED_NEWS_MS ? ms : EMBEDDED_NEWS_MS;
    int n = poll(fds, 2, (int)pause_ms); /* not kept awake by one that never stops talking */

    if (!n)
        n = poll(fds, 3, (int)(ms - pause_ms));
    if (n > 0 && fds[0].revents)
        return balloon_fail(error, -ESHUTDOWN, "memd is ending");
    if (n <= 0 || !fds[2].revents)
        return 0;
    drain(peer->port->news_fd);
    int result = hear(peer->port, &said, error);
    if (result)
        return result;
    struct balloon_facts before = *facts;
    note(&said, facts);
    facts->events += changed(&before, facts);
    return 0;
}

static void embedded_close(void *arg)
{
    free(arg);
}

const struct balloon_backend balloon_embedded = {
    .version = BALLOON_BACKEND_VERSION,
    .size = sizeof(struct balloon_backend),
    .scheme = EMBEDDED_ADDRESS,
    .can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS | BALLOON_CAN_REPORTING |
           BALLOON_CAN_DEFLATE_ON_OOM | BALLOON_CAN_EVENTS | BALLOON_CAN_DRIVER,
    .check = embedded_check,
    .open = embedded_open,
    .refresh = embedded_refresh,
    .set = embedded_set,
    .wait = embedded_wait,
    .close = embedded_close,
};
