/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The working set of a real guest, by memd, against what the guest says it has read.
 *
 * The guest sweeps over its data pages at a rate; within a period it reads rate x period of them, each once,
 * because a sweep over all takes longer. How near the estimate must come: samples are taken in 32 groups of
 * 32 pages, spread evenly over the guest's 64 chunks. Those inside of what was swept are, by the random
 * start, one more or less than they should be: at most 1/32 of all pages, evenly spread, 0.9 points as a
 * standard deviation. Over 8 periods that is 0.3 points; the share is 30% or so, and 10% of it ten times as
 * much. What is left of the 10% is for the time that setting samples aside takes. The guest's pace is
 * measured: the estimate, which follows a rise at once and a fall slowly, has to lie between the slowest
 * period and the quickest, give or take that.
 *
 * memd-test: timeout=120 san=address
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/kvm/kit.h"

#define PERIODS  20
#define WAIT_MS  60000
#define SWEEP_MB "35"

static char text[64 * KIT_LINE_MAX];

static int64_t of_set(const struct kit_daemon *daemon, const char *key)
{
    CHECK(!kit_memctl(daemon, text, sizeof text, KIT_ARGS("working-set", "guest", "--json")), "working-set");
    return kit_number(text, key);
}

static void wait_periods(const struct kit_daemon *daemon, int64_t n)
{
    uint64_t end_ms = kit_ms() + kit_patience_ms(WAIT_MS);

    while (of_set(daemon, "periods") < n) {
        CHECK(kit_ms() < end_ms, "%s", text);
        usleep(50000);
    }
}

/* Bytes in a period: smoothed as the estimate is, and the least and the most. */
struct swept {
    double usual, least, most;
};

/* Over so many periods. */
static struct swept swept_in_period(const struct kit_daemon *daemon, struct kit_vm *vm, unsigned periods)
{
    int64_t period = of_set(daemon, "periods"), pages = kit_vm_number(vm, "sweep_pages");
    struct swept rate = {0}; /* pages a millisecond */
    uint64_t ms = kit_ms();

    for (unsigned i = 1; i <= periods; i++) {
        wait_periods(daemon, ++period);
        int64_t now_pages = kit_vm_number(vm, "sweep_pages");
        uint64_t now_ms = kit_ms();
        double was = (double)(now_pages - pages) / (double)(now_ms - ms);
        rate.usual += (was - rate.usual) / (i < 8 ? i : 8);
        rate.least = i == 1 || was < rate.least ? was : rate.least;
        rate.most = was > rate.most ? was : rate.most;
        pages = now_pages;
        ms = now_ms;
    }
    double bytes = (double)of_set(daemon, "period_ms") * KIT_PAGE;
    return (struct swept){rate.usual * bytes, rate.least * bytes, rate.most * bytes};
}

int main(void)
{
    static struct kit_daemon daemon;
    struct kit_vm vm;

    kit_need_kvm();
    kit_daemon_create(&daemon, KIT_ARGS("--sample-pages", "1024", "--sample-ms", "1000"));
    kit_vm_start(&daemon, &vm, "guest", KIT_ARGS("--mem", "128", "--thp", "off", "--sweep", SWEEP_MB));
    /* what was seen while the guest filled its memory is forgotten after these and the next PERIODS: a
     * period's part in the estimate is 1/8, and 7/8 of that after each further one */
    wait_periods(&daemon, 4);
    struct swept swept = swept_in_period(&daemon, &vm, PERIODS);
    int64_t is = of_set(&daemon, "bytes"), all = of_set(&daemon, "samplable_bytes");
    printf("%.1f MiB swept in a period (%.1f to %.1f), %.1f MiB in use by samples, +/- %.1f, of %.1f\n",
           swept.usual / 0x1p20, swept.least / 0x1p20, swept.most / 0x1p20, (double)is / 0x1p20,
           (double)of_set(&daemon, "error_bytes") / 0x1p20, (double)all / 0x1p20);
    CHECK((double)is > swept.least - 0.1 * swept.usual && (double)is < swept.most + 0.1 * swept.usual,
          "%lld bytes in use, %.0f swept", (long long)is, swept.usual);
    CHECK((double)all > 0.95 * (double)(vm.pages * KIT_PAGE) && all < 128 << 20, "%lld bytes samplable",
          (long long)all);

    /* idle: the estimate goes down slowly, and what is idle shows */
    kit_vm_do(&vm, "stop");
    wait_periods(&daemon, of_set(&daemon, "periods") + 16);
    is = of_set(&daemon, "bytes");
    CHECK((double)is < 0.2 * swept.most, "%lld bytes in use of a guest that stands still", (long long)is);
    kit_vm_do(&vm, "cont");

    CHECK(!kit_memctl(&daemon, text, sizeof text, KIT_ARGS("vm", "show", "guest")), "vm show");
    CHECK(strstr(text, "NOT TOUCHED FOR") && strstr(text, "WAITED FOR"), "%s", text);
    kit_vm_do(&vm, "verify on");
    kit_vm_verified(&vm);
    kit_vm_end(&vm);
    kit_daemon_end(&daemon);
    return 0;
}
