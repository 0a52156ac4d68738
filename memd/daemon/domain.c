/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: see domain.h. This file: who is in a domain, and its directory, STORE_DIR/DIR:
 *   node0.frames ...        the stores
 *   engines/                the registry
 * DIR is "dom:NAME" for a configured domain, "vm:NAME.PID.START" for a VM's own. Frames: frames.c.
 */
#include "memd/daemon/domain.h"

#include "memd/common/clock.h"
#include "memd/daemon/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PRIVATE_PREFIX    "vm:"
#define CONFIGURED_PREFIX "dom:"

/* ---------------------------------------------------------------- making and destroying */

static int open_stores(struct domain *domain)
{
    struct core *core = domain->core;
    for (unsigned node = 0; node < core->nnodes; node++) {
        int err = store_open(domain->dir_fd, node, core->store_file_bytes, &core->quota,
                             &domain->stores[domain->nstores]);
        if (err)
            return err;
        domain->nstores++;
    }
    unsigned nindexes = core->config.merge_across_nodes ? 1 : domain->nstores;
    for (unsigned i = 0; i < nindexes; i++) {
        int err = index_open(&domain->indexes[domain->nindexes]);
        if (err)
            return err;
        domain->nindexes++;
    }
    return 0;
}

/* The table's nodes lie in the stores: take them out before those go. */
static void empty_indexes(struct domain *domain)
{
    for (unsigned s = 0; s < domain->nstores; s++)
        for (uint32_t i = 1; i < domain->stores[s].top; i++)
            if (domain->stores[s].frames[i].indexed)
                index_remove(domain_index(domain, s), &domain->stores[s].frames[i]);
}

static void release(struct domain *domain)
{
    empty_indexes(domain);
    for (unsigned i = 0; i < domain->nindexes; i++)
        index_close(&domain->indexes[i]);
    for (unsigned i = 0; i < domain->nstores; i++)
        store_close(&domain->stores[i]);
    if (domain->dir_fd >= 0)
        close(domain->dir_fd);
    free(domain->retired.frame);
    free(domain->fenced.frame);
    cds_list_del(&domain->link);
    free(domain);
}

static void remove_files(struct core *core, const char *dir, int dir_fd)
{
    for (unsigned node = 0; node < WIRE_NODES_MAX; node++)
        store_unlink(dir_fd, node);
    registry_destroy(dir_fd);
    if (unlinkat(core->store_fd, dir, AT_REMOVEDIR))
        log_warn("cannot remove %s/%s: %s", core->store_path, dir, strerror(errno));
}

static int make(struct core *core, const char *name, const char *dir, bool configured,
                struct domain **ret_domain)
{
    struct domain *domain = calloc(1, sizeof *domain);
    if (!domain)
        return -ENOMEM;
    domain->core = core;
    domain->configured = configured;
    snprintf(domain->name, sizeof domain->name, "%s", name);
    snprintf(domain->dir, sizeof domain->dir, "%s", dir);
    CDS_INIT_LIST_HEAD(&domain->vms);
    CDS_INIT_LIST_HEAD(&domain->awaited);
    cds_list_add_tail(&domain->link, &core->domains);

    int err = 0;
    domain->dir_fd = -1;
    if (mkdirat(core->store_fd, dir, 0700) && errno != EEXIST)
        err = -errno;
    if (!err) {
        domain->dir_fd = openat(core->store_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        err = domain->dir_fd < 0 ? -errno : open_stores(domain);
    }
    if (err) {
        release(domain);
        return err;
    }
    domain->rehash_index = 1;
    domain->rehash_store = domain->nstores;
    for (unsigned i = 0; i < domain->nstores; i++)
        if (domain->stores[i].used)
            domain->rehash_store = 0;
    *ret_domain = domain;
    return 0;
}

static bool is_deserted(const struct domain *domain)
{
    return !domain->nvms && domain->awaited.next == &domain->awaited;
}

void domain_close(struct domain *domain)
{
    struct awaited *awaited, *next;
    bool deserted = is_deserted(domain) && !domain->kept;

    cds_list_for_each_entry_safe (awaited, next, &domain->awaited, link) {
        loop_del(&domain->core->loop, &awaited->pidfd);
        close(awaited->pidfd.fd);
        cds_list_del(&awaited->link);
        domain->core->nawaited--;
        free(awaited);
    }
    domain->core->nkept += !deserted;
    if (deserted)
        remove_files(domain->core, domain->dir, domain->dir_fd);
    release(domain);
}

void domain_left(struct domain *domain)
{
    if (is_deserted(domain))
        domain_close(domain);
    else
        domain_tend_fence(domain, clock_now_ns());
}

/* ---------------------------------------------------------------- joining */

static struct domain *find_dir(struct core *core, const char *dir)
{
    struct domain *domain;
    cds_list_for_each_entry (domain, &core->domains, link)
        if (!strcmp(domain->dir, dir))
            return domain;
    return NULL;
}

static bool may_join(const struct core_domain_config *config, uid_t uid)
{
    if (uid == 0 || uid == geteuid())
        return true;
    for (size_t i = 0; i < config->nuids; i++)
        if (config->uids[i] == uid)
            return true;
    return false;
}

int domain_join(struct core *core, const char *want, const struct registry_entry *engine,
                struct domain **ret_domain)
{
    char name[CORE_NAME_BYTES + 4], dir[DOMAIN_DIR_BYTES];
    const struct core_domain_config *config = NULL;

    snprintf(name, sizeof name, PRIVATE_PREFIX "%s", engine->name);
    if (!*want || !strcmp(want, name)) {
        name[CORE_NAME_BYTES - 1] = '\0';
        snprintf(dir, sizeof dir, PRIVATE_PREFIX "%s.%d.%" PRIu64, engine->name, (int)engine->pid,
                 engine->start);
    } else {
        for (size_t i = 0; i < core->config.ndomains && !config; i++)
            if (!strcmp(core->config.domains[i].name, want))
                config = &core->config.domains[i];
        if (!config)
            return -ENOENT;
        if (!may_join(config, engine->uid))
            return -EACCES;
        snprintf(name, sizeof name, "%s", want);
        snprintf(dir, sizeof dir, CONFIGURED_PREFIX "%s", want);
    }
    struct domain *domain = find_dir(core, dir);
    if (domain) {
        *ret_domain = domain;
        return 0;
    }
    return make(core, name, dir, config != NULL, ret_domain);
}

/* ---------------------------------------------------------------- engines of an earlier daemon */

void domain_forget_awaited(struct awaited *awaited)
{
    struct domain *domain = awaited->domain;

    loop_del(&domain->core->loop, &awaited->pidfd);
    close(awaited->pidfd.fd);
    cds_list_del(&awaited->link);
    domain->core->nawaited--;
    free(awaited);
    if (cds_list_empty(&domain->awaited))
        domain_retire_unused(domain);
}

static void on_awaited_dead(struct loop_source *source, uint32_t events)
{
    struct awaited *awaited = caa_container_of(source, struct awaited, pidfd);
    struct domain *domain = awaited->domain;

    (void)events;
    log_info("VM %s (pid %d) has ended while memd was away", awaited->entry.name, (int)awaited->entry.pid);
    registry_remove(domain->dir_fd, &awaited->entry);
    domain_forget_awaited(awaited);
    domain_left(domain);
}

static int await_engine(void *ctx, const struct registry_entry *entry)
{
    struct domain *domain = ctx;
    struct core *core = domain->core;
    int pidfd = proc_open_pidfd(core->config.proc_root, entry->pid, entry->start);

    if (pidfd == -ESRCH || pidfd == -EINVAL) {
        registry_remove(domain->dir_fd, entry);
        return 0;
    }
    if (pidfd < 0)
        return pidfd;
    struct awaited *awaited = calloc(1, sizeof *awaited);
    if (!awaited) {
        close(pidfd);
        return -ENOMEM;
    }
    *awaited =
        (struct awaited){.domain = domain, .entry = *entry, .pidfd = {.fd = pidfd, .ready = on_awaited_dead}};
    int err = loop_add(&core->loop, &awaited->pidfd, EPOLLIN);
    if (err) {
        close(pidfd);
        free(awaited);
        return err;
    }
    cds_list_add_tail(&awaited->link, &domain->awaited);
    core->nawaited++;
    return 0;
}

struct awaited *domain_find_awaited(struct core *core, const struct registry_entry *engine)
{
    struct awaited *awaited = domain_find_awaited_name(core, engine->name);
    return awaited && awaited->entry.pid == engine->pid && awaited->entry.start == engine->start ? awaited
                                                                                                 : NULL;
}

struct awaited *domain_find_awaited_name(struct core *core, const char *name)
{
    struct domain *domain;
    struct awaited *awaited;
    cds_list_for_each_entry (domain, &core->domains, link)
        cds_list_for_each_entry (awaited, &domain->awaited, link)
            if (!strcmp(awaited->entry.name, name))
                return awaited;
    return NULL;
}

/* ---------------------------------------------------------------- at start */

/* The domain's name from its directory's. Returns false if it is none of ours. */
static bool parse_dir(const char *dir, char name[CORE_NAME_BYTES], bool *ret_configured)
{
    size_t skip = strlen(CONFIGURED_PREFIX);
    *ret_configured = !strncmp(dir, CONFIGURED_PREFIX, skip);
    if (*ret_configured)
        return snprintf(name, CORE_NAME_BYTES, "%s", dir + skip) < CORE_NAME_BYTES;
    if (strncmp(dir, PRIVATE_PREFIX, strlen(PRIVATE_PREFIX)) || strlen(dir) >= DOMAIN_DIR_BYTES)
        return false;

    char copy[DOMAIN_DIR_BYTES];
    strcpy(copy, dir);
    for (int i = 0; i < 2; i++) {
        char *dot = strrchr(copy, '.');
        if (!dot)
            return false;
        *dot = '\0';
    }
    copy[CORE_NAME_BYTES - 1] = '\0';
    strcpy(name, copy);
    return true;
}

static int reopen(struct core *core, const char *dir)
{
    char name[CORE_NAME_BYTES];
    bool configured;
    struct domain *domain;

    if (!parse_dir(dir, name, &configured)) {
        log_warn("%s/%s is not a domain of memd, left alone", core->store_path, dir);
        return 0;
    }
    int err = make(core, name, dir, configured, &domain);
    if (err)
        return err;
    err = registry_each(domain->dir_fd, await_engine, domain);
    if (err || is_deserted(domain)) {
        domain_close(domain);
        return err;
    }
    heirs_suspect(domain);
    uint64_t frames = 0;
    for (unsigned i = 0; i < domain->nstores; i++)
        frames += domain->stores[i].used;
    log_info("domain %s: %" PRIu64 " frames of an earlier memd, in use by engines that will be back", name,
             frames);
    return 0;
}

int domain_reopen_all(struct core *core)
{
    int fd = openat(core->store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int err = -errno;
        if (fd >= 0)
            close(fd);
        return err;
    }
    int err = 0;
    for (struct dirent *file; !err && (file = readdir(dir));)
        if (file->d_name[0] != '.' && file->d_type == DT_DIR)
            err = reopen(core, file->d_name);
    closedir(dir);
    return err;
}

size_t domain_metadata_bytes(const struct domain *domain)
{
    size_t bytes = sizeof *domain + (domain->retired.room + domain->fenced.room) * sizeof(uint32_t);
    for (unsigned i = 0; i < domain->nstores; i++)
        bytes += store_metadata_bytes(&domain->stores[i]);
    for (unsigned i = 0; i < domain->nindexes; i++)
        bytes += index_bytes(&domain->indexes[i]);
    return bytes;
}
