/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* user: giving up privileges, without the name services of the C library, which a static program cannot
 * load. */
#ifndef GUEST_AGENT_USER_H
#define GUEST_AGENT_USER_H

#include <sys/types.h>

struct user {
    uid_t uid;
    gid_t gid;
};

/* A user by number ("1000", its group is the same number) or by name in a file such as /etc/passwd. 0,
 * -ENOENT, or -errno of the file. */
int user_find(const char *passwd_path, const char *name, struct user *ret_user);

/* Become that user for good, if this is root; in any case gain no more. 0 or -errno. */
int user_become(const struct user *user);

#endif
