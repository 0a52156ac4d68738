/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memvm: the reference VMM. One process is one guest: RAM, 1 to 4 vCPU threads running the payload, libmemd's
 * engine over the RAM, and this main thread, which prints, takes commands and decides when it is over.
 *
 * Order of life: RAM, engine (so that the guest is enrolled before its first page exists, as in any VMM),
 * control page, control socket, vCPUs; and back. The memory is looked at once more after the engine has
 * closed: what comes home must be what the guest wrote.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "bench/memvm/accel.h"
#include "bench/memvm/control.h"
#include "bench/memvm/status.h"

#define MS_NS 1000000ull

/* A moment in vm_clock_ns(); NEVER while it is not set. */
#define NEVER UINT64_MAX

struct app {
    struct options options;
    struct ram ram;
    struct engine engine;
    struct vm vm;
    struct control *control;
    struct accel *accel;
    int signal_fd;
    bool ready;
    uint64_t jobs_seen;
    uint64_t report_at_ns, inject_at_ns, end_at_ns;
};

static void print_status(struct app *app, const char *event)
{
    char line[STATUS_LINE_MAX];

    status_line(&app->vm, event, line);
    fputs(line, stdout);
    fflush(stdout);
}

/* ---------------------------------------------------------------- the loop */

static void on_ready(struct app *app)
{
    uint64_t now_ns = vm_clock_ns();
    const struct options *options = &app->options;
    uint64_t job;

    app->ready = true;
    print_status(app, "ready");
    if (options->job_maccesses)
        vm_job(&app->vm, options->job_maccesses, &job);
    if (options->inject)
        app->inject_at_ns = now_ns + options->inject_ms * MS_NS;
    if (options->time_s)
        app->end_at_ns = now_ns + options->time_s * 1000 * MS_NS;
}

/* What is due at `now_ns`. Returns true when the time is up. */
static bool on_time(struct app *app, uint64_t now_ns)
{
    if (now_ns >= app->report_at_ns) {
        print_status(app, "report");
        app->report_at_ns = now_ns + app->options.report_ms * MS_NS;
    }
    if (now_ns >= app->inject_at_ns) {
        uint64_t page = vm_inject(&app->vm, app->options.seed);
        fprintf(stderr, "memvm %s: corrupted data page %llu as asked\n", app->options.name,
                (unsigned long long)page);
        app->inject_at_ns = NEVER;
    }
    return now_ns >= app->end_at_ns;
}

static int poll_timeout_ms(const struct app *app, uint64_t now_ns)
{
    uint64_t at_ns = app->report_at_ns;

    at_ns = app->inject_at_ns < at_ns ? app->inject_at_ns : at_ns;
    at_ns = app->end_at_ns < at_ns ? app->end_at_ns : at_ns;
    if (at_ns == NEVER)
        return -1;
    if (at_ns <= now_ns)
        return 0;
    uint64_t ms = (at_ns - now_ns + MS_NS - 1) / MS_NS;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

/* Returns true when the guest has failed or left. */
static bool on_guest(struct app *app)
{
    struct vm_events events = vm_take_events(&app->vm);
    uint64_t jobs_done;

    if (events.ready && !app->ready)
        on_ready(app);
    jobs_done = vm_count(&app->vm).jobs_done;
    if (jobs_done != app->jobs_seen) {
        app->jobs_seen = jobs_done;
        print_status(app, "job");
    }
    return events.ended;
}

static void serve(struct app *app)
{
    struct pollfd fds[2 + CONTROL_FDS_MAX];
    bool over = false;

    if (app->options.report_ms)
        app->report_at_ns = vm_clock_ns() + app->options.report_ms * MS_NS;
    while (!over) {
        fds[0] = (struct pollfd){.fd = app->signal_fd, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = app->vm.event_fd, .events = POLLIN};
        nfds_t ncontrol = control_poll_fds(app->control, fds + 2);

        if (poll(fds, 2 + ncontrol, poll_timeout_ms(app, vm_clock_ns())) < 0 && errno != EINTR) {
            fprintf(stderr, "memvm: poll: %s\n", strerror(errno));
            return;
        }
        over = on_guest(app);
        over |= fds[0].revents != 0;
        over |= control_serve(app->control, fds + 2, ncontrol);
        over |= on_time(app, vm_clock_ns());
    }
}

/* ---------------------------------------------------------------- start and end */

static int block_signals(void)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        fprintf(stderr, "memvm: signalfd: %s\n", strerror(errno));
    return fd;
}

/* The vCPUs are gone. The audit comes after the engine has brought everything home. */
static int finish(struct app *app)
{
    bool failed = atomic_load(&app->vm.failed);

    if (app->vm.balloon)
        balloon_detach(app->vm.balloon);
    int error = engine_close(&app->engine);

    if (error)
        fprintf(stderr, "memvm %s: closing the engine: %s\n", app->options.name, strerror(-error));
    if (app->ready && app->options.verify && !failed)
        vm_audit(&app->vm);
    print_status(app, "exit");
    return error || failed || atomic_load(&app->vm.verify_failures) ? 1 : 0;
}

static int run_guest(struct app *app)
{
    int code = 1;

    if (control_open(app->options.control, &app->vm, &app->control))
        return 1;
    if (accel_start(&app->vm, &app->accel) == 0) {
        serve(app);
        if (accel_stop(app->accel))
            _exit(1); /* a vCPU still uses the memory: leave it to the kernel */
        code = finish(app);
    }
    control_close(app->control);
    return code;
}

int main(int argc, char **argv)
{
    static struct app app = {.report_at_ns = NEVER, .inject_at_ns = NEVER, .end_at_ns = NEVER};
    int rc = options_parse(argc, argv, &app.options);
    int code = 1;

    if (rc)
        return rc > 0 ? 0 : 2;
    app.signal_fd = block_signals();
    if (app.signal_fd < 0 || ram_create(&app.options, &app.ram))
        return 1;
    if (engine_open(&app.engine, &app.options, &app.ram) == 0) {
        if (vm_init(&app.vm, &app.options, &app.ram, &app.engine) == 0) {
            code = run_guest(&app);
            vm_fini(&app.vm);
        }
        if (engine_close(&app.engine))
            _exit(1); /* it still serves this memory */
    }
    ram_destroy(&app.ram);
    close(app.signal_fd);
    return code;
}
