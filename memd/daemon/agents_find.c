/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * agents_find: which agents there are: those of the configuration, and what lies in RUN_DIR/agents. The
 * directory is looked at once a second, and read when it has changed, or after a while (a socket that was
 * made anew in the same tick of the file system's clock). Whoever may write there is trusted to name VMs.
 */
#include "memd/common/name.h"
#include "memd/daemon/agents.h"
#include "memd/daemon/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DIR_MODE     0755
#define LOOK_NS      CLOCK_S
#define SCAN_NS      (15 * CLOCK_S)
#define SUFFIX_SOCK  ".sock"
#define SUFFIX_VSOCK ".vsock"
#define ROUTE_VSOCK  "vsock:"
#define ENTRIES_MAX  (4 * CORE_AGENTS_MAX) /* of the directory, looked at */

static_assert(CORE_AGENT_PATH_MAX >= sizeof(((struct sockaddr_un *)0)->sun_path) + sizeof ROUTE_VSOCK - 1,
              "any socket's path can be told");

static struct agent *find(struct core *core, const char *name)
{
    struct agent *agent;

    cds_list_for_each_entry (agent, &core->agents.list, link)
        if (!strcmp(agent->name, name))
            return agent;
    return NULL;
}

/* "vsock:7", "vsock:/path", "/path": as config_file.c has checked it. */
static void set_route(struct agent *agent, const char *where)
{
    bool vsock = !strncmp(where, ROUTE_VSOCK, sizeof ROUTE_VSOCK - 1);
    const char *rest = vsock ? where + sizeof ROUTE_VSOCK - 1 : where;

    agent->route = !vsock ? AGENT_CHARDEV : *rest == '/' ? AGENT_VMM_VSOCK : AGENT_VSOCK;
    if (agent->route == AGENT_VSOCK)
        agent->cid = (uint32_t)strtoul(rest, NULL, 10);
    snprintf(agent->path, sizeof agent->path, "%s", agent->route == AGENT_VSOCK ? where : rest);
}

void agents_find_configured(struct core *core)
{
    for (unsigned i = 0; i < core->config.nagents; i++) {
        struct agent *agent = agent_new(core, core->config.agents[i].name);
        if (!agent)
            continue;
        agent->configured = true;
        set_route(agent, core->config.agents[i].path);
    }
}

/* ---------------------------------------------------------------- RUN_DIR/agents */

static void dir_path(const struct core *core, char path[300])
{
    snprintf(path, 300, "%s/" AGENTS_DIR_NAME, core->config.run_dir);
}

/* The VM a file is for; false: it is for none. */
static bool name_of(const char *file, char name[CORE_NAME_BYTES], enum agent_route *ret_route)
{
    const char *dot = strrchr(file, '.');
    size_t length = dot ? (size_t)(dot - file) : 0;

    if (!dot || length >= CORE_NAME_BYTES)
        return false;
    if (!strcmp(dot, SUFFIX_SOCK))
        *ret_route = AGENT_CHARDEV;
    else if (!strcmp(dot, SUFFIX_VSOCK))
        *ret_route = AGENT_VMM_VSOCK;
    else
        return false;
    memcpy(name, file, length);
    name[length] = '\0';
    return name_is_valid(name);
}

static void take_entry(struct core *core, int dir_fd, const char *dir, const char *file)
{
    struct stat st;
    char name[CORE_NAME_BYTES], path[CORE_AGENT_PATH_MAX + 1];
    enum agent_route route;

    if (!name_of(file, name, &route) || fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) ||
        !S_ISSOCK(st.st_mode) ||
        snprintf(path, sizeof path, "%s/%s", dir, file) >= (int)sizeof(((struct sockaddr_un *)0)->sun_path))
        return;
    struct agent *agent = find(core, name);
    if (agent && (agent->configured || agent->seen)) {
        agent->seen = true;
        return;
    }
    if (!agent)
        agent = agent_new(core, name);
    if (!agent)
        return;
    agent->seen = true;
    if (strcmp(agent->path, path)) {
        agent->route = route;
        strcpy(agent->path, path);
        agent_retry(agent);
    }
}

/* Those whose socket is gone, and the connection with it. */
static void drop_unseen(struct core *core)
{
    struct agent *agent, *next;

    cds_list_for_each_entry_safe (agent, next, &core->agents.list, link)
        if (!agent->seen && !agent->configured && agent->phase == AGENT_CLOSED)
            agent_free(agent);
}

static void scan(struct core *core, const char *path, bool changed)
{
    struct agent *agent;
    unsigned n = 0;
    DIR *dir = opendir(path);

    cds_list_for_each_entry (agent, &core->agents.list, link)
        agent->seen = false;
    for (struct dirent *entry; dir && n++ < ENTRIES_MAX && (entry = readdir(dir));)
        take_entry(core, dirfd(dir), path, entry->d_name);
    if (dir)
        closedir(dir);
    drop_unseen(core);
    if (changed) /* perhaps one of them was made anew */
        cds_list_for_each_entry (agent, &core->agents.list, link)
            if (agent->seen)
                agent_retry(agent);
}

void agents_find_in_dir(struct core *core, uint64_t now_ns)
{
    struct agents *agents = &core->agents;
    char path[300];
    struct stat st;

    if (now_ns - agents->looked_ns < LOOK_NS)
        return;
    agents->looked_ns = now_ns;
    dir_path(core, path);
    if (!agents->scanned_ns)
        mkdir(path, DIR_MODE); /* it may be there; without it nothing is found */
    if (stat(path, &st))
        memset(&st, 0, sizeof st);
    bool changed =
        st.st_mtim.tv_sec != agents->dir_changed.tv_sec || st.st_mtim.tv_nsec != agents->dir_changed.tv_nsec;
    if (!changed && agents->scanned_ns && now_ns - agents->scanned_ns < SCAN_NS)
        return;
    agents->scanned_ns = now_ns;
    agents->dir_changed = st.st_mtim;
    scan(core, path, changed);
}

/* It stays if sockets are in it, or if somebody has let others in: that is meant for the next daemon, too. */
void agents_forget_dir(struct core *core)
{
    char path[300];
    struct stat st;

    dir_path(core, path);
    if (core->agents.scanned_ns && !lstat(path, &st) && st.st_uid == geteuid() &&
        (st.st_mode & 07777 & ~DIR_MODE) == 0 && getxattr(path, "system.posix_acl_access", NULL, 0) < 0)
        rmdir(path);
}
