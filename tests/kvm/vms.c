/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see kit.h. This file: guests, and what the kernel says about their memory. */
#include "tests/kvm/kit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/kvm/spawn.h"

#define ANSWER_MS   90000u
#define POLL_MS     20u
#define PFN_PRESENT (1ull << 63)
#define PFN_MASK    ((1ull << 55) - 1)

/* The next line that starts like this; what else the guest reports is passed over. */
static void read_line(struct kit_vm *vm, const char *start, const char *or_start)
{
    struct spawned child = {.pid = vm->pid, .from = vm->from};

    do
        CHECK(spawn_line(&child, vm->line, sizeof vm->line, kit_patience_ms(ANSWER_MS)),
              "memvm %s does not answer", vm->name);
    while (strncmp(vm->line, start, strlen(start)) && strncmp(vm->line, or_start, strlen(or_start)));
}

void kit_vm_start(const struct kit_daemon *daemon, struct kit_vm *vm, const char *name,
                  const char *const *options)
{
    const char *args[32] = {"memvm", "--run-dir", daemon->run_dir, "--name", name, "--control", "-"};
    static const char ready[] = "{\"event\": \"ready\"";
    struct spawned child;
    size_t n = 7;

    for (; *options; options++)
        args[n++] = *options;
    spawn("memvm", args, &child);
    *vm = (struct kit_vm){.pid = child.pid, .name = name, .to = child.to, .from = child.from};
    read_line(vm, ready, ready);
    vm->hva = (uint64_t)(kit_number(vm->line, "ram_hva") + kit_number(vm->line, "data_offset"));
    vm->pages = (uint64_t)kit_number(vm->line, "pages");
}

static void ask(struct kit_vm *vm, const char *format, va_list args)
{
    char command[128];
    int length = vsnprintf(command, sizeof command - 1, format, args);

    command[length++] = '\n';
    CHECK(write(vm->to, command, (size_t)length) == length, "memvm %s takes no commands: %s", vm->name,
          strerror(errno));
    read_line(vm, "{\"ok\"", "{\"event\": \"status\"");
}

int kit_vm_try(struct kit_vm *vm, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    ask(vm, format, args);
    va_end(args);
    return kit_has(vm->line, "errno") ? -(int)kit_number(vm->line, "errno") : 0;
}

void kit_vm_do(struct kit_vm *vm, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    ask(vm, format, args);
    va_end(args);
    CHECK(!kit_has(vm->line, "errno"), "memvm %s refused %s: %s", vm->name, format, vm->line);
}

int64_t kit_vm_number(struct kit_vm *vm, const char *key)
{
    kit_vm_do(vm, "status");
    return kit_number(vm->line, key);
}

/* Wait until a counter of the guest reaches `value`. */
static void counter_reaches(struct kit_vm *vm, const char *key, int64_t value)
{
    uint64_t end_ms = kit_ms() + kit_patience_ms(ANSWER_MS);
    int64_t now;

    while ((now = kit_vm_number(vm, key)) < value) {
        CHECK(kit_ms() < end_ms, "memvm %s: %s stays at %lld", vm->name, key, (long long)now);
        usleep(POLL_MS * 1000);
    }
}

void kit_vm_verified(struct kit_vm *vm)
{
    int64_t vcpus = kit_vm_number(vm, "vcpus");

    /* A vCPU may be at the end of a pass, and one may be ahead of the others by no bound: with several vCPUs
     * count the pages, twice over, and ask for a pass of each at the same time. */
    int64_t checks = kit_number(vm->line, "verify_checks") + 2 * vcpus * (int64_t)vm->pages;
    counter_reaches(vm, "verify_checks", checks);
    CHECK(kit_number(vm->line, "verify_failures") == 0, "memvm %s found damage: %s", vm->name, vm->line);
}

void kit_vm_rewrite(struct kit_vm *vm)
{
    kit_vm_do(vm, "rewrite");
    counter_reaches(vm, "rewrites_done", kit_number(vm->line, "rewrite"));
}

void kit_vm_end(struct kit_vm *vm)
{
    static const char last[] = "{\"event\": \"exit\"";
    int status;

    kit_vm_do(vm, "quit");
    read_line(vm, last, last);
    status = spawn_end(vm->pid, 0, kit_patience_ms(ANSWER_MS));
    close(vm->to);
    fclose(vm->from);
    vm->pid = 0;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "memvm %s ended with status 0x%x: %s", vm->name,
          (unsigned)status, vm->line);
    CHECK(kit_number(vm->line, "verify_checks") > 0, "memvm %s has checked nothing", vm->name);
    CHECK(kit_number(vm->line, "verify_failures") == 0, "memvm %s found damage", vm->name);
}

void kit_vm_kill(struct kit_vm *vm)
{
    spawn_kill(vm->pid);
    close(vm->to);
    fclose(vm->from);
    vm->pid = 0;
}

/* ---------------------------------------------------------------- what the kernel says */

void kit_pfns(const struct kit_vm *vm, uint64_t first, uint64_t n, uint64_t *ret_pfns)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/proc/%d/pagemap", (int)vm->pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0, "%s: %s", path, strerror(errno));
    ssize_t got =
        pread(fd, ret_pfns, n * sizeof *ret_pfns, (off_t)((vm->hva / KIT_PAGE + first) * sizeof *ret_pfns));
    CHECK(got == (ssize_t)(n * sizeof *ret_pfns), "%s: %s", path, strerror(errno));
    close(fd);
    for (uint64_t i = 0; i < n; i++)
        ret_pfns[i] = ret_pfns[i] & PFN_PRESENT ? ret_pfns[i] & PFN_MASK : 0;
}

void kit_bytes(const struct kit_vm *vm, uint64_t first, uint64_t n, void *ret_bytes)
{
    struct iovec local = {ret_bytes, n * KIT_PAGE};
    struct iovec remote = {(void *)(uintptr_t)(vm->hva + first * KIT_PAGE), n * KIT_PAGE};
    ssize_t got = process_vm_readv(vm->pid, &local, 1, &remote, 1, 0);

    CHECK(got == (ssize_t)(n * KIT_PAGE), "reading memvm %s: %s", vm->name, strerror(errno));
}

uint64_t kit_rollup(pid_t pid, const char *field)
{
    char path[64], line[256];
    uint64_t kib = 0;
    size_t length = strlen(field);
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    file = fopen(path, "r");
    CHECK(file, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, field, length) && line[length] == ':')
            kib = strtoull(line + length + 1, NULL, 10);
    }
    fclose(file);
    return kib * 1024;
}
