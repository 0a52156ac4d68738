/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memd: the daemon's entry.
 *
 * Order of events: options, preflight, into the background if asked to (a fork, so before any thread), core,
 * balloons, control API, "memd: ready" and READY=1 for the service manager, the core's loop on this thread.
 * SIGTERM, SIGINT and SIGHUP stop the loop; then everything is taken down in the reverse order. What fails
 * says one line that names cause and cure, and leaves nothing behind.
 *
 * In the background: the parent waits on a pipe and ends with the exit code the child reports, 0 once it is
 * ready. From then on the child's messages go to STATE_DIR/memd.log; until then to the terminal.
 */
#include "memd/common/log.h"
#include "memd/daemon/config.h"
#include "memd/daemon/control.h"
#include "memd/daemon/core.h"
#include "memd/daemon/notify.h"
#include "memd/daemon/preflight.h"
#include "memd/memd.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define UFFD_DEVICE "/dev/userfaultfd"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static_assert((int)LOG_LEVEL_ERROR == (int)MEMD_LOG_ERROR && (int)LOG_LEVEL_DEBUG == (int)MEMD_LOG_DEBUG,
              "one set of levels");

/* What the signal handler stops. Written once by main() before the handlers are set, read by them. */
static struct core *running_core;

static void on_signal(int signal_number)
{
    (void)signal_number;
    core_stop(running_core);
}

static void signals_catch(struct core *core)
{
    static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    running_core = core;
    /* Orders the store above before the handlers below, for the compiler: a handler runs on some thread of
     * this process only after sigaction(), which is ordering enough for the processor. */
    atomic_signal_fence(memory_order_release);
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++)
        sigaction(stops[i], &action, NULL);
}

static void signals_ignore(void)
{
    static const int ignored[] = {SIGTERM, SIGINT, SIGHUP};

    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        signal(ignored[i], SIG_IGN);
}

/* ---------------------------------------------------------------- the background */

/* Waits for the child's verdict; a child that dies without one has failed. */
static int background_wait(int fd, pid_t child)
{
    unsigned char code = EXIT_FAILED;
    ssize_t got;

    do
        got = read(fd, &code, 1);
    while (got < 0 && errno == EINTR);
    if (got != 1)
        waitpid(child, NULL, 0);
    return code;
}

/* Returns in the child with the pipe to report on; the parent does not return. */
static int background_enter(int *ret_fd)
{
    int fds[2];

    if (pipe(fds))
        return -errno;
    fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    pid_t child = fork();
    if (child < 0) {
        int error = errno;
        close(fds[0]);
        close(fds[1]);
        return -error;
    }
    if (child) {
        close(fds[1]);
        _exit(background_wait(fds[0], child));
    }
    close(fds[0]);
    setsid();
    *ret_fd = fds[1];
    return 0;
}

static void background_report(int *fd, int code)
{
    unsigned char byte = (unsigned char)code;

    if (*fd < 0)
        return;
    ssize_t ignored = write(*fd, &byte, 1);
    (void)ignored; /* the parent may have been killed */
    close(*fd);
    *fd = -1;
}

/* Let go of the terminal and the directory memd was started from. */
static int background_detach(const char *state_dir)
{
    char path[320];

    snprintf(path, sizeof path, "%s/memd.log", state_dir);
    int log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (log_fd < 0) {
        log_error("cannot open the log %s: %s; check the directory, or leave --daemon out", path,
                  strerror(errno));
        return -errno;
    }
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd < 0 || chdir("/") || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0 ||
        dup2(log_fd, STDERR_FILENO) < 0) {
        log_error("cannot go into the background: %s", strerror(errno));
        return -errno;
    }
    close(null_fd);
    close(log_fd);
    return 0;
}

/* ---------------------------------------------------------------- the daemon's life */

static void say_ready(const struct config *config)
{
    printf("memd: ready, version %s, pid %ld, run directory %s\n", MEMD_VERSION, (long)getpid(),
           config->core.run_dir);
    fflush(stdout);
    notify_manager("READY=1\nMAINPID=%ld\nSTATUS=Serving %s", (long)getpid(), config->core.run_dir);
}

/* From ready to the end of the core's loop. `pipe_fd` is -1 in the foreground. */
static int serve(const struct config *config, struct core *core, int *pipe_fd)
{
    say_ready(config);
    if (config->background && background_detach(config->core.state_dir))
        return EXIT_FAILED;
    background_report(pipe_fd, EXIT_OK);
    int result = core_run(core);
    notify_manager("STOPPING=1");
    if (result)
        log_error("the daemon's loop failed: %s; engines go on alone, start memd again", strerror(-result));
    return result ? EXIT_FAILED : EXIT_OK;
}

static int balloons_start(const struct config *config, struct balloons **ret_balloons)
{
    struct balloons_spec specs[BALLOONS_MAX];
    struct balloons_options options = {.specs = specs, .proc_root = config->core.proc_root};

    for (unsigned i = 0; i < config->nballoons; i++)
        if (config->balloons[i].address[0]) /* else a rule for VMs that embed libmemd */
            specs[options.nspecs++] = config->balloons[i];
    return balloons_open(&options, ret_balloons);
}

static int run(const struct config *config, int *pipe_fd)
{
    char error[CONFIG_ERROR_BYTES];
    struct balloons *balloons;
    struct control *control;
    struct core *core;

    if (core_open(&config->core, &core, error, sizeof error)) {
        log_error("%s", error);
        return EXIT_FAILED;
    }
    signals_catch(core);
    int code = EXIT_FAILED;
    int result = balloons_start(config, &balloons);
    if (result) {
        log_error("cannot start the threads of the balloons: %s; check ulimit -u and -n, and free memory",
                  strerror(-result));
    } else if (core_balloons_set(core, balloons, config->balloons, config->nballoons)) {
        log_error("out of memory, or of file descriptors: check ulimit -n");
        balloons_close(balloons);
    } else if (control_start(core, balloons, config->core.run_dir, &control, error, sizeof error)) {
        log_error("%s", error);
        core_balloons_forget(core);
        balloons_close(balloons);
    } else {
        code = serve(config, core, pipe_fd);
        control_stop(control);
        core_balloons_forget(core);
        balloons_close(balloons);
    }
    signals_ignore(); /* the handlers must not reach a core that is being closed */
    core_close(core);
    return code;
}

static int start(const struct config *config)
{
    char error[CONFIG_ERROR_BYTES];
    int pipe_fd = -1;

    log_set_level((enum log_level)config->log_level);
    signal(SIGPIPE, SIG_IGN);
    if (preflight_check(UFFD_DEVICE, error, sizeof error)) {
        log_error("%s", error);
        return EXIT_FAILED;
    }
    if (config->background) {
        int result = background_enter(&pipe_fd);
        if (result) {
            log_error("cannot go into the background: %s; leave --daemon out", strerror(-result));
            return EXIT_FAILED;
        }
    }
    if (config->file[0])
        log_info("configuration read from %s", config->file);
    int code = run(config, &pipe_fd);
    background_report(&pipe_fd, code);
    return code;
}

int main(int argc, char *argv[])
{
    char error[CONFIG_ERROR_BYTES];
    enum config_action action;
    struct config config;

    /* few threads, and none in a hurry: one heap has fewer half-empty pages than several */
    mallopt(M_ARENA_MAX, 1);
    if (config_load(argc, argv, CONFIG_PATH_DEFAULT, &config, &action, error, sizeof error)) {
        fprintf(stderr, "memd: %s\n", error);
        return EXIT_USAGE;
    }
    if (action == CONFIG_HELP)
        config_help(stdout);
    if (action == CONFIG_VERSION)
        printf("memd %s\n", MEMD_VERSION);
    if (action != CONFIG_RUN)
        return ferror(stdout) || fflush(stdout) ? EXIT_FAILED : EXIT_OK;
    return start(&config);
}
