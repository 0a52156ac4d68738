/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* preflight: see preflight.h. Needs no privilege beyond access to the device; leaves nothing open. */
#include "memd/daemon/preflight.h"

#include "memd/common/uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#define UPGRADE "memd needs Linux 6.8 or later (Debian 13, Ubuntu 24.04, RHEL 10)"

static const struct {
    uint64_t bit;
    const char *name;
} needed[] = {
    {UFFD_FEATURE_MOVE, "UFFDIO_MOVE"},
    {UFFD_FEATURE_WP_ASYNC, "UFFD_FEATURE_WP_ASYNC"},
    {UFFD_FEATURE_WP_UNPOPULATED, "UFFD_FEATURE_WP_UNPOPULATED"},
    {UFFD_FEATURE_EVENT_REMAP, "UFFD_FEATURE_EVENT_REMAP"},
};

static const char *kernel_release(struct utsname *name)
{
    return uname(name) ? "?" : name->release;
}

int preflight_features(uint64_t features, char *ret_error, size_t error_bytes)
{
    struct utsname name;

    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (!(features & needed[i].bit)) {
            snprintf(ret_error, error_bytes, "the kernel (%s) has no %s; " UPGRADE, kernel_release(&name),
                     needed[i].name);
            return -ENOSYS;
        }
    return 0;
}

static int device_error(const char *device, int error, char *ret_error, size_t error_bytes)
{
    struct utsname name;

    if (error == ENOENT)
        snprintf(ret_error, error_bytes,
                 "%s is missing (kernel %s); " UPGRADE " with CONFIG_USERFAULTFD, and /dev must be udev's or "
                 "devtmpfs",
                 device, kernel_release(&name));
    else if (error == EACCES || error == EPERM)
        snprintf(ret_error, error_bytes,
                 "%s: %s; run memd as root, or give its user access: setfacl -m u:%u:rw %s", device,
                 strerror(error), (unsigned)geteuid(), device);
    else
        snprintf(ret_error, error_bytes, "cannot use %s: %s; is it the userfaultfd device?", device,
                 strerror(error));
    return -error;
}

/* A look at an empty range: -ENOTTY if the kernel does not know the call. */
static int scan_check(char *ret_error, size_t error_bytes)
{
    struct pm_scan_arg arg = {.size = sizeof arg, .return_mask = PAGE_IS_PRESENT};
    struct utsname name;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        snprintf(ret_error, error_bytes, "cannot open /proc/self/pagemap: %s; mount /proc", strerror(errno));
        return -errno;
    }
    int result = ioctl(fd, PAGEMAP_SCAN, &arg) < 0 ? -errno : 0;
    close(fd);
    if (result)
        snprintf(ret_error, error_bytes, "the kernel (%s) has no PAGEMAP_SCAN; " UPGRADE,
                 kernel_release(&name));
    return result;
}

int preflight_check(const char *device, char *ret_error, size_t error_bytes)
{
    struct uffdio_api api = {.api = UFFD_API};
    int device_fd = open(device, O_RDWR | O_CLOEXEC);

    if (device_fd < 0)
        return device_error(device, errno, ret_error, error_bytes);
    int uffd = ioctl(device_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    int error = errno;
    close(device_fd);
    if (uffd < 0)
        return device_error(device, error, ret_error, error_bytes);
    int result = ioctl(uffd, UFFDIO_API, &api) ? -errno : 0;
    close(uffd);
    if (result)
        return device_error(device, -result, ret_error, error_bytes);
    result = preflight_features(api.features, ret_error, error_bytes);
    return result ? result : scan_check(ret_error, error_bytes);
}
