/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see own.h. */
#include "bench/balloon/own.h"

#include "bench/common/daemon.h"
#include "bench/common/join.h"
#include "bench/common/kernel.h"
#include "memd/balloon.h"
#include "memd/memd.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CLOSE_MS 10000u

struct own {
    char *ram;
    struct memd *memd;
    uint32_t region;
    struct memd_balloon *device;
};

static int on_discard(void *ctx, unsigned part, uint64_t offset, uint64_t bytes)
{
    struct own *own = ctx;

    (void)part;
    return memd_discard(own->memd, own->region, offset, bytes);
}

static int on_discard_ranges(void *ctx, unsigned part, const struct memd_balloon_range *ranges, unsigned n)
{
    const struct own *own = ctx;
    struct memd_range range[MEMD_BALLOON_RANGES_MAX];

    (void)part;
    for (unsigned i = 0; i < n; i++)
        range[i] = (struct memd_range){ranges[i].offset, ranges[i].bytes};
    return memd_discard_ranges(own->memd, own->region, range, n);
}

static void on_interrupt(void *ctx, int queue)
{
    (void)ctx, (void)queue;
}

static void own_write(void *ctx, uint64_t gpa, const void *data, size_t bytes)
{
    struct own *own = ctx;

    memcpy(own->ram + gpa, data, bytes);
}

static uint16_t own_read16(void *ctx, uint64_t gpa)
{
    const struct own *own = ctx;
    uint16_t value;

    memcpy(&value, own->ram + gpa, sizeof value);
    return value;
}

static void own_notify(void *ctx)
{
    struct own *own = ctx;

    memd_balloon_kick(own->device, DRIVER_INFLATE);
}

static uint64_t own_cpu_ns(void *ctx)
{
    (void)ctx;
    return kernel_cpu_ns(getpid());
}

static uint64_t own_pss(void)
{
    struct kernel_rollup rollup = {0};

    kernel_add_rollup(getpid(), &rollup);
    return rollup.pss_anon;
}

static void check(int error, const char *what)
{
    if (error)
        bench_die("%s: %s", what, strerror(-error));
}

static void own_open(struct own *own)
{
    struct memd_region_desc desc = {
        .size = sizeof desc, .bytes = DRIVER_RAM_BYTES, .node = -1, .name = "ram"};
    const char *what = NULL;

    own->ram = mmap(NULL, DRIVER_RAM_BYTES, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (own->ram == MAP_FAILED)
        bench_die("there is no memory for a guest");
    madvise(own->ram, DRIVER_RAM_BYTES, MADV_HUGEPAGE); /* as QEMU does */
    memset(own->ram + DRIVER_RING_GPA, 0, DRIVER_PAGES_GPA - DRIVER_RING_GPA);
    memset(own->ram + DRIVER_PAGES_GPA, 0x55, DRIVER_PAGES * 4096ul);
    check(join_memd("balloon", daemon_run_dir(), JOIN_ANY_CPU, &own->memd, &what), what);
    desc.hva = own->ram;
    check(memd_region_add(own->memd, &desc, &own->region), "memd_region_add");

    const struct memd_balloon_ram ram = {.bytes = DRIVER_RAM_BYTES, .hva = own->ram};
    const struct memd_balloon_options options = {.size = sizeof options,
                                                 .features = MEMD_BALLOON_FEATURES_ALL,
                                                 .ram = &ram,
                                                 .nram = 1,
                                                 .discard = on_discard,
                                                 .discard_ranges = on_discard_ranges,
                                                 .interrupt = on_interrupt,
                                                 .ctx = own};
    check(memd_balloon_create(&options, &own->device), "memd_balloon_create");
    memd_balloon_set_status(own->device, 1);
    memd_balloon_set_status(own->device, 3);
    memd_balloon_set_features(own->device, 0);
    check(memd_balloon_set_queue(own->device, DRIVER_INFLATE, DRIVER_ENTRIES, DRIVER_RING_GPA,
                                 DRIVER_RING_GPA + DRIVER_ENTRIES * 16ul, DRIVER_USED_GPA),
          "memd_balloon_set_queue");
    memd_balloon_set_status(own->device, 7);
}

static void own_close(struct own *own)
{
    memd_balloon_destroy(own->device);
    check(memd_close(own->memd, CLOSE_MS), "memd_close");
    munmap(own->ram, DRIVER_RAM_BYTES);
}

struct inflated own_inflate(const struct trace *trace)
{
    struct own own;
    const struct driver_host host = {&own, own_write, own_read16, own_notify, own_cpu_ns};

    own_open(&own);
    uint64_t before = own_pss();
    struct inflated result = {.cpu_ns = driver_inflate(&host, trace), .bytes = trace->n * 4096ul};
    uint64_t after = own_pss();
    result.returned_bytes = before > after ? before - after : 0;
    for (size_t i = 0; i < trace->n; i++)
        if (own.ram[trace->pfn[i] * 4096ul])
            bench_die("page %u was given up, and is not zero", trace->pfn[i]);
    own_close(&own);
    return result;
}
