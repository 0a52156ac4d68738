/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see ksm.h. Zero pages: KSM either merges them like others, at most 256 mappings to a
 * page, or maps the kernel's zero page (use_zero_pages). The latter saves the comparison and the tree, and
 * counts as nothing in PSS: it is the faster and smaller of the two, and it is what is used.
 */
#include "bench/common/ksm.h"

#include "bench/common/kernel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DIR "/sys/kernel/mm/ksm/"

const struct ksm_pace ksm_fastest = {.pages_to_scan = 100000, .sleep_ms = 0, .smart_scan = true};

/* In the order they are put back: pages_to_scan can't be set under an advisor, `run` goes last. */
enum { ADVISOR, PAGES, SLEEP, SMART, ZERO, RUN, NSETTINGS };
static const char *const names[NSETTINGS] = {
    [PAGES] = "pages_to_scan", [SLEEP] = "sleep_millisecs", [SMART] = "smart_scan",
    [ZERO] = "use_zero_pages", [ADVISOR] = "advisor_mode",  [RUN] = "run",
};
static char saved[NSETTINGS][32]; /* "": this kernel does not have it */

static void get(const char *name, char *text, size_t bytes)
{
    char path[96];

    snprintf(path, sizeof path, DIR "%s", name);
    FILE *f = fopen(path, "re");
    if (!f || !fgets(text, (int)bytes, f))
        text[0] = '\0';
    if (f)
        fclose(f);
    text[strcspn(text, "\n")] = '\0';
}

static int put(const char *name, const char *text)
{
    char path[96];

    snprintf(path, sizeof path, DIR "%s", name);
    FILE *f = fopen(path, "we");
    if (!f)
        return -errno;
    int failed = fputs(text, f) < 0;
    return fclose(f) || failed ? -errno : 0;
}

static void set(int setting, uint64_t value)
{
    char text[32];

    if (!saved[setting][0])
        return;
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    int error = put(names[setting], text);
    if (error)
        bench_die("cannot write %s to " DIR "%s: %s", text, names[setting], strerror(-error));
}

uint64_t ksm_value(const char *file)
{
    char text[32];
    unsigned long long value = 0;

    get(file, text, sizeof text);
    sscanf(text, "%llu", &value);
    return value;
}

/* advisor_mode reads as "[none] scan-time" and is written as one of the words. */
static void pick_chosen(char *text)
{
    char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;

    if (!close)
        return;
    *close = '\0';
    memmove(text, open + 1, (size_t)(close - open));
}

void ksm_save(void)
{
    if (access(DIR "run", W_OK))
        bench_die("KSM can't be set up (" DIR "run: %s); run as root, on a kernel with KSM", strerror(errno));
    if (!kernel_thread_find("ksmd"))
        bench_die("ksmd is not among the processes seen here; run on the host, not in a container");
    if (ksm_value("pages_shared") > 0)
        bench_die("KSM is in use on this machine; end that first (echo 2 >" DIR "run unmerges)");
    for (int i = 0; i < NSETTINGS; i++)
        get(names[i], saved[i], sizeof saved[i]);
    pick_chosen(saved[ADVISOR]);
}

void ksm_restore(void)
{
    int error = put("run", "2");

    for (int i = 0; i < NSETTINGS; i++)
        if (saved[i][0]) {
            int again = put(names[i], saved[i]);
            error = error ? error : again;
        }
    if (error)
        fprintf(stderr, "bench: KSM's settings could not all be put back: %s\n", strerror(-error));
}

void ksm_reset(void)
{
    set(RUN, 2);
    set(RUN, 0);
}

void ksm_run(const struct ksm_pace *pace)
{
    if (saved[ADVISOR][0] && put(names[ADVISOR], "none"))
        bench_die("cannot switch KSM's advisor off");
    set(PAGES, pace->pages_to_scan);
    set(SLEEP, pace->sleep_ms);
    set(SMART, pace->smart_scan);
    set(ZERO, 1);
    set(RUN, 1);
}

void ksm_stop(void)
{
    set(RUN, 0);
}

pid_t ksm_pid(void)
{
    return kernel_thread_find("ksmd");
}
