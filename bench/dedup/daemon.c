/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memd, for the run: shipped defaults, but merging is off until the guests are in place. */
#include "bench/dedup/dedup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_BYTES (1u << 20)

/* What a command printed; NULL if it failed. */
static char *run(const char *format, ...)
{
    static char output[OUTPUT_BYTES];
    char command[512];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    FILE *f = popen(command, "re");
    size_t n = f ? fread(output, 1, sizeof output - 1, f) : 0;
    output[n] = '\0';
    return f && !pclose(f) ? output : NULL;
}

void daemon_start(struct daemon *d, const char *build_dir)
{
    char path[128], program[300];

    *d = (struct daemon){.build_dir = build_dir};
    strcpy(d->run_dir, "/dev/shm/memd-bench.XXXXXX");
    if (!mkdtemp(d->run_dir))
        quit("cannot make a directory in /dev/shm: %s", strerror(errno));
    snprintf(path, sizeof path, "%s/memd.conf", d->run_dir);
    FILE *f = fopen(path, "we");
    if (!f || fprintf(f, "[memd]\nmerge = off\n[domain bench]\nuids = %u\n", (unsigned)getuid()) < 0 ||
        fclose(f))
        quit("cannot write %s", path);
    snprintf(program, sizeof program, "%s/memd", build_dir);
    d->pid = fork();
    if (!d->pid) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execl(program, program, "--run-dir", d->run_dir, "--state-dir", d->run_dir, "--config", path,
              "--log-level", "error", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 100; i++) {
        if (run("%s/memctl --run-dir %s status 2>/dev/null", build_dir, d->run_dir))
            return;
        usleep(50000);
    }
    quit("memd did not start");
}

void daemon_merge_on(struct daemon *d)
{
    if (!run("%s/memctl --run-dir %s merge on", d->build_dir, d->run_dir))
        quit("memctl merge on failed");
}

static const char *totals(struct daemon *d)
{
    const char *text = run("%s/memctl --run-dir %s status --json", d->build_dir, d->run_dir);
    const char *at = text ? strstr(text, "\"totals\"") : NULL;

    if (!at)
        quit("memctl status failed");
    return at;
}

bool daemon_is_settled(struct daemon *d)
{
    const char *at = strstr(totals(d), "\"settled\": ");

    return at && !strncmp(at + 11, "true", 4);
}

uint64_t daemon_total(struct daemon *d, const char *key)
{
    char quoted[64];

    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    const char *at = strstr(totals(d), quoted);
    if (!at)
        quit("memctl status has no %s", key);
    return strtoull(at + strlen(quoted), NULL, 10);
}

/* Pss of the mappings of store files in a process. */
static uint64_t store_pss(pid_t pid, const char *dir)
{
    char path[64], line[512];
    uint64_t start, end, kib, sum = 0;
    bool of_store = false;

    snprintf(path, sizeof path, "/proc/%d/smaps", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
            of_store = strstr(line, dir) && strstr(line, ".frames");
        else if (of_store && sscanf(line, "Pss: %" SCNu64, &kib) == 1)
            sum += kib;
        else if (of_store && sscanf(line, "Anonymous: %" SCNu64, &kib) == 1)
            sum -= kib;
    }
    if (f)
        fclose(f);
    return sum * 1024;
}

static uint64_t store_blocks(const char *run_dir)
{
    const char *text = run("find %s/store -type f -printf '%%b\\n' 2>/dev/null", run_dir);
    uint64_t blocks = 0;

    for (char *next; text && *text; text = next + (*next == '\n')) {
        blocks += strtoull(text, &next, 10);
        if (next == text)
            break;
    }
    return blocks * 512;
}

uint64_t daemon_unmapped_store(const struct daemon *d, const struct guests *g)
{
    uint64_t blocks = store_blocks(d->run_dir), mapped = 0;

    for (unsigned i = 0; i < g->n; i++)
        mapped += store_pss(g->pid[i], d->run_dir);
    return blocks > mapped ? blocks - mapped : 0;
}

void daemon_end(struct daemon *d)
{
    if (d->pid > 0) {
        kill(d->pid, SIGTERM);
        waitpid(d->pid, NULL, 0);
    }
    run("rm -rf %s", d->run_dir);
    d->pid = 0;
}
