/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* doctor: the checks. Each fix is a command for a root shell wherever one exists. See doctor.h. */
#include "memd/ctl/doctor.h"

#include "memd/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define GUEST_BYTES_DEFAULT (4ull << 30)
#define MEMLOCK_BYTES_MIN   (8ull << 20) /* the kernel's default, which memd's engine is made to fit */

/* A guest page in this many starts or ends a mapping of memd's: a quarter of real guests' pages are
 * duplicates in runs of nine, and a run costs two mappings. */
#define PAGES_PER_MAPPING 18
#define MAPPINGS_SHARE    2 /* memd uses one mapping in this many: --vmas-percent, as shipped */

__attribute__((format(printf, 3, 4))) static void found(struct finding *finding, enum finding_level level,
                                                        const char *format, ...)
{
    va_list args;

    finding->level = level;
    va_start(args, format);
    vsnprintf(finding->text, sizeof finding->text, format, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void fix(struct finding *finding, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(finding->fix, sizeof finding->fix, format, args);
    va_end(args);
}

/* The first `bytes` - 1 of a file as text. 0 or -errno. */
static int read_text(const char *root, const char *name, char *text, size_t bytes)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return -errno;
    size_t got = fread(text, 1, bytes - 1, file);
    text[got] = 0;
    fclose(file);
    return 0;
}

static int read_number(const char *root, const char *name, uint64_t *ret_number)
{
    char text[64], *end;
    int result = read_text(root, name, text, sizeof text);

    if (result)
        return result;
    uint64_t number = strtoull(text, &end, 10);
    if (end == text)
        return -EINVAL;
    *ret_number = number;
    return 0;
}

/* ---------------------------------------------------------------- gathering */

static uint64_t mem_total(const struct ctl *ctl)
{
    char text[4096];
    uint64_t kib;

    if (read_text(ctl->proc_root, "meminfo", text, sizeof text))
        return 0;
    const char *line = strstr(text, "MemTotal:");
    return line && sscanf(line, "MemTotal: %" SCNu64, &kib) == 1 ? kib << 10 : 0;
}

/* A line behind the heading. */
static bool swap_present(const struct ctl *ctl)
{
    char text[4096];

    if (read_text(ctl->proc_root, "swaps", text, sizeof text))
        return false;
    const char *line = strchr(text, '\n');
    return line && line[1];
}

/* ret_guest_bytes: of its largest guest. */
static enum ctl_result ask_daemon(struct ctl *ctl, uint64_t *ret_guest_bytes)
{
    json_t *answer;
    const json_t *vm;
    uint64_t largest = 0;
    size_t i;

    enum ctl_result result = ctl_http_quiet(ctl, "GET", "/v1/vms", &answer);
    if (result)
        return result;
    json_array_foreach(json_object_get(answer, "vms"), i, vm)
    {
        uint64_t bytes = (uint64_t)ctl_get_int(vm, "guest_bytes");
        if (bytes > largest)
            largest = bytes;
    }
    json_decref(answer);
    *ret_guest_bytes = largest;
    return CTL_DONE;
}

void doctor_gather(struct ctl *ctl, struct doctor *ret_doctor)
{
    struct doctor doctor = {.ctl = ctl, .mem_bytes = mem_total(ctl), .swap = swap_present(ctl)};
    char device[512];

    snprintf(device, sizeof device, "%s/userfaultfd", ctl->dev_root);
    probe_kernel(device, &doctor.probe);
    doctor.daemon = ask_daemon(ctl, &doctor.guest_bytes);
    if (ctl->guest_bytes)
        doctor.guest_bytes = ctl->guest_bytes;
    if (!doctor.guest_bytes)
        doctor.guest_bytes = GUEST_BYTES_DEFAULT;
    if (!read_text(ctl->proc_root, "sys/kernel/osrelease", doctor.release, sizeof doctor.release)) {
        doctor.release[strcspn(doctor.release, "\n")] = 0;
        sscanf(doctor.release, "%d.%d.%d", &doctor.kernel[0], &doctor.kernel[1], &doctor.kernel[2]);
    }
    *ret_doctor = doctor;
}

/* ---------------------------------------------------------------- the kernel */

static bool kernel_before(const struct doctor *doctor, int major, int minor, int patch)
{
    const int want[] = {major, minor, patch};

    for (int i = 0; i < 3; i++)
        if (doctor->kernel[i] != want[i])
            return doctor->kernel[i] < want[i];
    return false;
}

/* The race of UFFDIO_MOVE with the swap cache (CVE-2025-38242): fixed in 6.16, 6.15.5 and 6.12.37. */
static bool kernel_has_swap_race(const struct doctor *doctor)
{
    bool stable = doctor->kernel[0] == 6 && ((doctor->kernel[1] == 12 && doctor->kernel[2] >= 37) ||
                                             (doctor->kernel[1] == 15 && doctor->kernel[2] >= 5));
    return kernel_before(doctor, 6, 16, 0) && !stable;
}

static void check_kernel(const struct doctor *doctor, struct finding *finding)
{
    if (kernel_before(doctor, 6, 8, 0)) {
        found(finding, FINDING_FAIL, "Linux %s; memd needs 6.8", doctor->release);
        fix(finding, "install a kernel 6.8 or later: Debian 13, Ubuntu 24.04 and RHEL 10 have one");
    } else if (kernel_has_swap_race(doctor) && doctor->swap) {
        found(finding, FINDING_WARN,
              "Linux %s may lack the fix of UFFDIO_MOVE against swapping (CVE-2025-38242)", doctor->release);
        fix(finding,
            "update the kernel (fixed in 6.12.37, 6.15.5, 6.16, or by your distribution), or swapoff -a");
    } else {
        found(finding, FINDING_OK, "Linux %s", doctor->release);
    }
}

static void check_device(const struct doctor *doctor, struct finding *finding)
{
    const char *dev = doctor->ctl->dev_root;
    int error = doctor->probe.device_error;

    if (!error) {
        found(finding, FINDING_OK, "%s/userfaultfd is accessible", dev);
    } else if (error == ENOENT) {
        found(finding, FINDING_FAIL, "%s/userfaultfd is missing", dev);
        fix(finding,
            "boot a kernel 6.1 or later with CONFIG_USERFAULTFD=y; in a container, pass the device in");
    } else if (error == EACCES || error == EPERM) {
        found(finding, FINDING_FAIL, "%s/userfaultfd: %s", dev, strerror(error));
        fix(finding, "setfacl -m u:%u:rw %s/userfaultfd", (unsigned)geteuid(), dev);
    } else {
        found(finding, FINDING_FAIL, "%s/userfaultfd does not work: %s", dev, strerror(error));
        fix(finding, "ls -l %s/userfaultfd; it must be a character device 10:%s", dev,
            "$(grep userfaultfd /proc/misc | cut -d' ' -f1)");
    }
}

/* One feature of userfaultfd: named, tried. */
static void check_feature(const struct doctor *doctor, uint64_t features, int error, const char *what,
                          struct finding *finding)
{
    if (doctor->probe.device_error) {
        found(finding, FINDING_WARN, "%s: not tried, the device is not accessible", what);
        fix(finding, "put the device right first");
    } else if (doctor->probe.missing & features) {
        found(finding, FINDING_FAIL, "%s: this kernel has it not", what);
        fix(finding, "install a kernel 6.8 or later: Debian 13, Ubuntu 24.04 and RHEL 10 have one");
    } else if (error) {
        found(finding, FINDING_FAIL, "%s: tried, and it failed: %s", what, strerror(error));
        fix(finding, "boot your distribution's current kernel");
    } else {
        found(finding, FINDING_OK, "%s: works", what);
    }
}

static void check_move(const struct doctor *doctor, struct finding *finding)
{
    check_feature(doctor, PROBE_FEATURE_MOVE | PROBE_FEATURE_EVENT_REMAP, doctor->probe.move_error,
                  "moving pages (UFFDIO_MOVE)", finding);
}

static void check_tracking(const struct doctor *doctor, struct finding *finding)
{
    check_feature(doctor, PROBE_FEATURE_WP_ASYNC | PROBE_FEATURE_WP_UNPOPULATED, doctor->probe.tracking_error,
                  "write tracking (WP_ASYNC, PAGEMAP_SCAN)", finding);
}

static void check_kvm(const struct doctor *doctor, struct finding *finding)
{
    char path[512];

    snprintf(path, sizeof path, "%s/kvm", doctor->ctl->dev_root);
    if (!access(path, R_OK | W_OK)) {
        found(finding, FINDING_OK, "%s is accessible", path);
    } else if (errno == ENOENT) {
        found(finding, FINDING_WARN, "%s is missing: no KVM guest runs here", path);
        fix(finding,
            "modprobe kvm_intel || modprobe kvm_amd; enable virtualization in the firmware or hypervisor");
    } else {
        struct stat st = {0};
        found(finding, FINDING_WARN, "%s: %s", path, strerror(errno));
        if (!stat(path, &st) && (st.st_mode & 0060) == 0060 && st.st_gid != 0)
            fix(finding, "usermod -a -G %u $(id -un %u)", (unsigned)st.st_gid, (unsigned)geteuid());
        else
            fix(finding, "setfacl -m u:%u:rw %s", (unsigned)geteuid(), path);
    }
}

/* ---------------------------------------------------------------- limits and settings */

static void check_map_count(const struct doctor *doctor, struct finding *finding)
{
    uint64_t limit, want = doctor->guest_bytes / WIRE_PAGE_BYTES / PAGES_PER_MAPPING * MAPPINGS_SHARE;
    uint64_t advice = 65536;
    char size[CTL_SIZE_BYTES];

    if (read_number(doctor->ctl->proc_root, "sys/vm/max_map_count", &limit)) {
        found(finding, FINDING_WARN, "vm.max_map_count cannot be read");
        fix(finding, "mount -t proc proc /proc");
        return;
    }
    ctl_size(size, (int64_t)doctor->guest_bytes);
    if (limit >= want) {
        found(finding, FINDING_OK, "vm.max_map_count %" PRIu64 " is enough for a guest of %s", limit, size);
        return;
    }
    while (advice < want)
        advice *= 2;
    found(finding, FINDING_WARN, "vm.max_map_count %" PRIu64 " leaves short runs unmerged in a guest of %s",
          limit, size);
    fix(finding, "sysctl -w vm.max_map_count=%" PRIu64, advice);
}

static void check_thp(const struct doctor *doctor, struct finding *finding)
{
    char text[128];
    const char *mode;

    if (read_text(doctor->ctl->sys_root, "kernel/mm/transparent_hugepage/enabled", text, sizeof text)) {
        found(finding, FINDING_OK, "this kernel has no transparent huge pages");
        return;
    }
    mode = strchr(text, '[');
    if (!mode || !strncmp(mode, "[never]", 7)) {
        found(finding, FINDING_WARN, "transparent huge pages are off: guests pay for it");
        fix(finding, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    } else {
        found(finding, FINDING_OK, "transparent huge pages: %.*s", (int)strcspn(mode + 1, "]"), mode + 1);
    }
}

/* A pool of hugetlb pages is no fault, but what lies in it is out of memd's reach. */
static void check_hugetlb(const struct doctor *doctor, struct finding *finding)
{
    uint64_t pages;

    if (read_number(doctor->ctl->proc_root, "sys/vm/nr_hugepages", &pages) || !pages) {
        found(finding, FINDING_OK, "no memory is set aside for hugetlb pages");
    } else {
        found(finding, FINDING_WARN, "%" PRIu64 " hugetlb pages: guests backed by them are left alone",
              pages);
        fix(finding, "sysctl -w vm.nr_hugepages=0, unless something else needs them");
    }
}

static void check_ksm(const struct doctor *doctor, struct finding *finding)
{
    uint64_t run;

    if (read_number(doctor->ctl->sys_root, "kernel/mm/ksm/run", &run)) {
        found(finding, FINDING_OK, "this kernel has no KSM");
    } else if (run == 1) {
        found(finding, FINDING_WARN, "KSM is running: it scans again what memd scans");
        fix(finding, "systemctl stop ksm ksmtuned; echo 2 > /sys/kernel/mm/ksm/run");
    } else {
        found(finding, FINDING_OK, "KSM is not running");
    }
}

/* The soft limit, from a line "Max locked memory  8388608  8388608  bytes". */
static void check_memlock(const struct doctor *doctor, struct finding *finding)
{
    static const char name[] = "Max locked memory";
    char text[4096], limit[32] = "", size[CTL_SIZE_BYTES];
    const char *line = NULL;

    if (!read_text(doctor->ctl->proc_root, "self/limits", text, sizeof text))
        line = strstr(text, name);
    if (!line || sscanf(line + sizeof name - 1, "%31s", limit) != 1) {
        found(finding, FINDING_WARN, "RLIMIT_MEMLOCK cannot be read");
        fix(finding, "mount -t proc proc /proc");
    } else if (!strcmp(limit, "unlimited")) {
        found(finding, FINDING_OK, "RLIMIT_MEMLOCK is unlimited");
    } else {
        uint64_t bytes = strtoull(limit, NULL, 10);
        bool enough = bytes >= MEMLOCK_BYTES_MIN;
        found(finding, enough ? FINDING_OK : FINDING_WARN, "RLIMIT_MEMLOCK is %s%s",
              ctl_size(size, (int64_t)bytes), enough ? "" : ": too little for an engine's fault path");
        if (!enough)
            fix(finding, "ulimit -l %llu, or LimitMEMLOCK=8M in the VMM's unit", MEMLOCK_BYTES_MIN >> 10);
    }
}

/* `path`, or the nearest directory above it that exists: memd makes what is missing of its run directory. */
static void existing_above(const char *path, char *dir, size_t bytes)
{
    snprintf(dir, bytes, "%s", path);
    while (access(dir, F_OK) && errno == ENOENT) {
        char *slash = strrchr(dir, '/');
        if (!slash)
            snprintf(dir, bytes, ".");
        else
            slash[slash == dir] = 0;
    }
}

static void check_store(const struct doctor *doctor, struct finding *finding)
{
    const char *where = doctor->ctl->run_dir;
    char shm[512], above[512], size[CTL_SIZE_BYTES], free_text[CTL_SIZE_BYTES];
    struct statfs fs;

    snprintf(shm, sizeof shm, "%s/shm", doctor->ctl->dev_root);
    existing_above(where, above, sizeof above);
    if (statfs(above, &fs) || fs.f_type != TMPFS_MAGIC) {
        where = shm;
        if (statfs(shm, &fs) || fs.f_type != TMPFS_MAGIC) {
            found(finding, FINDING_FAIL, "neither %s nor %s is on tmpfs: no place for frames",
                  doctor->ctl->run_dir, shm);
            fix(finding, "mkdir -p /dev/shm && mount -t tmpfs -o mode=1777 tmpfs /dev/shm");
            return;
        }
    }
    uint64_t total = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize,
             room = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    ctl_size(size, (int64_t)total);
    ctl_size(free_text, (int64_t)room);
    if (total && room < doctor->mem_bytes / 8) { /* 0 blocks: no limit set */
        found(finding, FINDING_WARN,
              "frames go to %s: %s free of %s, less than an eighth of the machine's memory", where, free_text,
              size);
        fix(finding, "mount -o remount,size=50%% %s", where);
    } else {
        found(finding, FINDING_OK, "frames go to %s: tmpfs, %s free of %s", where, free_text, size);
    }
}

/* Whether this user could start memd there. */
static void check_run_dir(const struct doctor *doctor, struct finding *finding)
{
    const char *dir = doctor->ctl->run_dir;
    char above[512];

    existing_above(dir, above, sizeof above);
    if (doctor->daemon != CTL_NO_DAEMON) {
        found(finding, FINDING_OK, "%s is in use", dir);
    } else if (!access(above, W_OK | X_OK)) {
        found(finding, FINDING_OK, "%s %s", dir, strcmp(above, dir) ? "can be made" : "is writable");
    } else {
        found(finding, FINDING_WARN, "this user cannot start memd in %s: %s: %s", dir, above,
              strerror(errno));
        fix(finding, "install -d -o %u %s, or another --run-dir", (unsigned)geteuid(), dir);
    }
}

static void check_swap(const struct doctor *doctor, struct finding *finding)
{
    found(finding, FINDING_OK, "%s",
          doctor->swap ? "swap is on: frames, which are tmpfs pages, may be swapped out too"
                       : "no swap: what is merged stays in memory");
}

static void check_daemon(const struct doctor *doctor, struct finding *finding)
{
    if (doctor->daemon == CTL_DONE) {
        found(finding, FINDING_OK, "memd answers in %s", doctor->ctl->run_dir);
    } else if (doctor->daemon == CTL_FAILED) {
        found(finding, FINDING_WARN, "%s/" WIRE_CONTROL_NAME " refuses this user, or is not memd's",
              doctor->ctl->run_dir);
        fix(finding, "run memctl as root or memd's user, or setfacl -m u:%u:rw %s/" WIRE_CONTROL_NAME,
            (unsigned)geteuid(), doctor->ctl->run_dir);
    } else {
        found(finding, FINDING_WARN, "no memd answers in %s", doctor->ctl->run_dir);
        fix(finding, "systemctl start memd, or memd --run-dir %s", doctor->ctl->run_dir);
    }
}

const struct doctor_check doctor_checks[] = {
    {"kernel", check_kernel},   {"userfaultfd", check_device},
    {"move", check_move},       {"tracking", check_tracking},
    {"kvm", check_kvm},         {"map-count", check_map_count},
    {"huge-pages", check_thp},  {"hugetlb", check_hugetlb},
    {"ksm", check_ksm},         {"memlock", check_memlock},
    {"run-dir", check_run_dir}, {"frame-store", check_store},
    {"swap", check_swap},       {"daemon", check_daemon},
};
const size_t doctor_nchecks = sizeof doctor_checks / sizeof doctor_checks[0];
