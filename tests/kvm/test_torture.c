/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lost-write torture with vCPUs: two guests of one domain change single words of pages that keep coming back
 * to the same few contents, so that everything is merged again and again, while this test unmerges, discards,
 * pins, re-enrols and has pages healed as fast as it goes. Every write of the guest is preceded by a check of
 * the whole page, so one lost update is one failure.
 *
 * memd-test: timeout=450 san=address
 */
#include <unistd.h>

#include "tests/kvm/kit.h"

#define MERGES_FULL 1000000u
#define LIMIT_MS    400000u /* at the scale of `make check` */
#define ROUND_MS    2000u
#define NIBBLE_US   10000u
#define GUESTS      2

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (*state >> 33) % bound;
}

/* A random range of 1 to 64 pages of the guest's data, as the arguments of a command. */
static const char *range(const struct kit_vm *vm, uint64_t *state, uint64_t data_offset)
{
    static char text[64];
    uint64_t n = 1 + random_below(state, 64), first = random_below(state, vm->pages - n);

    snprintf(text, sizeof text, "%llu %llu", (unsigned long long)(data_offset + first * KIT_PAGE),
             (unsigned long long)(n * KIT_PAGE));
    return text;
}

/* Small acts against one guest while it is being merged: by the guest itself, for a device, by the VMM. A
 * refusal with a reason (pages busy) is no failure: what counts is the content. */
static void nibble(struct kit_vm *vm, uint64_t data_offset, uint64_t *state)
{
    const char *where = range(vm, state, data_offset);

    switch (random_below(state, 8)) {
    case 0:
        if (kit_vm_try(vm, "pin %s", where) == 0)
            kit_vm_do(vm, "unpin %s", where);
        break;
    case 1:
        kit_vm_do(vm, "pause");
        kit_vm_do(vm, "resume");
        break;
    default:
        kit_vm_do(vm, "discard %s", where);
    }
}

/* Everything anew: given up by the guest, or back into private memory by the VMM or by the operator, and on
 * again. */
static void renew(const struct kit_daemon *daemon, struct kit_vm *vm, uint64_t data_offset, uint64_t round)
{
    char text[KIT_LINE_MAX];

    switch (round % 4) {
    case 0:
        if (kit_vm_try(vm, "unmerge") == 0)
            kit_vm_do(vm, "enrol");
        break;
    case 1:
        kit_memctl(daemon, text, sizeof text, KIT_ARGS("unmerge", vm->name));
        CHECK(kit_memctl(daemon, text, sizeof text, KIT_ARGS("merge", "on", vm->name)) == 0, "merge on");
        break;
    default:
        kit_vm_do(vm, "discard %llu %llu", (unsigned long long)data_offset,
                  (unsigned long long)(vm->pages * KIT_PAGE));
    }
}

static uint64_t merges_of(struct kit_vm *vm)
{
    kit_vm_do(vm, "status");
    CHECK(kit_number(vm->line, "verify_failures") == 0, "%s lost an update: %s", vm->name, vm->line);
    return (uint64_t)(kit_number(vm->line, "merges") + kit_number(vm->line, "zero_drops"));
}

/* Disturb a guest until most of it has been merged again, or for a while. */
static void disturb(struct kit_vm *vm, uint64_t data_offset, uint64_t *state)
{
    uint64_t enough = merges_of(vm) + vm->pages / 2, end_ms = kit_ms() + ROUND_MS;

    do {
        nibble(vm, data_offset, state);
        usleep(NIBBLE_US); /* every call into the engine interrupts its worker: let it work, too */
    } while (merges_of(vm) < enough && kit_ms() < end_ms);
}

static void print_counts(struct kit_vm *vm)
{
    static const char *const keys[] = {"toggle_writes", "verify_checks", "merges", "zero_drops",
                                       "cow_breaks",    "heals",         "faults", "rejected"};

    kit_vm_do(vm, "status");
    printf("%s:", vm->name);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        printf(" %s %lld", keys[i], (long long)kit_number(vm->line, keys[i]));
    putchar('\n');
}

int main(void)
{
    static const char *const names[GUESTS] = {"t1", "t2"};
    uint64_t wanted = kit_scaled(MERGES_FULL, 20000), state = 1, start_ms, limit_ms;
    uint64_t rounds = 0, merges = 0, data_offset = 0;
    static struct kit_daemon daemon;
    struct kit_vm vms[GUESTS];

    kit_need_kvm();
    kit_daemon_create(&daemon, KIT_ARGS("--quiet-ms", "1", "--round-ms-max", "10", "--heal-rate", "1000000",
                                        "--cpu-cap", "2"));
    for (int g = 0; g < GUESTS; g++) {
        kit_vm_start(&daemon, &vms[g], names[g],
                     KIT_ARGS("--domain", "web", "--mem", "32", "--vcpus", "2", "--thp", g ? "on" : "off",
                              "--zero", "20", "--shared", "100", "--toggle", "20", "--verify", "50"));
        data_offset = (uint64_t)kit_number(vms[g].line, "data_offset");
    }
    start_ms = kit_ms();
    limit_ms = kit_patience_ms(kit_scaled(10 * LIMIT_MS, LIMIT_MS));
    for (; merges < wanted; rounds++) {
        for (int g = 0; g < GUESTS; g++)
            disturb(&vms[g], data_offset, &state);
        merges = merges_of(&vms[0]) + merges_of(&vms[1]);
        renew(&daemon, &vms[rounds % GUESTS], data_offset, rounds / GUESTS);
        CHECK(kit_ms() - start_ms < limit_ms, "%llu merges of %llu wanted in %llu s",
              (unsigned long long)merges, (unsigned long long)wanted, (unsigned long long)(limit_ms / 1000));
    }
    printf("%llu merges in %llu rounds, %llu s\n", (unsigned long long)merges, (unsigned long long)rounds,
           (unsigned long long)(kit_ms() - start_ms) / 1000);
    for (int g = 0; g < GUESTS; g++) {
        print_counts(&vms[g]);
        kit_vm_verified(&vms[g]);
        kit_vm_end(&vms[g]);
    }
    kit_daemon_end(&daemon);
    return 0;
}
