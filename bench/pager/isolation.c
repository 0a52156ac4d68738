/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see isolation.h. Two guests under memd. The quiet one reads a page of its own that is
 * out every 2 ms; how late it has the page is its stall. The neighbour reads its pages at random as fast as
 * it can, while it is being paged out all the time. Then a third process, with no memory worth mentioning,
 * has as many threads as the neighbour had, of which each takes the share of a CPU that it had (the engine's
 * worker at its lower priority), one more stands for the daemon and memctl; and the quiet guest does the same
 * again.
 */
#include "bench/pager/isolation.h"

#include "bench/common/daemon.h"
#include "bench/common/join.h"
#include "bench/common/kernel.h"
#include "bench/common/report.h"
#include "bench/pager/content.h"
#include "bench/pager/vm.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define NPAGES       16384u
#define PHASE_S      8.0
#define LEAD_S       0.5 /* the neighbour begins so much earlier */
#define MOST         0.97
#define FAULTS_LEAST 1000.0 /* a second: else the neighbour does not thrash */
#define WORKER       "-work"

enum { QUIET, NEIGHBOUR, BURNER, NVMS };

struct load { /* what the neighbour takes: threads */
    unsigned n;
    pid_t tid[GUEST_THREADS_MAX];
    double share[GUEST_THREADS_MAX];
    bool nice[GUEST_THREADS_MAX];
};

static bool thread_read(pid_t pid, const char *tid, const char *file, char *line, size_t bytes)
{
    char path[128];

    snprintf(path, sizeof path, "/proc/%d/task/%s/%s", (int)pid, tid, file);
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(line, (int)bytes, f);
    if (f)
        fclose(f);
    return ok;
}

/* CPU time of each thread, in s, in place of shares. */
static struct load threads_of(pid_t pid)
{
    struct load load = {0};
    char path[64], line[128];
    uint64_t ns;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && load.n < GUEST_THREADS_MAX - 1 && (e = readdir(dir));) {
        if (e->d_name[0] == '.' || !thread_read(pid, e->d_name, "schedstat", line, sizeof line) ||
            sscanf(line, "%" SCNu64, &ns) != 1)
            continue;
        load.tid[load.n] = atoi(e->d_name);
        load.share[load.n] = (double)ns * 1e-9;
        load.nice[load.n++] =
            thread_read(pid, e->d_name, "comm", line, sizeof line) && strstr(line, WORKER) != NULL;
    }
    if (dir)
        closedir(dir);
    return load;
}

/* Of this process and what it has waited for (memctl), and of the daemon. */
static double control_cpu_s(pid_t daemon)
{
    struct rusage self, children;

    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    return (double)kernel_cpu_ns(daemon) * 1e-9 +
           (double)(self.ru_utime.tv_sec + self.ru_stime.tv_sec + children.ru_utime.tv_sec +
                    children.ru_stime.tv_sec) +
           (double)(self.ru_utime.tv_usec + self.ru_stime.tv_usec + children.ru_utime.tv_usec +
                    children.ru_stime.tv_usec) *
               1e-6;
}

static struct load load_between(const struct load *before, const struct load *after, double control_s,
                                double s)
{
    struct load load = *after;

    for (unsigned i = 0; i < after->n; i++) {
        for (unsigned k = 0; k < before->n; k++)
            if (before->tid[k] == after->tid[i])
                load.share[i] -= before->share[k];
        load.share[i] /= s;
    }
    load.share[load.n] = control_s / s;
    load.nice[load.n++] = false;
    return load;
}

static struct guest_answer quiet_end(const struct vm *vm, const char *beside, unsigned round)
{
    struct guest_answer answer = vm_wait(vm);

    report_raw("isolation", answer.value[0], "beside_%s_p50_%u_ns", beside, round);
    report_raw("isolation", answer.value[1], "beside_%s_p99_%u_ns", beside, round);
    report_raw("isolation", answer.value[2], "beside_%s_reads_%u", beside, round);
    return answer;
}

static void quiet_begin(const struct vm *vm, double until_s)
{
    const struct guest_order order = {.op = GUEST_QUIET, .until_s = until_s};

    vm_order(vm, &order);
}

/* All of it is packed. */
static void all_out(const struct bench *bench, const struct vm *vm)
{
    vm_control(bench, vm, "pageout", "");
    vm_wait_for(vm, STAT_PACKED, MOST * (double)vm->npages);
}

static double beside_thrashing(const struct bench *bench, const struct vm *vm, pid_t daemon, unsigned round,
                               struct load *ret_load)
{
    const struct vm *neighbour = &vm[NEIGHBOUR];
    double begun_s = bench_now_s(), until_s = begun_s + LEAD_S + PHASE_S;
    const struct guest_order order = {.op = GUEST_THRASH, .until_s = until_s};
    struct load before = threads_of(neighbour->child.pid);
    double control_s = control_cpu_s(daemon);

    vm_order(neighbour, &order);
    bench_sleep(LEAD_S);
    quiet_begin(&vm[QUIET], until_s);
    while (bench_now_s() < until_s - 0.1)
        vm_control(bench, neighbour, "pageout", "");
    struct guest_answer quiet = quiet_end(&vm[QUIET], "thrashing", round);
    double faults = vm_wait(neighbour).value[0] / (LEAD_S + PHASE_S);
    struct load after = threads_of(neighbour->child.pid);
    *ret_load = load_between(&before, &after, control_cpu_s(daemon) - control_s, LEAD_S + PHASE_S);
    report_raw("isolation", faults, "neighbour_faults_per_s_%u", round);
    if (faults < FAULTS_LEAST)
        bench_die("the neighbour had only %.0f faults a second", faults);
    return quiet.value[1];
}

static double beside_burning(const struct vm *vm, unsigned round, const struct load *load)
{
    double until_s = bench_now_s() + LEAD_S + PHASE_S, sum = 0;
    struct guest_order order = {.op = GUEST_BURN};

    order.burn.until_s = until_s;
    order.burn.nthreads = load->n;
    for (unsigned i = 0; i < load->n; i++) {
        order.burn.share[i] = load->share[i];
        order.burn.nice[i] = load->nice[i];
        sum += load->share[i];
    }
    report_raw("isolation", sum, "cpus_to_burn_%u", round);
    double burnt_s = (double)kernel_cpu_ns(vm[BURNER].child.pid) * 1e-9;
    vm_order(&vm[BURNER], &order);
    bench_sleep(LEAD_S);
    quiet_begin(&vm[QUIET], until_s);
    struct guest_answer quiet = quiet_end(&vm[QUIET], "burning", round);
    vm_wait(&vm[BURNER]);
    burnt_s = (double)kernel_cpu_ns(vm[BURNER].child.pid) * 1e-9 - burnt_s;
    report_raw("isolation", burnt_s / (LEAD_S + PHASE_S), "cpus_burnt_%u", round);
    return quiet.value[1];
}

void isolation_measure(const struct bench *bench)
{
    double thrashing[BENCH_ROUNDS_MAX], burning[BENCH_ROUNDS_MAX];
    const char *image = vm_image_path("isolation");
    struct vm vm[NVMS];

    content_packable(image, NPAGES);
    daemon_configure("swap = off\nmerge = off");
    pid_t daemon = daemon_start(bench);
    for (unsigned i = 0; i < NVMS; i++)
        vm_start(&vm[i], i, image, i == BURNER ? 512 : NPAGES);
    vm_enrol(&vm[QUIET], JOIN_ANY_CPU);
    vm_enrol(&vm[NEIGHBOUR], JOIN_ANY_CPU);
    for (unsigned round = 0; round < bench->rounds; round++) {
        struct load load;
        all_out(bench, &vm[QUIET]);
        thrashing[round] = beside_thrashing(bench, vm, daemon, round, &load);
        all_out(bench, &vm[QUIET]);
        burning[round] = beside_burning(vm, round, &load);
    }
    for (unsigned i = 0; i < NVMS; i++) {
        vm_check(&vm[i]);
        vm_end(&vm[i]);
    }
    daemon_stop(daemon);
    double t = bench_median(thrashing, bench->rounds) / 1e3, b = bench_median(burning, bench->rounds) / 1e3;
    bench_say("stalls of a quiet guest, p99: beside one that thrashes %.0f us, that burns %.0f us", t, b);
    report_value("isolation", b, t, t / b);
}
