/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What keeps memd from running here is told in one line that names cause and cure. */
#include "memd/daemon/preflight.h"

#include "memd/common/uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define ALL \
    (UFFD_FEATURE_MOVE | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_EVENT_REMAP)

static char error_text[512];

static int check(const char *device)
{
    error_text[0] = 0;
    return preflight_check(device, error_text, sizeof error_text);
}

static void assert_says(const char *part)
{
    if (!strstr(error_text, part))
        fail_msg("\"%s\" does not say \"%s\"", error_text, part);
    assert_null(strchr(error_text, '\n'));
}

static void each_feature_is_needed(void **state)
{
    static const struct {
        uint64_t bit;
        const char *name;
    } features[] = {
        {UFFD_FEATURE_MOVE, "no UFFDIO_MOVE; memd needs Linux 6.8"},
        {UFFD_FEATURE_WP_ASYNC, "no UFFD_FEATURE_WP_ASYNC"},
        {UFFD_FEATURE_WP_UNPOPULATED, "no UFFD_FEATURE_WP_UNPOPULATED"},
        {UFFD_FEATURE_EVENT_REMAP, "no UFFD_FEATURE_EVENT_REMAP"},
    };
    (void)state;

    assert_int_equal(preflight_features(ALL, error_text, sizeof error_text), 0);
    assert_int_equal(preflight_features(UINT64_MAX, error_text, sizeof error_text), 0);
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        assert_int_equal(preflight_features(ALL & ~features[i].bit, error_text, sizeof error_text), -ENOSYS);
        assert_says(features[i].name);
    }
    assert_int_equal(preflight_features(0, error_text, sizeof error_text), -ENOSYS);
}

static void a_missing_device_is_named(void **state)
{
    (void)state;
    assert_int_equal(check("no-device"), -ENOENT);
    assert_says("no-device is missing (kernel ");
    assert_says("memd needs Linux 6.8");
}

static void what_is_not_the_device_is_named(void **state)
{
    (void)state;
    assert_int_equal(check("/dev/null"), -ENOTTY);
    assert_says("is it the userfaultfd device?");
}

static void no_access_is_named_with_its_cure(void **state)
{
    char expected[64];
    (void)state;

    int fd = open("device", O_CREAT | O_WRONLY, 0600);
    assert_return_code(fd, errno);
    close(fd);
    if (geteuid() == 0) {
        assert_return_code(chown("device", 1, 1), errno);
        assert_return_code(chmod(".", 0711), errno);
    } else {
        assert_return_code(chmod("device", 0), errno);
    }
    pid_t child = fork();
    if (!child) { /* the parent keeps its rights */
        if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
            _exit(3);
        snprintf(expected, sizeof expected, "setfacl -m u:%u:rw device", (unsigned)geteuid());
        int result = check("device");
        _exit(result != -EACCES                                                         ? 1
              : strstr(error_text, "Permission denied") && strstr(error_text, expected) ? 0
                                                                                        : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void a_capable_kernel_passes(void **state)
{
    (void)state;
    if (access("/dev/userfaultfd", R_OK | W_OK)) {
        print_message("skip: needs /dev/userfaultfd\n");
        skip();
    }
    int before = open("/dev/null", O_RDONLY);
    close(before);
    if (check("/dev/userfaultfd"))
        fail_msg("%s", error_text);
    int after = open("/dev/null", O_RDONLY);
    close(after);
    assert_int_equal(before, after); /* nothing was left open */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_feature_is_needed),          cmocka_unit_test(a_missing_device_is_named),
        cmocka_unit_test(what_is_not_the_device_is_named), cmocka_unit_test(no_access_is_named_with_its_cure),
        cmocka_unit_test(a_capable_kernel_passes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
