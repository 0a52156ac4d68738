/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see vm.h and payload/abi.h. Requests are generation numbers in the control page: the
 * main thread stores the arguments, then a new number, then rings the doorbell; each vCPU stores the number
 * in its own page when it is done and notifies. Idle vCPUs sleep on `bell` in ABI_CALL_IDLE; the main thread
 * sleeps on `changed`, or in poll() on event_fd.
 */
#include "bench/memvm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/memvm/payload/page.h"

#define SECOND_NS        1000000000ull
#define ANSWER_MS        60000u
#define HOLD_MS          10000u
#define MISMATCHES_SHOWN 20u

uint64_t vm_clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static struct timespec deadline_in(uint64_t ns)
{
    uint64_t at_ns = vm_clock_ns() + ns;

    return (struct timespec){.tv_sec = (time_t)(at_ns / SECOND_NS), .tv_nsec = (long)(at_ns % SECOND_NS)};
}

static void signal_main(struct vm *vm)
{
    uint64_t one = 1;

    /* Fails only when the counter is full, and then it is readable as it should be. */
    if (write(vm->event_fd, &one, sizeof one) < 0)
        return;
}

/* ---------------------------------------------------------------- set-up */

static int open_image(struct vm *vm)
{
    struct stat st;
    int error;

    vm->image_fd = -1;
    if (!vm->options->image)
        return 0;
    vm->image_fd = open(vm->options->image, O_RDONLY | O_CLOEXEC);
    if (vm->image_fd < 0 || fstat(vm->image_fd, &st) < 0) {
        error = -errno;
        fprintf(stderr, "memvm: image %s: %s\n", vm->options->image, strerror(-error));
        return error;
    }
    vm->image_bytes = (uint64_t)st.st_size;
    return 0;
}

static void init_control_page(struct vm *vm)
{
    const struct options *options = vm->options;
    struct abi_ctl *ctl = vm->ctl;

    ctl->version = ABI_VERSION;
    ctl->nvcpus = (uint32_t)options->vcpus;
    ctl->ram_bytes = vm->ram->bytes;
    ctl->data_first = vm->ram->data_first;
    ctl->data_pages = vm->ram->data_pages;
    ctl->seed = options->seed;
    ctl->zero_percent = (uint32_t)options->zero_percent;
    ctl->synthesize = options->image == NULL;
    ctl->shared_percent = (uint32_t)options->shared_percent;
    ctl->balloon = options->balloon;
    ctl->low_bytes = vm->ram->segment[0].bytes;
    ctl->high_gpa = vm->ram->nsegments > 1 ? vm->ram->segment[1].gpa : 0;
    ctl->hot_percent = (uint32_t)options->hot_percent;
    vm_set_churn(vm, options->churn_ppm);
    vm_set_toggle(vm, options->toggle_ppm);
    vm_set_sweep(vm, options->sweep_mbps);
    vm_set_verify(vm, options->verify, options->verify_mbps);
}

int vm_init(struct vm *vm, const struct options *options, const struct ram *ram, struct engine *engine)
{
    pthread_condattr_t attr;
    int error;

    *vm = (struct vm){.options = options, .ram = ram, .engine = engine};
    vm->ctl = ram_at(ram, ABI_CTL_OFF);
    for (unsigned i = 0; i < ABI_VCPUS_MAX; i++)
        vm->vcpu[i] = ram_at(ram, ABI_VCPU_OFF + i * ABI_PAGE_BYTES);
    error = open_image(vm);
    if (error)
        return error;
    vm->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vm->event_fd < 0) {
        error = -errno;
        fprintf(stderr, "memvm: eventfd: %s\n", strerror(-error));
        return error;
    }
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->bell, &attr);
    pthread_cond_init(&vm->changed, &attr);
    pthread_condattr_destroy(&attr);
    init_control_page(vm);
    error = options->balloon ? balloon_create(vm, &vm->balloon) : 0;
    if (error)
        vm_fini(vm);
    return error;
}

void vm_fini(struct vm *vm)
{
    if (vm->balloon)
        balloon_destroy(vm->balloon);
    if (vm->image_fd >= 0)
        close(vm->image_fd);
    close(vm->event_fd);
    pthread_cond_destroy(&vm->changed);
    pthread_cond_destroy(&vm->bell);
    pthread_mutex_destroy(&vm->lock);
}

/* ---------------------------------------------------------------- calls of the guest */

static bool data_range_ok(const struct vm *vm, uint64_t page, uint64_t npages)
{
    return page < vm->ram->data_pages && npages <= vm->ram->data_pages - page;
}

static uint64_t data_off(const struct vm *vm, uint64_t page)
{
    return (vm->ram->data_first + page) * ABI_PAGE_BYTES;
}

/* Whole pages: the end of an image that ends within a page is padded with the zeros of fresh memory. */
static int64_t call_load(struct vm *vm, uint64_t offset, uint64_t bytes)
{
    uint64_t start = data_off(vm, 0), done = 0;

    if (offset < start || offset % ABI_PAGE_BYTES || offset > vm->ram->bytes ||
        bytes > vm->ram->bytes - offset)
        return -EINVAL;
    while (vm->image_fd >= 0 && done < bytes && offset - start + done < vm->image_bytes) {
        ssize_t n =
            pread(vm->image_fd, ram_at(vm->ram, offset + done), bytes - done, (off_t)(offset - start + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (uint64_t)n;
    }
    return (int64_t)((done + ABI_PAGE_BYTES - 1) / ABI_PAGE_BYTES * ABI_PAGE_BYTES);
}

static void call_idle(struct vm *vm, uint64_t ns, uint64_t doorbell_seen)
{
    struct timespec deadline = deadline_in(ns < SECOND_NS ? ns : SECOND_NS);
    int rc = 0;

    pthread_mutex_lock(&vm->lock);
    while (vm->doorbell == doorbell_seen && rc == 0)
        rc = pthread_cond_timedwait(&vm->bell, &vm->lock, &deadline);
    pthread_mutex_unlock(&vm->lock);
}

static void report_mismatch(struct vm *vm, uint64_t page, const uint64_t arg[ABI_ARGS])
{
    static const char *const where_names[] = {"verify", "the check before a write", "discard",
                                              "the final audit"};
    _Static_assert(sizeof where_names / sizeof *where_names == ABI_WHERE_COUNT, "where_names");
    unsigned where = arg[5] < ABI_WHERE_COUNT ? (unsigned)arg[5] : 0;
    uint64_t nth = atomic_fetch_add(&vm->verify_failures, 1);

    if (nth < MISMATCHES_SHOWN)
        fprintf(stderr,
                "memvm %s: MISMATCH in data page %llu (RAM offset 0x%llx), met by %s: sum expected %016llx, "
                "found "
                "%016llx; written %llu times, word 1 is %llu\n",
                vm->options->name, (unsigned long long)page, (unsigned long long)data_off(vm, page),
                where_names[where], (unsigned long long)arg[1], (unsigned long long)arg[2],
                (unsigned long long)arg[3], (unsigned long long)arg[4]);
    else if (nth == MISMATCHES_SHOWN)
        fprintf(stderr, "memvm %s: further mismatches are only counted\n", vm->options->name);
}

bool vm_call(struct vm *vm, unsigned index, unsigned call)
{
    struct abi_vcpu *vcpu = vm->vcpu[index];
    uint64_t arg[ABI_ARGS];
    int64_t ret = 0;

    memcpy(arg, vcpu->arg, sizeof arg); /* once: the guest could change them while we look */
    switch (call) {
    case ABI_CALL_LOAD:
        ret = call_load(vm, arg[0], arg[1]);
        if (ret < 0)
            vm_fail(vm, index, "loading the image: %s", strerror((int)-ret));
        break;
    case ABI_CALL_IDLE:
        call_idle(vm, arg[0], arg[1]);
        break;
    case ABI_CALL_MISMATCH:
        if (data_range_ok(vm, arg[0], 1))
            report_mismatch(vm, arg[0], arg);
        else
            vm_fail(vm, index, "mismatch reported for no data page (%llu)", (unsigned long long)arg[0]);
        break;
    case ABI_CALL_DISCARD:
        ret = -EINVAL;
        if (data_range_ok(vm, arg[0], arg[1]))
            ret = engine_discard(vm->engine, data_off(vm, arg[0]), arg[1] * ABI_PAGE_BYTES);
        break;
    case ABI_CALL_EXIT:
        return false;
    default:
        vm_fail(vm, index, "unknown call %u", call);
        return false;
    }
    vcpu->ret = ret;
    return true;
}

bool vm_mmio_read(struct vm *vm, uint64_t offset, uint64_t bytes, void *ret_value)
{
    uint64_t now_ns = vm_clock_ns();

    if (offset >= ABI_VIRTIO_OFF)
        return vm->balloon && balloon_read(vm->balloon, offset - ABI_VIRTIO_OFF, bytes, ret_value);
    if (offset != ABI_MMIO_CLOCK || bytes != sizeof now_ns)
        return false;
    memcpy(ret_value, &now_ns, sizeof now_ns);
    return true;
}

/* The lowest generation all vCPUs have finished; `field` is the offset of a ..._done in struct abi_vcpu. */
static uint64_t done_by_all(struct vm *vm, size_t field)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < vm->options->vcpus; i++) {
        _Atomic uint64_t *at = (_Atomic uint64_t *)((char *)vm->vcpu[i] + field);
        /* acquire: pairs with the payload's release, so that what it did before is seen too */
        uint64_t done = atomic_load_explicit(at, memory_order_acquire);
        least = done < least ? done : least;
    }
    return least;
}

#define DONE_BY_ALL(vm, field) done_by_all(vm, offsetof(struct abi_vcpu, field))

bool vm_mmio_write(struct vm *vm, uint64_t offset, uint64_t bytes, const void *value)
{
    if (offset >= ABI_VIRTIO_OFF)
        return vm->balloon && balloon_write(vm->balloon, offset - ABI_VIRTIO_OFF, bytes, value);
    if (offset != ABI_MMIO_NOTIFY || bytes != sizeof(uint64_t))
        return false;
    pthread_mutex_lock(&vm->lock);
    if (vm->job_running && DONE_BY_ALL(vm, job_done) == vm->job_gen) {
        vm->job_running = false;
        vm->job_ns = vm_clock_ns() - vm->job_start_ns;
    }
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    signal_main(vm);
    return true;
}

void vm_fail(struct vm *vm, unsigned index, const char *format, ...)
{
    char message[256];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fprintf(stderr, "memvm %s: vCPU %u: %s\n", vm->options->name, index, message);
    atomic_store(&vm->failed, true);
    signal_main(vm);
}

void vm_left(struct vm *vm)
{
    atomic_fetch_add(&vm->vcpus_left, 1);
    pthread_mutex_lock(&vm->lock);
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    signal_main(vm);
}

/* ---------------------------------------------------------------- requests of the main thread */

/* Announce what was stored in the control page; see struct abi_ctl for the order. */
static void ring(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->doorbell++;
    atomic_store_explicit(&vm->ctl->doorbell, vm->doorbell, memory_order_release);
    pthread_cond_broadcast(&vm->bell);
    pthread_mutex_unlock(&vm->lock);
}

void vm_interrupt(struct vm *vm)
{
    atomic_fetch_add_explicit(&vm->ctl->balloon_irqs, 1, memory_order_release);
    ring(vm);
}

static bool state_is(struct vm *vm, enum abi_state state)
{
    for (unsigned i = 0; i < vm->options->vcpus; i++) {
        if (atomic_load_explicit(&vm->vcpu[i]->state, memory_order_acquire) != state)
            return false;
    }
    return true;
}

static bool is_held(struct vm *vm)
{
    return state_is(vm, ABI_STATE_HELD);
}

static bool is_running(struct vm *vm)
{
    return state_is(vm, ABI_STATE_RUNNING);
}

static bool is_discarded(struct vm *vm)
{
    return DONE_BY_ALL(vm, discard_done) == atomic_load(&vm->ctl->discard_gen);
}

/* Wait until the vCPUs' pages say so. */
static int wait_until(struct vm *vm, bool (*condition)(struct vm *), unsigned timeout_ms)
{
    struct timespec deadline = deadline_in(timeout_ms * 1000000ull);
    int rc = 0;

    pthread_mutex_lock(&vm->lock);
    while (!condition(vm) && rc == 0 && atomic_load(&vm->vcpus_left) == 0)
        rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &deadline);
    if (condition(vm))
        rc = 0;
    else if (rc == 0)
        rc = ESHUTDOWN;
    pthread_mutex_unlock(&vm->lock);
    return -rc;
}

static uint64_t mbps_to_pages(uint64_t mbps)
{
    return mbps * OPTIONS_MEBIBYTE / ABI_PAGE_BYTES;
}

/* A share of the data pages a second, at least one if it is more than nothing. */
static uint64_t ppm_to_pages(const struct vm *vm, uint64_t ppm)
{
    uint64_t pages = (uint64_t)((unsigned __int128)vm->ram->data_pages * ppm / 1000000);

    return ppm > 0 && pages == 0 ? 1 : pages;
}

void vm_set_churn(struct vm *vm, uint64_t ppm)
{
    atomic_store_explicit(&vm->ctl->churn_rate, ppm_to_pages(vm, ppm), memory_order_relaxed);
    ring(vm);
}

void vm_set_toggle(struct vm *vm, uint64_t ppm)
{
    atomic_store_explicit(&vm->ctl->toggle_rate, ppm_to_pages(vm, ppm), memory_order_relaxed);
    ring(vm);
}

void vm_set_sweep(struct vm *vm, uint64_t mbps)
{
    atomic_store_explicit(&vm->ctl->sweep_rate, mbps_to_pages(mbps), memory_order_relaxed);
    ring(vm);
}

void vm_set_verify(struct vm *vm, bool on, uint64_t mbps)
{
    uint64_t rate = !on ? 0 : mbps ? mbps_to_pages(mbps) : ABI_UNLIMITED;

    atomic_store_explicit(&vm->ctl->verify_rate, rate, memory_order_relaxed);
    ring(vm);
}

uint64_t vm_rewrite(struct vm *vm)
{
    uint64_t gen = atomic_fetch_add(&vm->ctl->rewrite_gen, 1) + 1;

    ring(vm);
    return gen;
}

int vm_job(struct vm *vm, uint64_t maccesses, uint64_t *ret_job)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->job_running) {
        pthread_mutex_unlock(&vm->lock);
        return -EBUSY;
    }
    vm->job_running = true;
    vm->job_start_ns = vm_clock_ns();
    vm->job_gen++;
    atomic_store_explicit(&vm->ctl->job_accesses, maccesses * 1000000, memory_order_relaxed);
    atomic_store_explicit(&vm->ctl->job_gen, vm->job_gen, memory_order_release);
    *ret_job = vm->job_gen;
    pthread_mutex_unlock(&vm->lock);
    ring(vm);
    return 0;
}

int vm_discard(struct vm *vm, uint64_t offset, uint64_t bytes, bool report)
{
    uint64_t start = data_off(vm, 0);
    int error;

    if (offset % ABI_PAGE_BYTES || bytes % ABI_PAGE_BYTES || bytes == 0 || offset < start ||
        !data_range_ok(vm, (offset - start) / ABI_PAGE_BYTES, bytes / ABI_PAGE_BYTES))
        return -EINVAL;
    if (report && !vm->balloon)
        return -ENOTSUP;
    if (!is_discarded(vm))
        return -EBUSY; /* an earlier one timed out and is still under way */
    atomic_store_explicit(&vm->ctl->discard_first, (offset - start) / ABI_PAGE_BYTES, memory_order_relaxed);
    atomic_store_explicit(&vm->ctl->discard_pages, bytes / ABI_PAGE_BYTES, memory_order_relaxed);
    atomic_store_explicit(&vm->ctl->discard_report, report, memory_order_relaxed);
    atomic_fetch_add_explicit(&vm->ctl->discard_gen, 1, memory_order_release);
    ring(vm);
    error = wait_until(vm, is_discarded, ANSWER_MS);
    for (unsigned i = 0; i < vm->options->vcpus && !error; i++)
        error = (int)atomic_load(&vm->vcpu[i]->discard_result);
    return error;
}

int vm_hold(struct vm *vm, bool hold)
{
    atomic_store_explicit(&vm->ctl->hold, hold, memory_order_relaxed);
    ring(vm);
    return wait_until(vm, hold ? is_held : is_running, HOLD_MS);
}

void vm_stop(struct vm *vm)
{
    atomic_store(&vm->ctl->stop, 1);
    ring(vm);
}

/* ---------------------------------------------------------------- looking */

struct vm_events vm_take_events(struct vm *vm)
{
    struct vm_events events = {0};
    uint64_t count;

    if (read(vm->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        fprintf(stderr, "memvm: eventfd: %s\n", strerror(errno));
    events.ready = is_running(vm);
    events.ended = atomic_load(&vm->failed) || atomic_load(&vm->vcpus_left) == vm->options->vcpus;
    return events;
}

static const char *state_name(struct vm *vm)
{
    if (atomic_load(&vm->failed))
        return "failed";
    if (is_held(vm))
        return "stopped";
    if (state_is(vm, ABI_STATE_DONE))
        return "done";
    for (unsigned i = 0; i < vm->options->vcpus; i++) {
        if (atomic_load(&vm->vcpu[i]->state) < ABI_STATE_RUNNING)
            return "filling";
    }
    return "running";
}

struct vm_counters vm_count(struct vm *vm)
{
    struct vm_counters sum = {.state = state_name(vm), .verify_failures = atomic_load(&vm->verify_failures)};

    for (unsigned i = 0; i < vm->options->vcpus; i++) {
        const struct abi_vcpu *vcpu = vm->vcpu[i];
        sum.verify_checks += atomic_load_explicit(&vcpu->verify_checks, memory_order_relaxed);
        sum.verify_passes += atomic_load_explicit(&vcpu->verify_passes, memory_order_relaxed);
        sum.churn_writes += atomic_load_explicit(&vcpu->churn_writes, memory_order_relaxed);
        sum.toggle_writes += atomic_load_explicit(&vcpu->toggle_writes, memory_order_relaxed);
        sum.rewrite_writes += atomic_load_explicit(&vcpu->rewrite_writes, memory_order_relaxed);
        sum.sweep_pages += atomic_load_explicit(&vcpu->sweep_pages, memory_order_relaxed);
    }
    sum.rewrites_done = DONE_BY_ALL(vm, rewrite_done);
    pthread_mutex_lock(&vm->lock);
    sum.job_running = vm->job_running;
    sum.jobs_done = vm->job_gen - vm->job_running;
    sum.job_ns = vm->job_ns;
    pthread_mutex_unlock(&vm->lock);
    return sum;
}

uint64_t vm_inject(struct vm *vm, uint64_t choice)
{
    uint64_t page = page_mix(choice, 0) % vm->ram->data_pages;
    uint8_t *byte = ram_at(vm->ram, data_off(vm, page) + page_mix(choice, 1) % ABI_PAGE_BYTES);

    /* Atomic: of a guest's write to the neighbouring bits nothing may get lost, only this bit is to be wrong.
     */
    __atomic_xor_fetch(byte, 1u << (choice % 8), __ATOMIC_SEQ_CST);
    return page;
}

void vm_audit(struct vm *vm)
{
    const struct abi_entry *table = ram_at(vm->ram, ABI_TABLE_OFF);

    for (uint64_t page = 0; page < vm->ram->data_pages; page++) {
        const uint64_t *words = ram_at(vm->ram, data_off(vm, page));
        struct abi_entry entry = table[page];
        uint64_t sum;

        if (entry.ballooned || page_matches(words, vm->options->seed, page, &entry, &sum))
            continue;
        uint64_t arg[ABI_ARGS] = {page, entry.sum, sum, entry.writes, words[1], ABI_WHERE_AUDIT};
        report_mismatch(vm, page, arg);
    }
}
