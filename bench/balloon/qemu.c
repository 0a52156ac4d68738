/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see qemu.h. A line is a command, a line that begins with OK its answer (QEMU's qtest);
 * an answer comes when the device has done what a register was written for. The device is a legacy virtio
 * device on PCI (virtio 1.3, section 4.1.4.10), whose registers are I/O ports.
 */
#include "bench/balloon/qemu.h"

#include "bench/common/cleanup.h"
#include "bench/common/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM     "qemu-system-x86_64"
#define SLOT        4u
#define PORTS       0xc000u
#define ANSWER_MS   30000
#define LINE_BYTES  128
#define WRITE_BYTES 4096u /* of guest memory in one command */

enum { PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, PCI_COMMAND = 0x04, PCI_BAR0 = 0x10, PCI_IO_MASTER = 0x05 };
enum {
    PORT_FEATURES = 0x04,
    PORT_QUEUE_PFN = 0x08,
    PORT_QUEUE_SIZE = 0x0c,
    PORT_QUEUE_SELECT = 0x0e,
    PORT_NOTIFY = 0x10,
    PORT_STATUS = 0x12
};

struct qemu {
    pid_t pid;
    FILE *socket;
};

static void answer(struct qemu *qemu, char ret_line[LINE_BYTES])
{
    struct pollfd fd = {.fd = fileno(qemu->socket), .events = POLLIN};

    for (;;) {
        if (poll(&fd, 1, ANSWER_MS) != 1 || !fgets(ret_line, LINE_BYTES, qemu->socket))
            bench_die("QEMU does not answer");
        if (!strncmp(ret_line, "OK", 2))
            return;
        if (strncmp(ret_line, "IRQ", 3) != 0)
            bench_die("QEMU says: %s", ret_line);
    }
}

__attribute__((format(printf, 3, 4))) static void command(struct qemu *qemu, char ret_line[LINE_BYTES],
                                                          const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(qemu->socket, format, args);
    va_end(args);
    fputc('\n', qemu->socket);
    if (fflush(qemu->socket))
        bench_die("QEMU: %s", strerror(errno));
    answer(qemu, ret_line);
}

static uint64_t number(const char *line)
{
    return strtoull(line + 2, NULL, 0);
}

static void out(struct qemu *qemu, char size, unsigned port, uint32_t value)
{
    char line[LINE_BYTES];

    command(qemu, line, "out%c 0x%x 0x%" PRIx32, size, port, value);
}

static void pci_write(struct qemu *qemu, unsigned reg, uint32_t value)
{
    out(qemu, 'l', PCI_ADDRESS, 0x80000000u | SLOT << 11 | reg);
    out(qemu, 'l', PCI_DATA, value);
}

static void qemu_write(void *ctx, uint64_t gpa, const void *data, size_t bytes)
{
    static const char digit[] = "0123456789abcdef";
    static char hex[2 * WRITE_BYTES + 1];
    const unsigned char *byte = data;
    char line[LINE_BYTES];

    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < WRITE_BYTES ? bytes - at : WRITE_BYTES;
        for (size_t i = 0; i < n; i++) {
            hex[2 * i] = digit[byte[at + i] >> 4];
            hex[2 * i + 1] = digit[byte[at + i] & 15];
        }
        hex[2 * n] = '\0';
        command(ctx, line, "write 0x%" PRIx64 " 0x%zx 0x%s", gpa + at, n, hex);
    }
}

static uint16_t qemu_read16(void *ctx, uint64_t gpa)
{
    char line[LINE_BYTES];

    command(ctx, line, "readw 0x%" PRIx64, gpa);
    return (uint16_t)number(line);
}

static void qemu_notify(void *ctx)
{
    out(ctx, 'w', PORTS + PORT_NOTIFY, DRIVER_INFLATE);
}

static uint64_t qemu_cpu_ns(void *ctx)
{
    const struct qemu *qemu = ctx;

    return kernel_cpu_ns(qemu->pid);
}

static uint64_t qemu_pss(const struct qemu *qemu)
{
    struct kernel_rollup rollup = {0};

    kernel_add_rollup(qemu->pid, &rollup);
    return rollup.pss_anon;
}

static void execute(int socket)
{
    char memory[32], chardev[64], device[96];

    cleanup_child();
    snprintf(memory, sizeof memory, "%luM", DRIVER_RAM_BYTES / BENCH_MIB);
    snprintf(chardev, sizeof chardev, "socket,id=qtest,fd=%d", socket);
    snprintf(device, sizeof device, "virtio-balloon-pci,disable-modern=on,disable-legacy=off,addr=%u", SLOT);
    if (fcntl(socket, F_SETFD, 0))
        _exit(127);
    execlp(PROGRAM, PROGRAM, "-machine", "pc,accel=tcg", "-S", "-m", memory, "-nodefaults", "-display",
           "none", "-chardev", chardev, "-qtest", "chardev:qtest", "-qtest-log", "none", "-device", device,
           (char *)NULL);
    fprintf(stderr, "%s: %s\n", PROGRAM, strerror(errno));
    _exit(127);
}

static void qemu_open(struct qemu *qemu)
{
    char line[LINE_BYTES];
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        bench_die("socketpair: %s", strerror(errno));
    fflush(stdout);
    qemu->pid = fork();
    if (qemu->pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (qemu->pid == 0)
        execute(ends[1]);
    cleanup_add(qemu->pid);
    close(ends[1]);
    qemu->socket = fdopen(ends[0], "r+e");
    if (!qemu->socket)
        bench_die("fdopen: %s", strerror(errno));
    setvbuf(qemu->socket, NULL, _IOFBF, 4 * WRITE_BYTES);

    command(qemu, line, "memset 0x%x 0x%x 0", DRIVER_RING_GPA, DRIVER_PAGES_GPA - DRIVER_RING_GPA);
    for (uint64_t at = 0; at < DRIVER_PAGES * 4096ul; at += 16 * BENCH_MIB)
        command(qemu, line, "memset 0x%" PRIx64 " 0x%lx 0x55", DRIVER_PAGES_GPA + at, 16 * BENCH_MIB);
    pci_write(qemu, PCI_BAR0, PORTS);
    pci_write(qemu, PCI_COMMAND, PCI_IO_MASTER);
    out(qemu, 'b', PORTS + PORT_STATUS, 1);
    out(qemu, 'b', PORTS + PORT_STATUS, 3);
    out(qemu, 'l', PORTS + PORT_FEATURES, 0);
    out(qemu, 'w', PORTS + PORT_QUEUE_SELECT, DRIVER_INFLATE);
    command(qemu, line, "inw 0x%x", PORTS + PORT_QUEUE_SIZE);
    if (number(line) != DRIVER_ENTRIES)
        bench_die("QEMU's balloon has a queue of %" PRIu64 " entries, not %u", number(line), DRIVER_ENTRIES);
    out(qemu, 'l', PORTS + PORT_QUEUE_PFN, DRIVER_RING_GPA / 4096);
    out(qemu, 'b', PORTS + PORT_STATUS, 7);
}

static void qemu_close(struct qemu *qemu)
{
    kill(qemu->pid, SIGKILL);
    waitpid(qemu->pid, NULL, 0);
    cleanup_remove(qemu->pid);
    fclose(qemu->socket);
}

struct inflated qemu_inflate(const struct trace *trace)
{
    struct qemu qemu;
    const struct driver_host host = {&qemu, qemu_write, qemu_read16, qemu_notify, qemu_cpu_ns};

    qemu_open(&qemu);
    uint64_t before = qemu_pss(&qemu);
    struct inflated result = {.cpu_ns = driver_inflate(&host, trace), .bytes = trace->n * 4096ul};
    uint64_t after = qemu_pss(&qemu);
    result.returned_bytes = before > after ? before - after : 0;
    qemu_close(&qemu);
    return result;
}
