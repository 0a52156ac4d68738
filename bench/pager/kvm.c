/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see kvm.h. A process for each guest, which starts memvm, talks to it over its standard
 * input and output, and has nothing of the guest's itself: what is measured is memvm's process. Whether memvm
 * embeds the engine, is for KSM or neither is decided when it starts, so opening and enrolling are waiting.
 */
#include "bench/pager/kvm.h"

#include "bench/memvm/payload/page.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_BYTES 8192
#define LOOK_S     0.02
#define CONNECT_S  20.0
#define MILLION    1000000ull

struct kvm {
    const struct guest_config *config;
    pid_t pid;
    int to;
    FILE *from;
    uint64_t ram, npages; /* the data pages: where they are in memvm's process, how many */
    char line[LINE_BYTES];
};

static int complain(const struct kvm *kvm, const char *what, int error)
{
    fprintf(stderr, "pager: memvm %u: %s: %s\n", kvm->config->number, what, strerror(-error));
    return error;
}

/* ---------------------------------------------------------------- memvm */

/* A number of the last line; 0 if there is none. */
static uint64_t number(const struct kvm *kvm, const char *key)
{
    char quoted[64];

    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = strstr(kvm->line, quoted);
    return at ? strtoull(at + strlen(quoted), NULL, 10) : 0;
}

/* The next line that has `what` in it; it says other things, too. */
static int hear(struct kvm *kvm, const char *what)
{
    do
        if (!fgets(kvm->line, sizeof kvm->line, kvm->from))
            return complain(kvm, "it has ended", -EPIPE);
    while (!strstr(kvm->line, what));
    return 0;
}

static int say(struct kvm *kvm, const char *command, const char *answer)
{
    if (dprintf(kvm->to, "%s\n", command) < 0)
        return complain(kvm, command, -errno);
    int err = hear(kvm, answer);
    return !err && strstr(kvm->line, "\"ok\": false") ? complain(kvm, kvm->line, -EINVAL) : err;
}

static int ask_status(struct kvm *kvm)
{
    return say(kvm, "status", "\"event\": \"status\"");
}

static void become_memvm(const struct guest_config *config, int in, int out)
{
    static const char *const how[][3] = {[GUEST_BARE] = {"--no-memd"},
                                         [GUEST_MEMD] = {"--domain", "bench"},
                                         [GUEST_KSM] = {"--no-memd", "--mergeable"}};
    char mem[24], hot[8];
    const char *args[32] = {config->memvm, "--control",  "-",         "--thp",         "off",
                            "--name",      config->name, "--run-dir", config->run_dir, "--image",
                            config->image, "--mem",      mem,         "--hot",         hot,
                            "--seed",      "1"};
    unsigned n = 17;

    snprintf(mem, sizeof mem, "%zu", config->npages * BENCH_PAGE_BYTES / BENCH_MIB);
    snprintf(hot, sizeof hot, "%u", GUEST_HOT_PERCENT);
    for (unsigned i = 0; how[config->kind][i]; i++)
        args[n++] = how[config->kind][i];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    execv(config->memvm, (char **)args);
    _exit(127);
}

static int load(struct kvm *kvm, struct guest_answer *answer)
{
    int in[2], out[2];

    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        return complain(kvm, "pipe", -errno);
    kvm->pid = fork();
    if (kvm->pid < 0)
        return complain(kvm, "fork", -errno);
    if (!kvm->pid)
        become_memvm(kvm->config, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    kvm->to = in[1];
    kvm->from = fdopen(out[0], "re");
    int err = kvm->from ? hear(kvm, "\"event\": \"ready\"") : -ENOMEM;
    if (err)
        return complain(kvm, "it does not start", err);
    kvm->ram = number(kvm, "ram_hva") + number(kvm, "data_offset");
    kvm->npages = number(kvm, "pages");
    answer->value[0] = (double)number(kvm, "ram_hva");
    answer->value[1] = kvm->pid;
    answer->value[2] = (double)kvm->npages;
    return 0;
}

static int connected(struct kvm *kvm)
{
    double until_s = bench_now_s() + CONNECT_S;
    int err;

    while (!(err = ask_status(kvm)) && !strstr(kvm->line, "\"connected\": true")) {
        if (bench_now_s() > until_s)
            return complain(kvm, "its engine did not reach the daemon", -ETIMEDOUT);
        bench_sleep(0.005);
    }
    return err;
}

/* ---------------------------------------------------------------- orders */

static int tell_stats(struct kvm *kvm, struct guest_answer *answer)
{
    int err = ask_status(kvm);
    const double value[GUEST_STATS_N] = {
        [STAT_PARKED] = (double)number(kvm, "parked_pages"),
        [STAT_PACKED] = (double)number(kvm, "packed_pages"),
        [STAT_SWAPPED] = (double)number(kvm, "swapped_pages"),
        [STAT_POOL_BYTES] = (double)number(kvm, "pool_bytes"),
        [STAT_SWAP_BYTES] = (double)number(kvm, "swap_bytes"),
    };

    memcpy(answer->value, value, sizeof value);
    return err;
}

static bool is_hot(const struct kvm *kvm, uint64_t page)
{
    return page_is_hot(page, kvm->npages, GUEST_HOT_PERCENT);
}

static int page_out(const struct kvm *kvm, bool cold_only)
{
    int pidfd = (int)syscall(SYS_pidfd_open, kvm->pid, 0), err = 0;

    for (uint64_t page = 0, end; page < kvm->npages && !err; page = end) {
        for (end = page + 1; end < kvm->npages && is_hot(kvm, end) == is_hot(kvm, page);)
            end++;
        struct iovec range = {(void *)(kvm->ram + page * BENCH_PAGE_BYTES), (end - page) * BENCH_PAGE_BYTES};
        if ((!cold_only || !is_hot(kvm, page)) &&
            syscall(SYS_process_madvise, pidfd, &range, 1, MADV_PAGEOUT, 0) < 0)
            err = complain(kvm, "process_madvise", -errno);
    }
    close(pidfd);
    return err;
}

static int job_once(struct kvm *kvm, uint64_t millions, double *ret_s)
{
    char command[32];

    snprintf(command, sizeof command, "job %lu", millions);
    int err = say(kvm, command, "\"ok\": ");
    if (!err)
        err = hear(kvm, "\"event\": \"job\"");
    *ret_s = (double)number(kvm, "job_ns") * 1e-9;
    return err;
}

static int job(struct kvm *kvm, const struct guest_order *order, struct guest_answer *answer)
{
    uint64_t millions = order->job.accesses / MILLION;
    int err = 0;

    if (millions)
        return job_once(kvm, millions, &answer->value[0]);
    while (!err && bench_now_s() < order->job.until_s)
        err = job_once(kvm, 1, &answer->value[0]);
    return err;
}

/* Every page against its checksum, of its first content: memvm's guest knows it. */
static int check(struct kvm *kvm, struct guest_answer *answer)
{
    int err = ask_status(kvm);
    uint64_t passes = number(kvm, "verify_passes");

    if (!err)
        err = say(kvm, "verify on", "\"ok\": ");
    do
        bench_sleep(LOOK_S);
    while (!err && !(err = ask_status(kvm)) && number(kvm, "verify_passes") == passes);
    answer->value[0] = (double)number(kvm, "verify_failures");
    return err ? err : say(kvm, "verify off", "\"ok\": ");
}

static int carry_out(struct kvm *kvm, const struct guest_order *order, struct guest_answer *answer)
{
    switch (order->op) {
    case GUEST_LOAD:
        return load(kvm, answer);
    case GUEST_OPEN:
        return connected(kvm);
    case GUEST_ENROL: /* since it has started */
        return 0;
    case GUEST_STATS:
        return tell_stats(kvm, answer);
    case GUEST_PAGEOUT:
        return page_out(kvm, order->cold_only);
    case GUEST_JOB:
        return job(kvm, order, answer);
    case GUEST_CHECK:
        return check(kvm, answer);
    default:
        return complain(kvm, "an order it does not know", -EINVAL);
    }
}

void kvm_main(const void *config, int socket)
{
    static struct kvm kvm;
    struct guest_order order;
    int status;

    kvm.config = config;
    while (recv(socket, &order, sizeof order, 0) == sizeof order && order.op != GUEST_END) {
        struct guest_answer answer = {0};
        answer.error = carry_out(&kvm, &order, &answer);
        if (send(socket, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer)
            break;
    }
    if (kvm.pid) {
        close(kvm.to); /* the end of its input is `quit` */
        waitpid(kvm.pid, &status, 0);
    }
    _exit(0);
}
