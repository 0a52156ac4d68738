/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see vm.h. */
#include "bench/pager/vm.h"

#include "bench/common/daemon.h"
#include "bench/pager/kvm.h"

#include <stdio.h>
#include <string.h>

#define WAIT_S 20.0

const char *vm_image_path(const char *name)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/%s", daemon_work_dir(), name);
    return path;
}

static void start(struct vm *vm, struct guest_config config, void (*serve)(const void *config, int socket))
{
    const struct guest_order order = {.op = GUEST_LOAD};

    *vm = (struct vm){0};
    snprintf(vm->name, sizeof vm->name, "pager%u", config.number);
    config.run_dir = daemon_run_dir();
    config.name = vm->name;
    child_start(&vm->child, config.number, serve, &config);
    struct guest_answer loaded = vm_ask(vm, &order);
    vm->ram = (uint64_t)loaded.value[0];
    vm->pid = (pid_t)loaded.value[1];
    vm->npages = (size_t)loaded.value[2];
}

void vm_start(struct vm *vm, unsigned number, const char *image, size_t npages)
{
    start(vm, (struct guest_config){.number = number, .npages = npages, .image = image}, guest_main);
}

void vm_start_kvm(struct vm *vm, unsigned number, const char *image, size_t npages, const char *memvm,
                  enum guest_kind kind)
{
    struct guest_config config = {
        .number = number, .npages = npages, .image = image, .memvm = memvm, .kind = kind};

    start(vm, config, kvm_main);
}

void vm_end(struct vm *vm)
{
    const struct guest_order order = {.op = GUEST_END};

    vm_order(vm, &order);
    child_wait(&vm->child);
}

void vm_order(const struct vm *vm, const struct guest_order *order)
{
    child_send(&vm->child, order, sizeof *order);
}

struct guest_answer vm_wait(const struct vm *vm)
{
    struct guest_answer answer;

    child_receive(&vm->child, &answer, sizeof answer);
    if (answer.error)
        bench_die("guest %s failed: %s", vm->name, strerror(-answer.error));
    return answer;
}

struct guest_answer vm_ask(const struct vm *vm, const struct guest_order *order)
{
    vm_order(vm, order);
    return vm_wait(vm);
}

double vm_do(const struct vm *vm, enum guest_op op)
{
    const struct guest_order order = {.op = op};

    return vm_ask(vm, &order).value[0];
}

void vm_enrol(const struct vm *vm, int engine_cpu)
{
    const struct guest_order order = {.op = GUEST_OPEN, .engine_cpu = engine_cpu};

    vm_ask(vm, &order);
    vm_do(vm, GUEST_ENROL);
}

double vm_stat(const struct vm *vm, enum guest_stat stat)
{
    const struct guest_order order = {.op = GUEST_STATS};

    return vm_ask(vm, &order).value[stat];
}

void vm_control(const struct bench *bench, const struct vm *vm, const char *words, const char *more)
{
    char all[128];

    snprintf(all, sizeof all, "%s %s %s", words, vm->name, more);
    daemon_control(bench, all);
}

void vm_wait_for(const struct vm *vm, enum guest_stat stat, double at_least)
{
    double until_s = bench_now_s() + WAIT_S;

    while (vm_stat(vm, stat) < at_least) {
        if (bench_now_s() > until_s)
            bench_die("%s: %.0f of %.0f pages are where they should be after %.0f s", vm->name,
                      vm_stat(vm, stat), at_least, WAIT_S);
        bench_sleep(0.002);
    }
}

void vm_check(const struct vm *vm)
{
    double wrong = vm_do(vm, GUEST_CHECK);

    if (wrong > 0)
        bench_die("%.0f pages of %s hold what they should not", wrong, vm->name);
}
