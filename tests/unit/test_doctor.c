/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl doctor's checks on machines made of files: what each finds, and the command it offers. */
#include "memd/ctl/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---------------------------------------------------------------- a machine */

static struct ctl ctl;
static struct doctor doctor;
static struct finding finding;

static void put(const char *name, const char *text)
{
    char path[300];

    snprintf(path, sizeof path, "%s", name);
    for (char *slash = path; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(path, 0755);
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* One on which memd runs well, with no daemon yet. */
static int make_machine(void **state)
{
    (void)state;
    put("proc/sys/kernel/osrelease", "6.18.1-amd64\n");
    put("proc/sys/vm/max_map_count", "1048576\n");
    put("proc/sys/vm/nr_hugepages", "0\n");
    put("proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n");
    put("proc/swaps", "Filename  Type  Size  Used  Priority\n");
    put("proc/self/limits",
        "Limit   Soft Limit  Hard Limit  Units\n"
        "Max locked memory         8388608              8388608              bytes     \n");
    put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put("sys/kernel/mm/ksm/run", "0\n");
    put("dev/kvm", "");
    mkdir("dev/shm", 0755);
    ctl = (struct ctl){.run_dir = "run/memd", .proc_root = "proc", .sys_root = "sys", .dev_root = "dev"};
    ctl.err = stderr;
    return 0;
}

/* The check of this name on the machine, whose kernel can do everything. */
static void check(const char *name)
{
    doctor_gather(&ctl, &doctor);
    doctor.probe = (struct probe){0};
    for (size_t i = 0; i < doctor_nchecks; i++)
        if (!strcmp(doctor_checks[i].name, name)) {
            finding = (struct finding){0};
            doctor_checks[i].check(&doctor, &finding);
            return;
        }
    fail_msg("no check %s", name);
}

/* The same with a kernel that answers like this. */
static void check_probe(const char *name, struct probe probe)
{
    check(name);
    doctor.probe = probe;
    for (size_t i = 0; i < doctor_nchecks; i++)
        if (!strcmp(doctor_checks[i].name, name))
            doctor_checks[i].check(&doctor, &finding);
}

/* What is well needs no cure; what is not has one. */
static void assert_found(enum finding_level level, const char *text, const char *fix)
{
    if (finding.level != level || !strstr(finding.text, text) ||
        (fix ? !strstr(finding.fix, fix) : *finding.fix))
        fail_msg("level %d, \"%s\", fix \"%s\"", finding.level, finding.text, finding.fix);
    assert_null(strchr(finding.text, '\n'));
}

/* ---------------------------------------------------------------- the kernel */

static void kernels(void **state)
{
    static const struct {
        const char *release;
        bool swap;
        enum finding_level level;
        const char *fix;
    } kernels[] = {
        {"6.18.1-amd64", true, FINDING_OK, NULL},
        {"6.16.0", true, FINDING_OK, NULL},
        {"6.15.4", true, FINDING_WARN, "6.12.37"},
        {"6.15.5", true, FINDING_OK, NULL},
        {"6.12.36-cloud", true, FINDING_WARN, "swapoff -a"},
        {"6.12.36-cloud", false, FINDING_OK, NULL},
        {"6.12.37", true, FINDING_OK, NULL},
        {"6.8.0-31-generic", true, FINDING_WARN, "update the kernel"},
        {"6.7.12", true, FINDING_FAIL, "install a kernel 6.8"},
        {"5.10.0", false, FINDING_FAIL, "install a kernel 6.8"},
        {"7.0", true, FINDING_OK, NULL},
        {"nonsense", false, FINDING_FAIL, "install a kernel 6.8"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        put("proc/sys/kernel/osrelease", kernels[i].release);
        put("proc/swaps", kernels[i].swap ? "Filename\n/dev/sda2 partition 1 0 -2\n" : "Filename\n");
        check("kernel");
        assert_found(kernels[i].level, kernels[i].release, kernels[i].fix);
    }
}

static void features(void **state)
{
    (void)state;
    check("userfaultfd");
    assert_found(FINDING_OK, "dev/userfaultfd is accessible", NULL);
    check_probe("userfaultfd", (struct probe){.device_error = ENOENT});
    assert_found(FINDING_FAIL, "is missing", "CONFIG_USERFAULTFD=y");
    check_probe("userfaultfd", (struct probe){.device_error = EACCES});
    assert_found(FINDING_FAIL, "Permission denied", "setfacl -m u:");
    check_probe("userfaultfd", (struct probe){.device_error = ENOTTY});
    assert_found(FINDING_FAIL, "does not work", "ls -l dev/userfaultfd");

    check("move");
    assert_found(FINDING_OK, "UFFDIO_MOVE): works", NULL);
    check_probe("move", (struct probe){.missing = PROBE_FEATURE_MOVE, .move_error = ENOSYS});
    assert_found(FINDING_FAIL, "has it not", "install a kernel 6.8");
    check_probe("move", (struct probe){.move_error = EINVAL});
    assert_found(FINDING_FAIL, "tried, and it failed: Invalid argument", "current kernel");
    check_probe("move",
                (struct probe){.device_error = EACCES, .missing = PROBE_FEATURES, .move_error = ENOSYS});
    assert_found(FINDING_WARN, "not tried", "device");
    check_probe("tracking", (struct probe){.missing = PROBE_FEATURE_WP_ASYNC});
    assert_found(FINDING_FAIL, "has it not", "6.8");
    check_probe("tracking", (struct probe){.tracking_error = ENODATA});
    assert_found(FINDING_FAIL, "failed", "current kernel");
    check_probe("tracking", (struct probe){.missing = PROBE_FEATURE_MOVE});
    assert_found(FINDING_OK, "works", NULL);
}

/* The probe itself: on the real device, and on what is none. */
static void probes(void **state)
{
    struct probe probe;
    (void)state;

    probe_kernel("dev/userfaultfd", &probe);
    assert_int_equal(probe.device_error, ENOENT);
    assert_int_equal(probe.missing, PROBE_FEATURES);
    assert_int_equal(probe.move_error, ENOSYS);
    probe_kernel("/dev/null", &probe);
    assert_int_equal(probe.device_error, ENOTTY);
    if (access("/dev/userfaultfd", R_OK | W_OK)) {
        print_message("skip: needs /dev/userfaultfd\n");
        skip();
    }
    int before = open("/dev/null", O_RDONLY);
    close(before);
    probe_kernel("/dev/userfaultfd", &probe);
    assert_int_equal(probe.device_error, 0);
    assert_int_equal(probe.missing, 0);
    assert_int_equal(probe.move_error, 0);
    assert_int_equal(probe.tracking_error, 0);
    int after = open("/dev/null", O_RDONLY);
    close(after);
    assert_int_equal(before, after); /* nothing was left open */
}

static void kvm(void **state)
{
    (void)state;
    check("kvm");
    assert_found(FINDING_OK, "dev/kvm is accessible", NULL);
    unlink("dev/kvm");
    check("kvm");
    assert_found(FINDING_WARN, "no KVM guest runs here", "modprobe kvm_intel");
}

/* ---------------------------------------------------------------- limits and settings */

static void map_count(void **state)
{
    (void)state;
    put("proc/sys/vm/max_map_count", "65530\n");
    ctl.guest_bytes = 2ull << 30;
    check("map-count");
    assert_found(FINDING_OK, "65530 is enough for a guest of 2.0 GiB", NULL);
    ctl.guest_bytes = 0; /* unknown: 4 GiB is assumed */
    check("map-count");
    assert_found(FINDING_WARN, "in a guest of 4.0 GiB", "sysctl -w vm.max_map_count=131072");
    ctl.guest_bytes = 64ull << 30;
    check("map-count");
    assert_found(FINDING_WARN, "65530 leaves short runs unmerged in a guest of 64.0 GiB",
                 "sysctl -w vm.max_map_count=2097152");
    put("proc/sys/vm/max_map_count", "2097152\n");
    check("map-count");
    assert_found(FINDING_OK, "is enough", NULL);
    unlink("proc/sys/vm/max_map_count");
    check("map-count");
    assert_found(FINDING_WARN, "cannot be read", "mount -t proc");
}

static void huge_pages(void **state)
{
    (void)state;
    check("huge-pages");
    assert_found(FINDING_OK, "transparent huge pages: madvise", NULL);
    put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    check("huge-pages");
    assert_found(FINDING_WARN, "are off", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    unlink("sys/kernel/mm/transparent_hugepage/enabled");
    check("huge-pages");
    assert_found(FINDING_OK, "no transparent huge pages", NULL);

    check("hugetlb");
    assert_found(FINDING_OK, "no memory is set aside", NULL);
    put("proc/sys/vm/nr_hugepages", "512\n");
    check("hugetlb");
    assert_found(FINDING_WARN, "512 hugetlb pages", "sysctl -w vm.nr_hugepages=0");
}

static void ksm(void **state)
{
    (void)state;
    check("ksm");
    assert_found(FINDING_OK, "not running", NULL);
    put("sys/kernel/mm/ksm/run", "1\n");
    check("ksm");
    assert_found(FINDING_WARN, "KSM is running", "echo 2 > /sys/kernel/mm/ksm/run");
    put("sys/kernel/mm/ksm/run", "2\n");
    check("ksm");
    assert_found(FINDING_OK, "not running", NULL);
    unlink("sys/kernel/mm/ksm/run");
    check("ksm");
    assert_found(FINDING_OK, "no KSM", NULL);
}

static void memlock(void **state)
{
    (void)state;
    check("memlock");
    assert_found(FINDING_OK, "RLIMIT_MEMLOCK is 8.0 MiB", NULL);
    put("proc/self/limits",
        "Max locked memory         65536                65536                bytes     \n");
    check("memlock");
    assert_found(FINDING_WARN, "64.0 KiB: too little", "ulimit -l 8192");
    put("proc/self/limits",
        "Max locked memory         unlimited            unlimited            bytes     \n");
    check("memlock");
    assert_found(FINDING_OK, "unlimited", NULL);
    put("proc/self/limits", "Max cpu time  unlimited  unlimited  seconds\n");
    check("memlock");
    assert_found(FINDING_WARN, "cannot be read", "mount -t proc");
}

/* ---------------------------------------------------------------- directories */

static void run_dir(void **state)
{
    (void)state;
    check("run-dir");
    assert_found(FINDING_OK, "run/memd can be made", NULL);
    mkdir("run", 0755);
    mkdir("run/memd", 0755);
    check("run-dir");
    assert_found(FINDING_OK, "run/memd is writable", NULL);
    rmdir("run/memd");
    rmdir("run");
    ctl.run_dir = "/proc/memd"; /* nobody can, not even root */
    check("run-dir");
    if (geteuid())
        assert_found(FINDING_WARN, "cannot start memd in /proc/memd", "install -d -o ");
}

static void frame_store(void **state)
{
    (void)state;
    ctl.run_dir = "/proc/1"; /* not on tmpfs */
    check("frame-store");
    if (finding.level == FINDING_FAIL)
        assert_found(FINDING_FAIL, "neither /proc/1 nor dev/shm is on tmpfs", "mount -t tmpfs");
    ctl.run_dir = "/dev/shm/memd/below/it";
    ctl.dev_root = "/dev";
    check("frame-store");
    assert_non_null(strstr(finding.text, "/dev/shm"));
    put("proc/meminfo", "MemTotal: 1099511627776 kB\n"); /* no tmpfs has an eighth of 1 PiB */
    check("frame-store");
    assert_found(FINDING_WARN, "less than an eighth", "mount -o remount,size=50% /dev/shm");
}

static void swap(void **state)
{
    (void)state;
    check("swap");
    assert_found(FINDING_OK, "no swap", NULL);
    put("proc/swaps", "Filename\n/swapfile file 1 0 -2\n");
    check("swap");
    assert_found(FINDING_OK, "swap is on", NULL);
}

static void no_daemon(void **state)
{
    (void)state;
    check("daemon");
    assert_found(FINDING_WARN, "no memd answers in run/memd", "memd --run-dir run/memd");
}

/* ---------------------------------------------------------------- the command */

static enum ctl_result run(char **ret_text, int argc, const char *const *words)
{
    size_t bytes;
    char *argv[16] = {"memctl", "doctor", "--proc", "proc",      "--sys",
                      "sys",    "--dev",  "dev",    "--run-dir", "run/memd"};

    for (int i = 0; i < argc; i++)
        argv[10 + i] = (char *)words[i];
    ctl = (struct ctl){.err = stderr, .out = open_memstream(ret_text, &bytes)};
    enum ctl_result result = ctl_run(&ctl, 10 + argc, argv);
    fclose(ctl.out);
    return result;
}

/* A machine without the device: exit code 1, a fix below what failed; every check is a line. */
static void the_command_shows_all(void **state)
{
    char *text;
    (void)state;

    assert_int_equal(run(&text, 0, NULL), CTL_FAILED);
    assert_non_null(
        strstr(text, "\nfail  userfaultfd  dev/userfaultfd is missing\n                   fix: boot"));
    assert_non_null(strstr(text, "ok    ksm"));
    size_t lines = 0;
    for (const char *at = text; (at = strstr(at, "\n")); at++)
        lines += strncmp(at + 1, "      ", 6) && at[1];
    assert_int_equal(lines + 1, doctor_nchecks);
    free(text);
}

static void the_command_speaks_json(void **state)
{
    char *text;
    const json_t *list;
    (void)state;

    assert_int_equal(run(&text, 3, (const char *const[]){"--json", "--guest", "1T"}), CTL_FAILED);
    json_t *document = json_loads(text, 0, NULL);
    assert_non_null(document);
    assert_true(json_is_false(json_object_get(document, "ok")));
    list = json_object_get(document, "checks");
    assert_int_equal(json_array_size(list), doctor_nchecks);
    for (size_t i = 0; i < doctor_nchecks; i++) {
        const json_t *one = json_array_get(list, i);
        const char *level = json_string_value(json_object_get(one, "level"));
        assert_string_equal(json_string_value(json_object_get(one, "name")), doctor_checks[i].name);
        assert_true(!strcmp(level, "ok") == !*json_string_value(json_object_get(one, "fix")));
        if (!strcmp(doctor_checks[i].name, "map-count"))
            assert_string_equal(level, "warn");
    }
    json_decref(document);
    free(text);
}

#define TEST(f) cmocka_unit_test_setup(f, make_machine)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kernels),
        TEST(features),
        TEST(probes),
        TEST(kvm),
        TEST(map_count),
        TEST(huge_pages),
        TEST(ksm),
        TEST(memlock),
        TEST(run_dir),
        TEST(swap),
        TEST(frame_store),
        TEST(no_daemon),
        TEST(the_command_shows_all),
        TEST(the_command_speaks_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
