/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * badfs: a file system whose device is slow, full, fails or lies, at will: for swap files. A FUSE server
 * without a library; needs root. memd-test: helper
 *
 * Use: badfs DIR. Mounts itself there, prints "ready", and takes commands from stdin, answering each with
 * "ok":
 *   read-ms N       reads take so long; any number of them at a time
 *   write-ms N      the same for writes
 *   hold-reads N    1: reads wait until it is 0 again
 *   hold-writes N   the same for writes
 *   read-error N    reads fail with this errno; 0: they do not
 *   write-error N   the same for writes
 *   room N          bytes that files may take together; 0: any. More is ENOSPC
 *   drop-writes N   1: writes are said to be done and are not
 *   held            answers "held N": how many requests wait
 *   used            answers "used BYTES": what files take, those without a name, too
 * Ends, and takes the file system with it, with its stdin.
 *
 * One directory, files in memory, and nothing cached by the kernel (FOPEN_DIRECT_IO). THREADS threads read
 * /dev/fuse, so that one request that sleeps does not keep the others.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREADS   64u
#define FILES_MAX 64u
#define IO_MAX    (256u << 10)
#define ROOT_ID   1u
#define FIRST_ID  2u

struct file {
    int fd; /* a memfd; -1: free */
    bool named;
    char name[64];
    uint64_t lookups; /* the kernel's; without any, and without a name, it is gone */
    unsigned opens;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of files */
static struct file files[FILES_MAX];
static int fuse_fd;
static _Atomic unsigned long read_ms, write_ms, read_error, write_error, room, drop_writes, hold_reads,
    hold_writes, nheld;

static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, ": %s\n", strerror(errno));
    exit(1);
}

/* ---- files; lock held */

static struct file *file_of(uint64_t id)
{
    return id >= FIRST_ID && id < FIRST_ID + FILES_MAX && files[id - FIRST_ID].fd >= 0 ? &files[id - FIRST_ID]
                                                                                       : NULL;
}

static uint64_t id_of(const struct file *f)
{
    return (uint64_t)(f - files) + FIRST_ID;
}

static struct file *file_named(const char *name)
{
    for (unsigned i = 0; i < FILES_MAX; i++)
        if (files[i].fd >= 0 && files[i].named && !strcmp(files[i].name, name))
            return &files[i];
    return NULL;
}

static struct file *file_new(const char *name)
{
    for (unsigned i = 0; i < FILES_MAX; i++) {
        struct file *f = &files[i];
        if (f->fd >= 0)
            continue;
        *f = (struct file){.fd = memfd_create(name, MFD_CLOEXEC), .named = true};
        snprintf(f->name, sizeof f->name, "%s", name);
        return f->fd < 0 ? NULL : f;
    }
    return NULL;
}

static void file_forget(struct file *f)
{
    if (f->named || f->lookups || f->opens)
        return;
    close(f->fd);
    f->fd = -1;
}

static uint64_t used_bytes(void)
{
    uint64_t blocks = 0;
    struct stat st;

    for (unsigned i = 0; i < FILES_MAX; i++)
        if (files[i].fd >= 0 && !fstat(files[i].fd, &st))
            blocks += (uint64_t)st.st_blocks;
    return blocks * 512;
}

static struct fuse_attr attr_of(uint64_t id, const struct file *f)
{
    struct stat st = {0};

    if (f)
        fstat(f->fd, &st);
    return (struct fuse_attr){.ino = id,
                              .size = (uint64_t)st.st_size,
                              .blocks = (uint64_t)st.st_blocks,
                              .mode = f ? S_IFREG | 0600 : S_IFDIR | 0700,
                              .nlink = f && !f->named ? 0 : 1,
                              .blksize = 4096};
}

/* ---- answers */

static void reply(uint64_t unique, int error, const void *data, size_t bytes)
{
    struct fuse_out_header h = {
        .len = (uint32_t)(sizeof h + (error ? 0 : bytes)), .error = -error, .unique = unique};
    static _Thread_local char out[sizeof h + IO_MAX];

    memcpy(out, &h, sizeof h);
    if (data && !error)
        memcpy(out + sizeof h, data, bytes);
    if (write(fuse_fd, out, h.len) < 0 && errno != ENOENT && errno != ENODEV) /* interrupted; unmounted */
        die("badfs: answering");
}

static void reply_entry(uint64_t unique, struct file *f, bool open)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {.entry = {.nodeid = id_of(f), .attr = attr_of(id_of(f), f)},
             .open = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES}};

    f->lookups++;
    f->opens += open;
    reply(unique, 0, &out, open ? sizeof out : sizeof out.entry);
}

/* ---- requests */

static void do_init(const struct fuse_in_header *h, const struct fuse_init_in *in)
{
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
                                .minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor
                                                                               : FUSE_KERNEL_MINOR_VERSION,
                                .flags = (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES) & in->flags,
                                .max_background = THREADS,
                                .congestion_threshold = THREADS,
                                .max_write = IO_MAX / 2,
                                .max_pages = IO_MAX / 2 / 4096};

    reply(h->unique, 0, &out, sizeof out);
}

static void delay(const _Atomic unsigned long *hold, const _Atomic unsigned long *ms)
{
    atomic_fetch_add(&nheld, 1);
    while (atomic_load(hold))
        usleep(1000);
    atomic_fetch_sub(&nheld, 1);
    if (atomic_load(ms))
        usleep((useconds_t)atomic_load(ms) * 1000);
}

static void do_read(const struct fuse_in_header *h, int fd, const struct fuse_read_in *in)
{
    static _Thread_local char data[IO_MAX];
    int error = (int)atomic_load(&read_error);

    delay(&hold_reads, &read_ms);
    ssize_t n = error ? -1 : pread(fd, data, in->size < IO_MAX ? in->size : IO_MAX, (off_t)in->offset);
    reply(h->unique, error ? error : n < 0 ? errno : 0, data, n < 0 ? 0 : (size_t)n);
}

static int store(int fd, const struct fuse_write_in *in)
{
    unsigned long limit = atomic_load(&room);
    int error = (int)atomic_load(&write_error);

    if (error || atomic_load(&drop_writes))
        return error;
    pthread_mutex_lock(&lock);
    bool full = limit && used_bytes() + in->size > limit;
    pthread_mutex_unlock(&lock);
    if (full)
        return ENOSPC;
    return pwrite(fd, in + 1, in->size, (off_t)in->offset) < 0 ? errno : 0;
}

static void do_write(const struct fuse_in_header *h, int fd, const struct fuse_write_in *in)
{
    struct fuse_write_out out = {.size = in->size};

    delay(&hold_writes, &write_ms);
    reply(h->unique, store(fd, in), &out, sizeof out);
}

/* What concerns the directory. False: it does not. */
static bool in_directory(const struct fuse_in_header *h, const char *arg)
{
    const char *name = h->opcode == FUSE_CREATE ? arg + sizeof(struct fuse_create_in) : arg;
    struct fuse_attr_out attr = {.attr = attr_of(ROOT_ID, NULL)};
    struct fuse_open_out open = {0};
    struct file *f;

    if (h->nodeid != ROOT_ID)
        return false;
    switch (h->opcode) {
    case FUSE_GETATTR:
        reply(h->unique, 0, &attr, sizeof attr);
        return true;
    case FUSE_OPENDIR:
        reply(h->unique, 0, &open, sizeof open);
        return true;
    case FUSE_READDIR:
    case FUSE_RELEASEDIR:
        reply(h->unique, 0, NULL, 0);
        return true;
    case FUSE_LOOKUP:
    case FUSE_CREATE:
        f = file_named(name);
        if (!f && h->opcode == FUSE_CREATE)
            f = file_new(name);
        if (f)
            reply_entry(h->unique, f, h->opcode == FUSE_CREATE);
        else
            reply(h->unique, ENOENT, NULL, 0);
        return true;
    case FUSE_UNLINK:
        f = file_named(name);
        if (f) {
            f->named = false;
            file_forget(f);
        }
        reply(h->unique, f ? 0 : ENOENT, NULL, 0);
        return true;
    default:
        return false;
    }
}

/* What concerns a file, but for reading and writing; lock held. */
static void in_file(const struct fuse_in_header *h, struct file *f, const void *arg)
{
    struct fuse_open_out open = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES};
    const struct fuse_fallocate_in *space = arg;
    const struct fuse_setattr_in *set = arg;
    int error = 0;

    switch (h->opcode) {
    case FUSE_OPEN:
        f->opens++;
        reply(h->unique, 0, &open, sizeof open);
        return;
    case FUSE_SETATTR:
        if (set->valid & FATTR_SIZE && ftruncate(f->fd, (off_t)set->size))
            error = errno;
        /* fallthrough */
    case FUSE_GETATTR: {
        struct fuse_attr_out attr = {.attr = attr_of(h->nodeid, f)};
        reply(h->unique, error, &attr, sizeof attr);
        return;
    }
    case FUSE_FALLOCATE:
        error = fallocate(f->fd, (int)space->mode, (off_t)space->offset, (off_t)space->length) ? errno : 0;
        break;
    case FUSE_RELEASE:
        f->opens--;
        reply(h->unique, 0, NULL, 0);
        file_forget(f);
        return;
    case FUSE_FLUSH:
    case FUSE_FSYNC:
        break;
    default:
        error = ENOSYS;
    }
    reply(h->unique, error, NULL, 0);
}

static void forget(uint64_t id, uint64_t nlookup)
{
    struct file *f = file_of(id);

    if (!f)
        return;
    f->lookups -= nlookup;
    file_forget(f);
}

static void statistics(const struct fuse_in_header *h)
{
    unsigned long limit = atomic_load(&room) ? atomic_load(&room) : 1ul << 30;
    uint64_t used = used_bytes(), left = used < limit ? (limit - used) / 4096 : 0;
    struct fuse_statfs_out out = {.st = {.blocks = limit / 4096,
                                         .bfree = left,
                                         .bavail = left,
                                         .bsize = 4096,
                                         .frsize = 4096,
                                         .namelen = 63}};

    reply(h->unique, 0, &out, sizeof out);
}

static void request(const struct fuse_in_header *h)
{
    const struct fuse_batch_forget_in *batch = (const void *)(h + 1);
    const struct fuse_forget_one *one = (const void *)(batch + 1);
    const void *arg = h + 1;

    pthread_mutex_lock(&lock);
    struct file *f = file_of(h->nodeid);
    int fd = f ? f->fd : -1;
    bool io = f && (h->opcode == FUSE_READ || h->opcode == FUSE_WRITE);
    if (h->opcode == FUSE_INIT)
        do_init(h, arg);
    else if (h->opcode == FUSE_FORGET)
        forget(h->nodeid, ((const struct fuse_forget_in *)arg)->nlookup);
    else if (h->opcode == FUSE_BATCH_FORGET)
        for (uint32_t i = 0; i < batch->count; i++)
            forget(one[i].nodeid, one[i].nlookup);
    else if (h->opcode == FUSE_STATFS)
        statistics(h);
    else if (f && !io)
        in_file(h, f, arg);
    else if (!io && h->opcode != FUSE_INTERRUPT && !in_directory(h, arg))
        reply(h->unique, ENOSYS, NULL, 0);
    pthread_mutex_unlock(&lock);
    if (io && h->opcode == FUSE_READ) /* who reads has it open: it stays */
        do_read(h, fd, arg);
    else if (io)
        do_write(h, fd, arg);
}

static void *serve(void *arg)
{
    size_t bytes = IO_MAX + 4096;
    char *in = aligned_alloc(4096, bytes);

    (void)arg;
    while (in) {
        ssize_t n = read(fuse_fd, in, bytes);
        if (n >= (ssize_t)sizeof(struct fuse_in_header))
            request((void *)in);
        else if (n >= 0 || errno == ENODEV)
            break;
    }
    free(in);
    return NULL;
}

/* ---- commands */

static const struct knob {
    const char *name;
    _Atomic unsigned long *value;
} knobs[] = {
    {"read-ms", &read_ms},
    {"write-ms", &write_ms},
    {"read-error", &read_error},
    {"write-error", &write_error},
    {"room", &room},
    {"drop-writes", &drop_writes},
    {"hold-reads", &hold_reads},
    {"hold-writes", &hold_writes},
};

static void command(const char *line)
{
    unsigned long value;
    char name[32];

    if (!strncmp(line, "held", 4)) {
        printf("held %lu\n", atomic_load(&nheld));
        return;
    }
    if (!strncmp(line, "used", 4)) {
        pthread_mutex_lock(&lock);
        printf("used %llu\n", (unsigned long long)used_bytes());
        pthread_mutex_unlock(&lock);
        return;
    }
    if (sscanf(line, "%31s %lu", name, &value) == 2)
        for (unsigned i = 0; i < sizeof knobs / sizeof *knobs; i++)
            if (!strcmp(name, knobs[i].name)) {
                atomic_store(knobs[i].value, value);
                puts("ok");
                return;
            }
    printf("no such command: %s", line);
}

static void mount_at(const char *dir)
{
    char options[96];

    fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse_fd < 0)
        die("/dev/fuse");
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse_fd);
    if (mount("memd-badfs", dir, "fuse", MS_NOSUID | MS_NODEV, options))
        die("mount %s", dir);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    char line[128];

    if (argc != 2)
        return 2;
    for (unsigned i = 0; i < FILES_MAX; i++)
        files[i].fd = -1;
    signal(SIGPIPE, SIG_IGN);
    mount_at(argv[1]);
    for (unsigned i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, serve, NULL))
            die("pthread_create");
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin))
        command(line);
    umount2(argv[1], MNT_DETACH);
    return 0; /* what is still open fails from now on */
}
