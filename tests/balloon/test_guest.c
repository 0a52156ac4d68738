/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The three halves together and without KVM: the driver for small guests, memvm's virtio-mmio registers, the
 * device; and the registers alone, against a guest that writes anything into them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "balloon-driver/guest/balloon.h"
#include "bench/memvm/vm.h"
#include "memd/memd.h"

#define FIRST_PFN 2048u /* 8 MiB */
#define ALL       (BALLOON_F_MUST_TELL_HOST | BALLOON_F_STATS | BALLOON_F_POISON | BALLOON_F_REPORTING)

/* memvm without vCPUs. */
struct machine_ {
    struct options options;
    struct ram ram;
    struct engine engine;
    struct vm vm;
    struct balloon_guest guest;
};

static uint32_t reg_read(void *ctx, uint32_t offset)
{
    struct machine_ *m = ctx;
    uint32_t value = 0;

    assert_true(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF + offset, sizeof value, &value));
    return value;
}

static void reg_write(void *ctx, uint32_t offset, uint32_t value)
{
    struct machine_ *m = ctx;

    assert_true(vm_mmio_write(&m->vm, ABI_VIRTIO_OFF + offset, sizeof value, &value));
}

static void relax(void *ctx)
{
    (void)ctx;
    fail_msg("the device works while it is notified: there is nothing to wait for");
}

static const struct balloon_ops ops = {reg_read, reg_write, relax};

static struct machine_ *machine(void)
{
    char *argv[] = {"memvm", "--balloon", "--no-memd", "--mem", "16", "--thp", "off", "--name", "test", NULL};
    struct machine_ *m = calloc(1, sizeof *m);

    assert_non_null(m);
    optind = 0; /* getopt starts again */
    assert_int_equal(options_parse(9, argv, &m->options), 0);
    assert_int_equal(ram_create(&m->options, &m->ram), 0);
    assert_int_equal(engine_open(&m->engine, &m->options, &m->ram), 0);
    assert_int_equal(vm_init(&m->vm, &m->options, &m->ram, &m->engine), 0);
    return m;
}

static void end(struct machine_ *m)
{
    vm_fini(&m->vm);
    ram_destroy(&m->ram);
    free(m);
}

static int start(struct machine_ *m, uint32_t features, uint32_t poison, int as_linux)
{
    return balloon_start(&m->guest, &ops, m, ram_at(&m->ram, ABI_BALLOON_OFF), ABI_BALLOON_OFF, features,
                         poison, as_linux);
}

static void fill(struct machine_ *m, uint32_t pfn, uint32_t n)
{
    memset(ram_at(&m->ram, pfn * ABI_PAGE_BYTES), 0x5a, n * ABI_PAGE_BYTES);
}

static uint8_t byte_of(struct machine_ *m, uint32_t pfn)
{
    return *(uint8_t *)ram_at(&m->ram, pfn * ABI_PAGE_BYTES + 77);
}

/* Everything a driver does, whichever way it numbers its queues and with any set of features. */
static void a_drivers_day(struct machine_ *m, uint32_t features, int as_linux)
{
    uint32_t pfns[BALLOON_PAGES_MAX];
    struct memd_balloon_info before, now;

    assert_int_equal(start(m, features, 0, as_linux), BALLOON_OK);
    assert_int_equal(m->guest.features, features);
    before = balloon_info(m->vm.balloon);
    assert_int_equal(balloon_set_target(m->vm.balloon, 3 * ABI_PAGE_BYTES), 0);
    assert_int_equal(balloon_target(&m->guest), 3);
    balloon_poll(&m->guest);

    for (uint32_t i = 0; i < BALLOON_PAGES_MAX; i++)
        pfns[i] = FIRST_PFN + BALLOON_PAGES_MAX - 1 - i;
    for (unsigned round = 0; round < 5; round++) { /* the rings are two entries long */
        fill(m, FIRST_PFN, BALLOON_PAGES_MAX + 1);
        assert_int_equal(balloon_inflate(&m->guest, pfns, BALLOON_PAGES_MAX), BALLOON_OK);
        balloon_set_actual(&m->guest, BALLOON_PAGES_MAX);
        assert_int_equal(balloon_info(m->vm.balloon).actual_bytes, BALLOON_PAGES_MAX * ABI_PAGE_BYTES);
        assert_int_equal(byte_of(m, FIRST_PFN), 0);
        assert_int_equal(byte_of(m, FIRST_PFN + BALLOON_PAGES_MAX), 0x5a);
        assert_int_equal(balloon_deflate(&m->guest, pfns, BALLOON_PAGES_MAX), BALLOON_OK);

        fill(m, FIRST_PFN, 1);
        assert_int_equal(balloon_report(&m->guest, FIRST_PFN * ABI_PAGE_BYTES, ABI_PAGE_BYTES),
                         features & BALLOON_F_REPORTING ? BALLOON_OK : BALLOON_REFUSED);
        assert_int_equal(byte_of(m, FIRST_PFN), features & BALLOON_F_REPORTING ? 0 : 0x5a);
    }
    now = balloon_info(m->vm.balloon);
    assert_int_equal(now.inflated_pages - before.inflated_pages, 5 * BALLOON_PAGES_MAX);
    assert_int_equal(now.deflated_pages - before.deflated_pages, 5 * BALLOON_PAGES_MAX);
    assert_int_equal(now.discards - before.discards, features & BALLOON_F_REPORTING ? 10 : 5);
    assert_int_equal(now.skipped_pages + now.bad_descriptors + now.needs_reset, 0);
}

static void drivers_of_all_kinds(void **state)
{
    struct machine_ *m = machine();

    (void)state;
    for (unsigned kind = 0; kind < 16; kind++) {
        uint32_t features = (kind & 1 ? BALLOON_F_STATS : 0) | (kind & 2 ? BALLOON_F_REPORTING : 0) |
                            (kind & 4 ? BALLOON_F_MUST_TELL_HOST : 0);
        a_drivers_day(m, features, kind & 8);
    }
    balloon_stop(&m->guest);
    assert_int_equal(balloon_info(m->vm.balloon).running, 0);
    assert_int_equal(balloon_info(m->vm.balloon).actual_bytes, 0);
    end(m);
}

static void statistics_come_when_they_are_asked_for(void **state)
{
    struct machine_ *m = machine();

    (void)state;
    assert_int_equal(start(m, ALL, 0, 0), BALLOON_OK);
    for (uint64_t value = 1; value < 6; value++) {
        const struct balloon_stat stats[] = {{77, 1}, {5, value}};
        balloon_send_stats(&m->guest, stats, 2);
        assert_int_equal(balloon_poll(&m->guest), 0);
        assert_int_equal(balloon_stat(m->vm.balloon, MEMD_BALLOON_TOTAL_BYTES), value);
        assert_int_equal(balloon_ask_stats(m->vm.balloon), 0);
        assert_int_equal(balloon_poll(&m->guest), BALLOON_STATS_WANTED);
    }
    end(m);
}

static void interrupts_ring_the_doorbell(void **state)
{
    struct machine_ *m = machine();
    uint64_t irqs = atomic_load(&m->vm.ctl->balloon_irqs);

    (void)state;
    assert_int_equal(start(m, ALL, 0, 0), BALLOON_OK);
    assert_int_equal(balloon_set_target(m->vm.balloon, ABI_PAGE_BYTES), 0);
    assert_int_equal(atomic_load(&m->vm.ctl->balloon_irqs), irqs + 1);
    assert_int_equal(balloon_poll(&m->guest), BALLOON_CONFIG_CHANGED);
    assert_int_equal(balloon_poll(&m->guest), 0);
    end(m);
}

static void poison_reaches_the_device(void **state)
{
    struct machine_ *m = machine();

    (void)state;
    assert_int_equal(start(m, ALL, 0x5a5a5a5a, 0), BALLOON_OK);
    assert_int_equal(balloon_info(m->vm.balloon).poison_value, 0x5a5a5a5a);
    fill(m, FIRST_PFN, 1);
    assert_int_equal(balloon_report(&m->guest, FIRST_PFN * ABI_PAGE_BYTES, ABI_PAGE_BYTES), BALLOON_OK);
    assert_int_equal(byte_of(m, FIRST_PFN), 0x5a);
    end(m);
}

static void a_broken_device_is_noticed(void **state)
{
    struct machine_ *m = machine();
    const uint32_t pfn = FIRST_PFN;

    (void)state;
    assert_int_equal(start(m, ALL, 0, 0), BALLOON_OK);
    m->guest.ring[BALLOON_INFLATE].avail += 100;
    assert_int_equal(balloon_inflate(&m->guest, &pfn, 1), BALLOON_BROKEN);
    assert_int_equal(start(m, ALL, 0, 0), BALLOON_OK); /* resets it */
    assert_int_equal(balloon_inflate(&m->guest, &pfn, 1), BALLOON_OK);
    end(m);
}

static void odd_accesses_are_refused(void **state)
{
    struct machine_ *m = machine();
    uint64_t value = 0;

    (void)state;
    assert_false(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF, 8, &value));
    assert_false(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF, 2, &value));
    assert_false(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF + 2, 4, &value));
    assert_false(vm_mmio_write(&m->vm, ABI_VIRTIO_OFF + 0x70, 1, &value));
    assert_false(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF + ABI_VIRTIO_BYTES, 4, &value));
    assert_false(vm_mmio_write(&m->vm, UINT64_MAX, 4, &value));
    assert_true(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF + 0x101, 1, &value)); /* of the configuration any byte */
    assert_true(vm_mmio_read(&m->vm, ABI_VIRTIO_OFF + ABI_VIRTIO_BYTES - 1, 4, &value));
    end(m);
}

/* No value in any register harms anything but the guest's own balloon. */
static void any_value_in_any_register(void **state)
{
    static const uint32_t odd[] = {0, 1, 2, 3, 4, 8, 11, 15, 64, 256, 0x10000, 0xd0000, 0xfffff0, UINT32_MAX};
    struct machine_ *m = machine();

    (void)state;
    srand(3);
    for (unsigned round = 0; round < 300000; round++) {
        uint32_t offset = (uint32_t)rand() % (ABI_VIRTIO_BYTES / 8) * 4, value = odd[(size_t)rand() % 14];
        reg_write(m, offset, rand() % 8 ? value : (uint32_t)rand() * 3);
        reg_read(m, offset);
        if (round % 1000 == 0)
            assert_int_equal(start(m, ALL, 0, round % 2000 == 0), BALLOON_OK);
    }
    a_drivers_day(m, ALL & ~BALLOON_F_POISON, 0);
    end(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drivers_of_all_kinds),
        cmocka_unit_test(statistics_come_when_they_are_asked_for),
        cmocka_unit_test(interrupts_ring_the_doorbell),
        cmocka_unit_test(poison_reaches_the_device),
        cmocka_unit_test(a_broken_device_is_noticed),
        cmocka_unit_test(odd_accesses_are_refused),
        cmocka_unit_test(any_value_in_any_register),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
