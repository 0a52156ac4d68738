/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see user.h. */
#include "guest-agent/user.h"

#include "guest-agent/parse.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* The number after the n-th colon of a line. */
static bool field(const char *line, size_t n, unsigned colons, uint64_t *ret_number)
{
    const char *end = line + n;

    while (colons--) {
        line = memchr(line, ':', (size_t)(end - line));
        if (!line++)
            return false;
    }
    size_t digits = parse_number(line, (size_t)(end - line), ret_number);
    return digits && line + digits < end && line[digits] == ':' && *ret_number < UINT32_MAX;
}

static int find_in(const char *text, size_t n, const char *name, struct user *ret_user)
{
    size_t length = strlen(name);
    const char *end = text + n;
    uint64_t uid, gid;

    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t line = (size_t)((stop ? stop : end) - text);
        if (line > length && !memcmp(text, name, length) && text[length] == ':')
            return field(text, line, 2, &uid) && field(text, line, 3, &gid)
                       ? (*ret_user = (struct user){(uid_t)uid, (gid_t)gid}, 0)
                       : -ENOENT;
        text += line + 1;
    }
    return -ENOENT;
}

int user_find(const char *passwd_path, const char *name, struct user *ret_user)
{
    static char text[65536];
    uint64_t number;
    size_t digits = parse_number(name, strlen(name), &number), n = 0;
    ssize_t got;

    if (digits && !name[digits] && number < UINT32_MAX) {
        *ret_user = (struct user){(uid_t)number, (gid_t)number};
        return 0;
    }
    int fd = open(passwd_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while (n < sizeof text && (got = read(fd, text + n, sizeof text - n)) > 0)
        n += (size_t)got;
    close(fd);
    return find_in(text, n, name, ret_user);
}

int user_become(const struct user *user)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return -errno;
    if (geteuid())
        return 0;
    if (setgroups(0, NULL) || setresgid(user->gid, user->gid, user->gid) ||
        setresuid(user->uid, user->uid, user->uid))
        return -errno;
    return user->uid && !setuid(0) ? -EPERM : 0;
}
