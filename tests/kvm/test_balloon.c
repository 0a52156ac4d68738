/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Balloons in running guests: what a guest gives up is the host's again, by the kernel's numbers; what comes
 * back holds zeros; and the guests, which compare all the rest of their memory meanwhile, find no wrong byte
 * while memd merges it and dies.
 *
 * memd-test: timeout=300 san=address
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/kvm/kit.h"

#define MIB 1048576ull

static struct kit_daemon daemon_;

/* Guest memory and frames; of program files a share goes when others run the same program. */
static uint64_t pss(const struct kit_vm *vm)
{
    return kit_rollup(vm->pid, "Pss_Anon") + kit_rollup(vm->pid, "Pss_Shmem");
}

/* Ask for a balloon of this size and wait until the guest has it. */
static void balloon(struct kit_vm *vm, uint64_t bytes)
{
    uint64_t end_ms = kit_ms() + kit_patience_ms(60000);
    int64_t now;

    kit_vm_do(vm, "balloon %llu", (unsigned long long)bytes);
    while ((now = kit_vm_number(vm, "actual_bytes")) != (int64_t)bytes) {
        CHECK(kit_ms() < end_ms, "the balloon of %s holds %lld bytes and should hold %llu", vm->name,
              (long long)now, (unsigned long long)bytes);
        usleep(10000);
    }
}

/* A guest with one vCPU gives up its last pages: none of them may be there any more. */
static uint64_t present(const struct kit_vm *vm, uint64_t first, uint64_t n)
{
    uint64_t *pfns = calloc(n, sizeof *pfns), npresent = 0;

    CHECK(pfns, "no memory");
    kit_pfns(vm, first, n, pfns);
    for (uint64_t i = 0; i < n; i++)
        npresent += pfns[i] != 0;
    free(pfns);
    return npresent;
}

#define CHECK_RETURNED(before, after, bytes)                                                 \
    CHECK((before) >= (after) && (before) - (after) >= (bytes) / 100 * 99,                   \
          "%llu bytes were given up; PSS was %llu and is %llu", (unsigned long long)(bytes), \
          (unsigned long long)(before), (unsigned long long)(after))
#define CHECK_TAKEN(before, after, bytes)                                                \
    CHECK((after) >= (before) && (after) - (before) >= (bytes) / 100 * 99,               \
          "%llu bytes came back; PSS was %llu and is %llu", (unsigned long long)(bytes), \
          (unsigned long long)(before), (unsigned long long)(after))

/* Nothing can be merged: what the balloon holds is exactly what the process loses. */
static void inflate_and_deflate(void)
{
    static struct kit_vm vm;
    uint64_t bytes = 12 * MIB, full, small;

    kit_vm_start(&daemon_, &vm, "own",
                 KIT_ARGS("--balloon", "--mem", "24", "--thp", "off", "--verify", "1000", "--churn", "5"));
    kit_vm_verified(&vm);
    full = pss(&vm);
    for (int round = 0; round < 2; round++) {
        balloon(&vm, bytes);
        CHECK(present(&vm, vm.pages - bytes / KIT_PAGE, bytes / KIT_PAGE) == 0,
              "pages of the balloon are there");
        small = pss(&vm);
        CHECK_RETURNED(full, small, bytes);
        kit_vm_verified(&vm);
        CHECK(present(&vm, vm.pages - bytes / KIT_PAGE, bytes / KIT_PAGE) == 0,
              "pages of the balloon are back");
        balloon(&vm, 0);
        kit_vm_verified(&vm); /* the guest has found zeros and written to all of it */
        CHECK(present(&vm, vm.pages - bytes / KIT_PAGE, bytes / KIT_PAGE) == bytes / KIT_PAGE,
              "pages are missing");
        full = pss(&vm);
        CHECK_TAKEN(small, full, bytes);
    }
    CHECK(kit_vm_number(&vm, "failed_bytes") == 0 && kit_number(vm.line, "bad_pages") == 0, "%s", vm.line);
    CHECK(kit_number(vm.line, "discarded_bytes") == (int64_t)(2 * bytes), "%s", vm.line);
    CHECK(kit_number(vm.line, "inflated_pages") == kit_number(vm.line, "deflated_pages"), "%s", vm.line);

    balloon(&vm, bytes);
    kit_vm_do(&vm, "balloon %llu", (unsigned long long)(22 * MIB)); /* all but what each vCPU keeps */
    kit_vm_verified(&vm);
    CHECK(kit_vm_try(&vm, "balloon %llu", (unsigned long long)(25 * MIB)) < 0, "more than RAM");
    balloon(&vm, 4 * KIT_PAGE);
    kit_vm_end(&vm); /* with pages in the balloon: the last look leaves them out */
}

static void report_and_statistics(void)
{
    static struct kit_vm vm;
    uint64_t bytes = 8 * MIB, offset, full, end_ms;
    int64_t updates;

    kit_vm_start(&daemon_, &vm, "report",
                 KIT_ARGS("--balloon", "--mem", "24", "--vcpus", "2", "--thp", "off", "--verify", "1000"));
    kit_vm_verified(&vm);
    offset = (uint64_t)kit_vm_number(&vm, "data_offset") + 6 * MIB; /* of both vCPUs */
    full = pss(&vm);
    kit_vm_do(&vm, "report %llu %llu", (unsigned long long)offset, (unsigned long long)bytes);
    kit_vm_do(&vm, "verify off"); /* which would read the zero page in; that costs nothing, but is no proof */
    CHECK_RETURNED(full, pss(&vm), bytes);
    CHECK(kit_vm_number(&vm, "reported_bytes") == (int64_t)bytes, "%s", vm.line);
    CHECK(kit_number(vm.line, "discarded_bytes") == (int64_t)bytes, "%s", vm.line);
    kit_vm_do(&vm, "verify 1000");
    kit_vm_rewrite(&vm);
    CHECK_TAKEN(full - bytes, pss(&vm), bytes);

    for (uint64_t size = 0; size <= 8 * MIB; size += 8 * MIB) {
        balloon(&vm, size);
        updates = kit_vm_number(&vm, "stats_updates");
        kit_vm_do(&vm, "ask-stats");
        end_ms = kit_ms() + kit_patience_ms(30000);
        while (kit_vm_number(&vm, "stats_updates") == updates)
            CHECK(kit_ms() < end_ms, "no statistics come: %s", vm.line);
        CHECK(kit_number(vm.line, "guest_total_bytes") == (int64_t)(vm.pages * KIT_PAGE - size), "%s",
              vm.line);
    }
    kit_vm_verified(&vm);
    kit_vm_end(&vm);
}

/* Page numbers from 2^20 on. Almost all of this guest's memory is never touched. */
static void above_4_gib(void)
{
    static struct kit_vm vm;
    char image[256];
    uint64_t bytes = 16 * MIB, empty, full;
    const char *tmp = getenv("MEMD_TEST_TMP");
    int fd;

    snprintf(image, sizeof image, "%s/empty", tmp ? tmp : ".");
    fd = open(image, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && close(fd) == 0, "cannot make %s", image);
    kit_vm_start(&daemon_, &vm, "high",
                 KIT_ARGS("--balloon", "--no-daemon", "--mem", "3200", "--thp", "off", "--image", image));
    balloon(&vm, bytes);
    empty = pss(&vm);
    balloon(&vm, 0);
    balloon(&vm, KIT_PAGE); /* after it, all that came back before was written */
    full = pss(&vm);
    CHECK_TAKEN(empty, full, bytes - KIT_PAGE);
    balloon(&vm, bytes);
    CHECK(kit_vm_number(&vm, "bad_pages") == 0, "%s", vm.line);
    CHECK(present(&vm, vm.pages - bytes / KIT_PAGE, bytes / KIT_PAGE) == 0, "pages of the balloon are there");
    CHECK_RETURNED(full, pss(&vm), bytes - KIT_PAGE);
    kit_vm_end(&vm);
}

/* Balloons of changing size while the same memory is merged, broken and merged again, and while memd dies. */
static void while_memd_merges(void)
{
    static struct kit_vm vms[2];
    static const char *const names[] = {"a", "b"};
    uint64_t rounds = kit_scaled(60, 6), random = 12345;

    for (int g = 0; g < 2; g++)
        kit_vm_start(&daemon_, &vms[g], names[g],
                     KIT_ARGS("--balloon", "--domain", "web", "--mem", "24", "--vcpus", "2", "--thp", "off",
                              "--zero", "20", "--shared", "70", "--toggle", "2", "--verify", "500"));
    kit_total_reaches(&daemon_, "pages_sharing", (int64_t)vms[0].pages / 2);
    for (uint64_t round = 0; round < rounds; round++) {
        if (round == rounds / 2)
            kit_daemon_kill(&daemon_);
        for (int g = 0; g < 2; g++) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            balloon(&vms[g], (random >> 40) % (16 * MIB / KIT_PAGE) * KIT_PAGE);
        }
        if (round == rounds / 2)
            kit_daemon_start(&daemon_, NULL);
    }
    for (int g = 0; g < 2; g++)
        kit_vm_verified(&vms[g]);
    for (int g = 0; g < 2; g++) {
        balloon(&vms[g], 0);
        kit_vm_verified(&vms[g]);
        CHECK(kit_vm_number(&vms[g], "failed_bytes") == 0, "%s", vms[g].line);
        CHECK(kit_number(vms[g].line, "merges") > 0, "nothing was merged: %s", vms[g].line);
        kit_vm_end(&vms[g]);
    }
    kit_total_falls(&daemon_, "vms", 0);
    kit_total_falls(&daemon_, "pages_shared", 0);
}

int main(void)
{
    kit_need_kvm();
    kit_daemon_create(&daemon_, NULL);
    inflate_and_deflate();
    report_and_statistics();
    above_4_gib();
    while_memd_merges();
    kit_daemon_end(&daemon_);
    return 0;
}
