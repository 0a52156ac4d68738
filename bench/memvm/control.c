/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: a table of commands over vm.h and engine.h; a handful of connections with a line
 * buffer each. Slot 0 is stdin when that is asked for. Lines, words and clients are bounded; who sends a
 * longer line or does not read its answers is cut off.
 */
#include "bench/memvm/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/memvm/status.h"

#define LINE_MAX_BYTES 256
#define WORDS_MAX      4

struct client {
    int fd;    /* -1: free */
    int reply; /* fd to answer on */
    size_t used;
    char line[LINE_MAX_BYTES];
};

struct control {
    struct vm *vm;
    int listen_fd; /* -1: stdin */
    const char *path;
    bool quit;
    uint64_t injections;
    struct client client[CONTROL_CLIENTS_MAX];
};

/* ---------------------------------------------------------------- commands */

/* Returns 0 or -errno; may write a reply of its own (with its newline) instead of the standard one. */
typedef int command_fn(struct control *control, char **args, char reply[STATUS_LINE_MAX]);

static int do_status(struct control *control, char **args, char *reply)
{
    (void)args;
    status_line(control->vm, "status", reply);
    return 0;
}

static int do_churn(struct control *control, char **args, char *reply)
{
    uint64_t ppm;

    (void)reply;
    if (options_parse_ppm(args[0], &ppm))
        return -EINVAL;
    vm_set_churn(control->vm, ppm);
    return 0;
}

static int do_toggle(struct control *control, char **args, char *reply)
{
    uint64_t ppm;

    (void)reply;
    if (options_parse_ppm(args[0], &ppm))
        return -EINVAL;
    vm_set_toggle(control->vm, ppm);
    return 0;
}

static int do_sweep(struct control *control, char **args, char *reply)
{
    uint64_t mbps;

    (void)reply;
    if (options_parse_u64(args[0], 0, 1u << 20, &mbps))
        return -EINVAL;
    vm_set_sweep(control->vm, mbps);
    return 0;
}

static int do_verify(struct control *control, char **args, char *reply)
{
    bool off = !strcmp(args[0], "off");
    uint64_t mbps = 0;

    (void)reply;
    if (!off && strcmp(args[0], "on") && options_parse_u64(args[0], 1, 1u << 20, &mbps))
        return -EINVAL;
    vm_set_verify(control->vm, !off, mbps);
    return 0;
}

static int do_rewrite(struct control *control, char **args, char *reply)
{
    (void)args;
    snprintf(reply, STATUS_LINE_MAX, "{\"ok\": true, \"rewrite\": %llu}\n",
             (unsigned long long)vm_rewrite(control->vm));
    return 0;
}

static int do_job(struct control *control, char **args, char *reply)
{
    uint64_t maccesses, job;
    int error = options_parse_u64(args[0], 1, 1u << 20, &maccesses);

    if (!error)
        error = vm_job(control->vm, maccesses, &job);
    if (!error)
        snprintf(reply, STATUS_LINE_MAX, "{\"ok\": true, \"job\": %llu}\n", (unsigned long long)job);
    return error;
}

static int on_range(char **args, uint64_t *ret_offset, uint64_t *ret_bytes)
{
    int error = options_parse_bytes(args[0], ret_offset);

    return error ? error : options_parse_bytes(args[1], ret_bytes);
}

static int do_discard(struct control *control, char **args, char *reply)
{
    uint64_t offset, bytes;

    (void)reply;
    return on_range(args, &offset, &bytes) ? -EINVAL : vm_discard(control->vm, offset, bytes, false);
}

static int do_report(struct control *control, char **args, char *reply)
{
    uint64_t offset, bytes;

    (void)reply;
    return on_range(args, &offset, &bytes) ? -EINVAL : vm_discard(control->vm, offset, bytes, true);
}

static int do_balloon(struct control *control, char **args, char *reply)
{
    uint64_t bytes;

    (void)reply;
    if (!control->vm->balloon)
        return -ENOTSUP;
    return options_parse_bytes(args[0], &bytes) ? -EINVAL : balloon_set_target(control->vm->balloon, bytes);
}

static int do_ask_stats(struct control *control, char **args, char *reply)
{
    (void)args;
    (void)reply;
    return control->vm->balloon ? balloon_ask_stats(control->vm->balloon) : -ENOTSUP;
}

static int do_pin(struct control *control, char **args, char *reply)
{
    uint64_t offset, bytes;

    (void)reply;
    return on_range(args, &offset, &bytes) ? -EINVAL : engine_pin(control->vm->engine, offset, bytes);
}

static int do_unpin(struct control *control, char **args, char *reply)
{
    uint64_t offset, bytes;

    (void)reply;
    return on_range(args, &offset, &bytes) ? -EINVAL : engine_unpin(control->vm->engine, offset, bytes);
}

static int do_stop(struct control *control, char **args, char *reply)
{
    (void)args;
    (void)reply;
    return vm_hold(control->vm, true);
}

static int do_cont(struct control *control, char **args, char *reply)
{
    (void)args;
    (void)reply;
    return vm_hold(control->vm, false);
}

/* Engine calls without arguments share one body. */
#define ENGINE_COMMAND(name)                                                \
    static int do_##name(struct control *control, char **args, char *reply) \
    {                                                                       \
        (void)args;                                                         \
        (void)reply;                                                        \
        return engine_##name(control->vm->engine);                          \
    }
ENGINE_COMMAND(pause)
ENGINE_COMMAND(resume)
ENGINE_COMMAND(unmerge)
ENGINE_COMMAND(enrol)
#undef ENGINE_COMMAND

static int do_close(struct control *control, char **args, char *reply)
{
    (void)args;
    (void)reply;
    if (control->vm->balloon)
        balloon_detach(control->vm->balloon);
    return engine_close(control->vm->engine);
}

static int do_inject(struct control *control, char **args, char *reply)
{
    uint64_t page = vm_inject(control->vm, control->vm->options->seed + ++control->injections);

    (void)args;
    snprintf(reply, STATUS_LINE_MAX, "{\"ok\": true, \"page\": %llu}\n", (unsigned long long)page);
    return 0;
}

static int do_quit(struct control *control, char **args, char *reply)
{
    (void)args;
    (void)reply;
    control->quit = true;
    return 0;
}

static command_fn do_help;

static const struct command {
    const char *name;
    unsigned nargs;
    command_fn *fn;
    const char *help;
} commands[] = {
    {"status", 0, do_status, "the counters, as in a report"},
    {"churn", 1, do_churn, "PCT: rewrite that share of the data pages each second"},
    {"toggle", 1, do_toggle, "PCT: change one word of that share of the data pages each second"},
    {"sweep", 1, do_sweep, "MBPS: read at this rate; 0 stops"},
    {"verify", 1, do_verify, "on|off|MBPS"},
    {"rewrite", 0, do_rewrite,
     "rewrite every data page once; done when rewrites_done is the number answered"},
    {"job", 1, do_job,
     "N: N million random reads; when jobs_done is the number answered, job_ns is their duration"},
    {"discard", 2, do_discard, "OFFSET BYTES: the guest gives these data pages up and checks the zeros"},
    {"report", 2, do_report, "OFFSET BYTES: the same by a free-page report, which wants --balloon"},
    {"balloon", 1, do_balloon, "SIZE: what the balloon is to hold; status shows what it does hold"},
    {"ask-stats", 0, do_ask_stats, "ask the balloon driver for statistics; status shows the last ones"},
    {"pin", 2, do_pin, "OFFSET BYTES: memd_pin()"},
    {"unpin", 2, do_unpin, "OFFSET BYTES: memd_unpin()"},
    {"pause", 0, do_pause, "memd_pause(): no background work of the engine"},
    {"resume", 0, do_resume, "memd_resume()"},
    {"stop", 0, do_stop, "hold the vCPUs"},
    {"cont", 0, do_cont, "let them go on"},
    {"unmerge", 0, do_unmerge, "memd_region_del(): guest RAM is plain memory again"},
    {"enrol", 0, do_enrol, "memd_region_add() after unmerge"},
    {"close", 0, do_close, "memd_close(): go on without the engine"},
    {"inject-corruption", 0, do_inject, "flip one bit behind the guest's back; verify must find it"},
    {"help", 0, do_help, "this list"},
    {"quit", 0, do_quit, "stop in order and exit"},
};
#define NCOMMANDS (sizeof commands / sizeof *commands)

static int do_help(struct control *control, char **args, char *reply)
{
    size_t used = (size_t)snprintf(reply, STATUS_LINE_MAX, "{\"ok\": true, \"commands\": {");

    (void)control;
    (void)args;
    for (size_t i = 0; i < NCOMMANDS; i++)
        used += (size_t)snprintf(reply + used, STATUS_LINE_MAX - used, "%s\"%s\": \"%s\"", i ? ", " : "",
                                 commands[i].name, commands[i].help);
    snprintf(reply + used, STATUS_LINE_MAX - used, "}}\n");
    return 0;
}

static void run_line(struct control *control, char *line, char reply[STATUS_LINE_MAX])
{
    char *words[WORDS_MAX], *rest;
    unsigned nwords = 0;
    int error = -ENOENT;

    for (char *word = strtok_r(line, " \t\r", &rest); word && nwords < WORDS_MAX;
         word = strtok_r(NULL, " \t\r", &rest))
        words[nwords++] = word;
    reply[0] = '\0';
    if (nwords == 0)
        return;
    for (size_t i = 0; i < NCOMMANDS; i++) {
        if (strcmp(words[0], commands[i].name))
            continue;
        error = nwords == commands[i].nargs + 1 ? commands[i].fn(control, words + 1, reply) : -EINVAL;
        break;
    }
    if (error)
        snprintf(reply, STATUS_LINE_MAX, "{\"ok\": false, \"errno\": %d, \"error\": \"%s\"}\n", -error,
                 error == -ENOENT ? "no such command or region; try help" : strerror(-error));
    else if (!reply[0])
        snprintf(reply, STATUS_LINE_MAX, "{\"ok\": true}\n");
}

/* ---------------------------------------------------------------- connections */

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    mode_t old;
    int fd, error;

    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    old = umask(0177); /* for its owner only; no thread that makes files runs yet */
    error = bind(fd, (struct sockaddr *)&address, sizeof address) ? -errno : 0;
    umask(old);
    if (!error && listen(fd, CONTROL_CLIENTS_MAX)) {
        error = -errno;
        unlink(path);
    }
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

int control_open(const char *where, struct vm *vm, struct control **ret_control)
{
    struct control *control = calloc(1, sizeof *control);

    if (!control)
        return -ENOMEM;
    control->vm = vm;
    control->listen_fd = -1;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        control->client[i].fd = -1;
    if (where && !strcmp(where, "-")) {
        control->client[0].fd = STDIN_FILENO;
        control->client[0].reply = STDOUT_FILENO;
    } else if (where) {
        control->listen_fd = listen_on(where);
        if (control->listen_fd < 0) {
            int error = control->listen_fd;
            fprintf(stderr, "memvm: control socket %s: %s%s\n", where, strerror(-error),
                    error == -EADDRINUSE ? "; remove it if no memvm uses it" : "");
            free(control);
            return error;
        }
        control->path = where;
    }
    *ret_control = control;
    return 0;
}

static void drop(struct client *client)
{
    if (client->fd != STDIN_FILENO)
        close(client->fd);
    client->fd = -1;
    client->used = 0;
}

void control_close(struct control *control)
{
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (control->client[i].fd >= 0)
            drop(&control->client[i]);
    }
    if (control->listen_fd >= 0) {
        close(control->listen_fd);
        unlink(control->path);
    }
    free(control);
}

nfds_t control_poll_fds(struct control *control, struct pollfd fds[CONTROL_FDS_MAX])
{
    nfds_t n = 0;

    if (control->listen_fd >= 0)
        fds[n++] = (struct pollfd){.fd = control->listen_fd, .events = POLLIN};
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (control->client[i].fd >= 0)
            fds[n++] = (struct pollfd){.fd = control->client[i].fd, .events = POLLIN};
    }
    return n;
}

static void accept_client(struct control *control)
{
    int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (control->client[i].fd < 0) {
            control->client[i] = (struct client){.fd = fd, .reply = fd};
            return;
        }
    }
    close(fd);
}

/* False: the other side does not take its answers. */
static bool answer(const struct client *client, const char *reply)
{
    size_t bytes = strlen(reply);

    if (client->reply == STDOUT_FILENO)
        return fwrite(reply, 1, bytes, stdout) == bytes && fflush(stdout) == 0;
    return bytes == 0 || send(client->reply, reply, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes;
}

static void serve_client(struct control *control, struct client *client)
{
    char reply[STATUS_LINE_MAX];
    ssize_t n = read(client->fd, client->line + client->used, sizeof client->line - client->used);
    char *line = client->line, *newline;

    if (n <= 0) {
        control->quit |= client->fd == STDIN_FILENO;
        drop(client);
        return;
    }
    client->used += (size_t)n;
    while ((newline = memchr(line, '\n', client->used)) != NULL) {
        size_t length = (size_t)(newline - line) + 1;
        *newline = '\0';
        run_line(control, line, reply);
        if (!answer(client, reply)) {
            drop(client);
            return;
        }
        line += length;
        client->used -= length;
    }
    memmove(client->line, line, client->used);
    if (client->used == sizeof client->line)
        drop(client);
}

bool control_serve(struct control *control, const struct pollfd *fds, nfds_t nfds)
{
    for (nfds_t n = 0; n < nfds; n++) {
        if (!fds[n].revents)
            continue;
        if (fds[n].fd == control->listen_fd) {
            accept_client(control);
            continue;
        }
        for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++) {
            if (control->client[i].fd == fds[n].fd)
                serve_client(control, &control->client[i]);
        }
    }
    return control->quit;
}
