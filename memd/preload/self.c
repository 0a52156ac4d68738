/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who we are, as memd-run has said it in the environment, and what we say to the program's user. track.lock,
 * but for messages. */
#include "memd/preload/self.h"

#include "memd/common/name.h"
#include "memd/engine/maps.h"
#include "memd/wire.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct self self;

/* ---- messages */

/* Only to what was stderr when the program began: it may have closed it, and opened something else. */
static void say_line(const char *line)
{
    struct pollfd p = {STDERR_FILENO, POLLOUT, 0};
    struct stat st;

    if (fstat(STDERR_FILENO, &st) || st.st_dev != self.stderr_dev || st.st_ino != self.stderr_ino)
        return;
    if (poll(&p, 1, 0) != 1) /* a pipe nobody reads is not waited for */
        return;
    ssize_t n = write(STDERR_FILENO, line, strlen(line));
    (void)n;
}

void self_say(const char *what, const char *cure)
{
    char line[512];

    snprintf(line, sizeof line, "memd: %s: %s%s\n", self.name, what, cure);
    say_line(line);
}

void self_log(void *ctx, enum memd_log_level level, const char *message)
{
    (void)ctx;
    if (level <= MEMD_LOG_WARN)
        self_say(message, "");
}

/* ---- core dumps */

#define DUMP_ANON_PRIVATE 1ul
#define DUMP_FILE_PRIVATE 4ul

/* Merged pages are private mappings of a file to the kernel; to the program's user they are memory as any
 * other. */
void self_dump(void)
{
    static const char path[] = "/proc/self/coredump_filter";
    char line[32] = "";
    struct lines l;

    if (!lines_open(&l, path))
        lines_next(&l, line, sizeof line);
    lines_close(&l);
    unsigned long filter = strtoul(line, NULL, 16);
    if (!(filter & DUMP_ANON_PRIVATE) || filter & DUMP_FILE_PRIVATE)
        return;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    snprintf(line, sizeof line, "0x%lx", filter | DUMP_FILE_PRIVATE);
    ssize_t n = write(fd, line, strlen(line));
    (void)n; /* a dump then lacks them */
    close(fd);
}

/* ---- who we are */

static void copy_env(char *to, size_t size, const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    snprintf(to, size, "%s", value && *value ? value : otherwise);
}

/* NAME in the process memd-run became, NAME.PID in all that come from it. */
void self_name(void)
{
    char base[MEMD_NAME_MAX + 1], comm[32] = "program";
    struct lines l;

    if (!lines_open(&l, "/proc/self/comm"))
        lines_next(&l, comm, sizeof comm);
    lines_close(&l);
    copy_env(base, sizeof base, "MEMD_RUN_NAME", comm);
    name_mend(base);
    if (self.run_pid == getpid())
        snprintf(self.name, sizeof self.name, "%s", base);
    else
        snprintf(self.name, sizeof self.name, "%.50s.%d", base, (int)getpid());
}

void self_read(void)
{
    const char *pid = getenv("MEMD_RUN_PID"), *all = getenv("MEMD_RUN_ALL_ANON");
    char dir[sizeof self.run_dir];
    struct stat st;

    self.run_pid = pid ? atoi(pid) : 0;
    self_name();
    copy_env(self.domain, sizeof self.domain, "MEMD_RUN_DOMAIN", "");
    copy_env(dir, sizeof dir, "MEMD_RUN_DIR", WIRE_RUN_DIR);
    if (*dir == '/' || !getcwd(self.run_dir, sizeof self.run_dir))
        snprintf(self.run_dir, sizeof self.run_dir, "%s", dir);
    else /* the program may go elsewhere */
        snprintf(self.run_dir + strlen(self.run_dir), sizeof self.run_dir - strlen(self.run_dir), "/%s", dir);
    self.all_anon = all ? strtoull(all, NULL, 10) : 0;
    if (!fstat(STDERR_FILENO, &st)) {
        self.stderr_dev = st.st_dev;
        self.stderr_ino = st.st_ino;
    }
}
