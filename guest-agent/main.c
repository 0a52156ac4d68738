/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memd-agent: tells memd how a guest's memory does.
 *
 * Theory of operation. One thread, one loop around poll(). While there are privileges everything is opened
 * (link.h, sample.h, memory.reclaim); then they are given up, and from there on nothing is allocated and
 * nothing opened but memory.current of cgroups. talk.h decides what is said, sample.h looks at the kernel:
 * memory and stalls once per interval while a host listens, the rest only if these have changed. Between
 * intervals the kernel wakes the agent when tasks wait for memory (PSI trigger), and the host when it has
 * something to say. A reclaim goes in steps, so that the host is heard and answered meanwhile.
 *
 * What may go wrong at the other end: it dies (the link says so, or a new greeting comes), it does not read
 * (one frame waits, no more are made), it says nothing (then nothing is sampled), it floods (it is read at
 * TALK_BYTES_PER_S), it sends nonsense (skipped). None of that ends the agent. An unplugged port does.
 */
#include "guest-agent/link.h"
#include "guest-agent/options.h"
#include "guest-agent/sample.h"
#include "guest-agent/talk.h"
#include "guest-agent/user.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define TIMER_SLACK_NS 50000000ul /* wake-ups may be put together with others' */
#define TIGHT_SLACK_NS 2000000ul  /* where the next look may decide */
#define CLOSER_MS      90u        /* at least between two looks at what takes long to look at */

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_WAY = 3 };

struct agent {
    struct options options;
    struct link link;
    struct sampler sampler;
    struct talk talk;
    int reclaim_fd;   /* -1: none */
    uint64_t look_ms; /* when the next look at the kernel is due */
    uint64_t closer_ms;
    unsigned long slack_ns;
};

static struct agent the_agent; /* all the memory there is */

static uint64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---------------------------------------------------------------- start */

static int open_reclaim(const struct agent *agent, const char *dir)
{
    char path[PATH_MAX];

    if (!agent->options.reclaim || snprintf(path, sizeof path, "%s/memory.reclaim", dir) >= (int)sizeof path)
        return -1;
    return open(path, O_WRONLY | O_CLOEXEC);
}

static int open_kernel(struct agent *agent)
{
    const struct options *o = &agent->options;
    char dir[PATH_MAX];

    if (snprintf(dir, sizeof dir, "%s%s%s", o->cgroup_root, *o->slice ? "/" : "", o->slice) >=
        (int)sizeof dir)
        return -ENAMETOOLONG;
    agent->reclaim_fd = open_reclaim(agent, dir);
    return sampler_open(&agent->sampler, o->proc_root, o->consumers ? dir : NULL);
}

static int report_failure(const char *what, int error)
{
    fprintf(stderr, "memd-agent: %s: %s\n", what, strerror(error));
    return EXIT_FAILED;
}

static int open_way(struct agent *agent)
{
    const struct options *o = &agent->options;
    int error = link_open(&agent->link, o->transport, o->sys_root, o->dev_root, o->peer_cid);

    if (error == -ENODEV) {
        fprintf(stderr,
                "memd-agent: no way to the host (%s): the VM has neither a virtio-serial port named %s nor "
                "vsock\n",
                o->transport, AGENT_PORT_NAME);
        return EXIT_NO_WAY;
    }
    return error ? report_failure(o->transport, -error) : EXIT_OK;
}

static void be_on_time(struct agent *agent, unsigned long slack_ns)
{
    if (agent->slack_ns != slack_ns)
        prctl(PR_SET_TIMERSLACK, slack_ns, 0, 0, 0);
    agent->slack_ns = slack_ns;
}

/* Open everything, then be nobody. */
static int start(struct agent *agent)
{
    const char *user_name = agent->options.user;
    struct user user = {65534, 65534};
    uint64_t instance = 0;

    int error = user_find("/etc/passwd", user_name, &user);
    if (error && strcmp(user_name, "nobody")) /* whose number is the same everywhere */
        return report_failure(user_name, -error);
    error = open_kernel(agent);
    if (error)
        return report_failure("/proc/meminfo", -error);
    int code = open_way(agent);
    if (code)
        return code;
    if (getrandom(&instance, sizeof instance, GRND_NONBLOCK) < 0)
        instance = clock_ms() ^ (uint64_t)getpid() << 32;
    unsigned features = (agent->reclaim_fd >= 0 ? AGENT_CAN_RECLAIM : 0) |
                        (agent->sampler.cgroup_fd >= 0 ? AGENT_CAN_CGROUPS : 0);
    talk_open(&agent->talk, instance, sample_boot(agent->options.proc_root), features,
              agent->options.interval_ms, clock_ms());
    mlockall(MCL_CURRENT |
             MCL_ONFAULT); /* when memory is short the agent is wanted most; else it does without */
    be_on_time(agent, TIMER_SLACK_NS);
    error = user_become(&user);
    if (error)
        return report_failure("cannot give up privileges", -error);
    fprintf(stderr, "memd-agent: at %s, uid %u%s%s%s\n", agent->link.name, (unsigned)geteuid(),
            agent->reclaim_fd < 0 ? ", cannot reclaim" : "",
            agent->sampler.pressure_fd < 0 ? ", no pressure information" : "",
            agent->sampler.trigger_fd < 0 && agent->sampler.pressure_fd >= 0 ? ", not woken by pressure"
                                                                             : "");
    return EXIT_OK;
}

/* ---------------------------------------------------------------- the loop */

static void look(struct agent *agent, uint64_t now_ms)
{
    struct talk *talk = &agent->talk;
    bool heartbeat = talk_heartbeat_due(talk, now_ms);

    sampler_look(&agent->sampler, &talk->sample);
    /* not where looks are many: there memory is told about anyway */
    if (now_ms - agent->closer_ms >= CLOSER_MS || talk_is_news(talk, now_ms)) {
        sampler_look_closer(&agent->sampler, &talk->sample);
        agent->closer_ms = now_ms;
    }
    bool news = talk_is_news(talk, now_ms);
    if (news)
        talk_tell(talk);
    unsigned in_ms = talk_look_in_ms(talk);
    agent->look_ms = now_ms + in_ms;
    be_on_time(agent, in_ms < talk->interval_ms ? TIGHT_SLACK_NS : TIMER_SLACK_NS);
    if (!news)
        return;
    if (heartbeat && agent->sampler.cgroup_fd >= 0) {
        talk->nconsumers = sampler_consumers(&agent->sampler, talk->consumers);
        talk->consumers_due = true;
    }
}

static void reclaim(struct agent *agent, uint64_t bytes)
{
    enum agent_error error = AGENT_OK;
    char text[32];
    int n = snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    ssize_t put;

    do
        put = write(agent->reclaim_fd, text, (size_t)n);
    while (put < 0 && errno == EINTR);
    if (put < 0)
        error = errno == EAGAIN ? AGENT_ERROR_DRY : AGENT_ERROR_FAILED;
    talk_reclaim_stepped(&agent->talk, error, clock_ms());
}

/* All that may be read now. */
static int read_host(struct agent *agent, uint64_t now_ms)
{
    bool gone = false;
    ssize_t got;

    do {
        uint8_t *at;
        size_t room = talk_room(&agent->talk, now_ms, &at);
        got = room ? link_read(&agent->link, at, room, &gone) : 0;
        if (got > 0)
            talk_received(&agent->talk, (size_t)got, now_ms);
    } while (got > 0);
    if (gone)
        talk_reset(&agent->talk);
    return (int)got;
}

static int write_host(struct agent *agent, uint64_t now_ms)
{
    const uint8_t *from;
    bool gone = false;
    size_t bytes;

    while (agent->link.fd >= 0 && !agent->link.hung && (from = talk_pending(&agent->talk, now_ms, &bytes))) {
        ssize_t put = link_write(&agent->link, from, bytes, &gone);
        if (put < 0)
            return (int)put;
        if (gone)
            talk_reset(&agent->talk);
        if (!put)
            break;
        talk_written(&agent->talk, (size_t)put);
    }
    return 0;
}

/* ms until there is something to do without being woken; -1: never. */
static int rest_ms(const struct agent *agent, uint64_t now_ms)
{
    const struct talk *talk = &agent->talk;
    uint64_t until = UINT64_MAX;

    if (talk->reclaim.state == TALK_RECLAIM_RUNS)
        return 0;
    if (talk_is_on(talk))
        until = agent->look_ms;
    else if (agent->link.hung)
        until = now_ms + talk->own_interval_ms;
    unsigned room_ms = talk_room_in_ms(talk, now_ms);
    if (room_ms && now_ms + room_ms < until)
        until = now_ms + room_ms;
    return until == UINT64_MAX ? -1 : until <= now_ms ? 0 : (int)(until - now_ms);
}

/* Wait for the host, the kernel or the clock. */
static int wait_for_news(struct agent *agent, uint64_t now_ms, bool pending)
{
    struct pollfd polls[LINK_POLLS + 1];
    uint8_t *at;
    bool room = talk_room(&agent->talk, now_ms, &at) > 0;
    unsigned n = link_polls(&agent->link, room, pending, polls), nlink = n;

    /* it fires no more often than once in its window */
    if (talk_is_on(&agent->talk) && agent->sampler.trigger_fd >= 0)
        polls[n++] = (struct pollfd){.fd = agent->sampler.trigger_fd, .events = POLLPRI};
    if (poll(polls, n, rest_ms(agent, now_ms)) < 0)
        return errno == EINTR ? 0 : -errno;
    if (n > nlink && polls[nlink].revents & POLLPRI)
        agent->look_ms = 0;
    else if (n > nlink && polls[nlink].revents)
        agent->sampler.trigger_fd = -1; /* pressure information was turned off */
    if (link_polled(&agent->link, polls, nlink))
        talk_reset(&agent->talk);
    for (unsigned i = 0; i < nlink; i++)
        if (polls[i].fd == agent->link.fd && polls[i].revents & POLLIN)
            return read_host(agent, clock_ms());
    return 0;
}

static int run(struct agent *agent)
{
    int error = 0;

    while (!error) {
        uint64_t now_ms = clock_ms();
        size_t bytes;
        link_revive(&agent->link);
        uint64_t step = talk_reclaim_step(&agent->talk, now_ms);
        if (step) {
            reclaim(agent, step);
            now_ms = clock_ms();
        }
        if (talk_is_on(&agent->talk) && now_ms >= agent->look_ms)
            look(agent, now_ms);
        error = write_host(agent, now_ms);
        if (!error)
            error = wait_for_news(agent, now_ms, talk_pending(&agent->talk, now_ms, &bytes));
    }
    return report_failure(agent->link.name, -error);
}

/* ---------------------------------------------------------------- --once */

static int print_once(struct agent *agent)
{
    struct talk *talk = &agent->talk;

    int error = open_kernel(agent);
    if (error)
        return report_failure("/proc/meminfo", -error);
    sampler_look(&agent->sampler, &talk->sample);
    sampler_look_closer(&agent->sampler, &talk->sample);
    for (unsigned i = 0; i < AGENT_VALUES; i++)
        if (sample_has(&talk->sample, i))
            printf("%s %llu\n", agent_values[i].name, (unsigned long long)talk->sample.value[i]);
    talk->nconsumers = sampler_consumers(&agent->sampler, talk->consumers);
    for (unsigned i = 0; i < talk->nconsumers; i++)
        printf("cgroup %s %llu\n", talk->consumers[i].name, (unsigned long long)talk->consumers[i].bytes);
    printf("can_reclaim %d\n", agent->reclaim_fd >= 0);
    return fflush(stdout) || ferror(stdout) ? EXIT_FAILED : EXIT_OK;
}

int main(int argc, char *argv[])
{
    struct agent *agent = &the_agent;

    switch (options_read(argc, argv, &agent->options)) {
    case OPTIONS_DONE:
        return EXIT_OK;
    case OPTIONS_BAD:
        return EXIT_USAGE;
    case OPTIONS_RUN:
        break;
    }
    if (agent->options.once)
        return print_once(agent);
    signal(SIGPIPE, SIG_IGN);
    int code = start(agent);
    return code ? code : run(agent);
}
