/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see burn.h. A thread works while it has had less than its share, else it sleeps a bit.
 */
#include "bench/pager/burn.h"

#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 16
#define REST_S      0.0002
#define WORKER_NICE 5 /* as the engine's */

struct burner {
    double share, until_s;
    bool nice;
};

double burn_thread_cpu_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void *burn_share(void *arg)
{
    const struct burner *b = arg;
    double begun_s = bench_now_s(), now_s;

    if (b->nice)
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), WORKER_NICE);
    while ((now_s = bench_now_s()) < b->until_s)
        if (burn_thread_cpu_s() >= b->share * (now_s - begun_s))
            bench_sleep(REST_S);
    return NULL;
}

int burn(const double *share, const bool *nice, unsigned nthreads, double until_s)
{
    struct burner burner[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    unsigned n = 0;
    int err = nthreads > THREADS_MAX ? EINVAL : 0;

    for (; n < nthreads && !err; n += !err) {
        burner[n] = (struct burner){share[n], until_s, nice[n]};
        err = pthread_create(&thread[n], NULL, burn_share, &burner[n]);
    }
    while (n)
        pthread_join(thread[--n], NULL);
    return -err;
}
