/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt: the balloon of a domain, through libvirt and the monitor it owns.
 *
 * libvirt.so.0 is loaded when the first such balloon is opened: memd does not depend on it. Its functions may
 * be called from several threads; the last error is kept by thread. They cannot be given a deadline: one that
 * hangs keeps the keeper of its balloon, and nobody else. No event loop is run, so there are no events.
 *
 * An address is URI/DOMAIN: everything up to the last slash is the URI (qemu:///system), the rest the name of
 * the domain. A domain that is not running is as one that is not there.
 */
#include "balloon-driver/backends/facts.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB                    10 /* libvirt counts in it, as a shift */
#define VIR_DOMAIN_AFFECT_LIVE 1u
#define XML_BYTES_MAX          (16u << 20)
#define STATS_MAX              16

/* Of libvirt/libvirt-domain.h, whose ABI is fixed. */
struct vir_info {
    unsigned char state;
    unsigned long max_memory_kib, memory_kib;
    unsigned short nvcpus;
    unsigned long long cpu_ns;
};
struct vir_stat {
    int tag;
    unsigned long long value;
};
enum vir_tag { /* VIR_DOMAIN_MEMORY_STAT_... */
               VIR_SWAP_IN,
               VIR_SWAP_OUT,
               VIR_MAJOR_FAULT,
               VIR_MINOR_FAULT,
               VIR_UNUSED,
               VIR_AVAILABLE,
               VIR_ACTUAL,
               VIR_RSS,
               VIR_USABLE,
               VIR_LAST_UPDATE,
               VIR_DISK_CACHES,
               VIR_HUGETLB_PGALLOC,
               VIR_HUGETLB_PGFAIL
};

struct library {
    char error[160]; /* "": it is there */
    int (*initialize)(void);
    void (*set_error_func)(void *data, void (*handler)(void *data, void *error));
    const char *(*last_error)(void);
    void *(*connect_open)(const char *uri);
    int (*connect_close)(void *connection);
    int (*connect_is_alive)(void *connection);
    void *(*lookup)(void *connection, const char *name);
    int (*domain_free)(void *domain);
    int (*is_active)(void *domain);
    int (*get_info)(void *domain, struct vir_info *ret_info);
    int (*set_memory)(void *domain, unsigned long kib, unsigned flags);
    int (*memory_stats)(void *domain, struct vir_stat *ret_stats, unsigned n, unsigned flags);
    int (*stats_period)(void *domain, int seconds, unsigned flags);
    char *(*get_xml)(void *domain, unsigned flags);
};

static struct library library; /* written once, by library_load() */
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

struct peer {
    const struct balloon_ctl *ctl;
    void *connection, *domain;
    unsigned can;
    bool no_device;
};

/* ---------------------------------------------------------------- the library */

/* libvirt would write errors to stderr. */
static void on_error(void *data, void *error)
{
    (void)data, (void)error;
}

static void library_load(void)
{
    struct library *l = &library;
    const struct {
        const char *name;
        void *function;
    } symbols[] = {
        {"virInitialize", &l->initialize},
        {"virSetErrorFunc", &l->set_error_func},
        {"virGetLastErrorMessage", &l->last_error},
        {"virConnectOpen", &l->connect_open},
        {"virConnectClose", &l->connect_close},
        {"virConnectIsAlive", &l->connect_is_alive},
        {"virDomainLookupByName", &l->lookup},
        {"virDomainFree", &l->domain_free},
        {"virDomainIsActive", &l->is_active},
        {"virDomainGetInfo", &l->get_info},
        {"virDomainSetMemoryFlags", &l->set_memory},
        {"virDomainMemoryStats", &l->memory_stats},
        {"virDomainSetMemoryStatsPeriod", &l->stats_period},
        {"virDomainGetXMLDesc", &l->get_xml},
    };
    void *handle = dlopen("libvirt.so.0", RTLD_NOW | RTLD_LOCAL);

    if (!handle) {
        snprintf(l->error, sizeof l->error, "libvirt.so.0 cannot be loaded; install libvirt0");
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *found = dlsym(handle, symbols[i].name);
        if (!found) {
            snprintf(l->error, sizeof l->error, "libvirt.so.0 is too old: it has no %s", symbols[i].name);
            return;
        }
        memcpy(symbols[i].function, &found, sizeof found);
    }
    if (l->initialize() < 0)
        snprintf(l->error, sizeof l->error, "libvirt does not start");
    else
        l->set_error_func(NULL, on_error);
    /* never unloaded: it may have threads */
}

static int refused(struct balloon_error *error, int result)
{
    const char *why = library.last_error();

    return balloon_fail(error, result, "libvirt: %.170s", why ? why : "no reason given");
}

/* ---------------------------------------------------------------- a domain */

static int libvirt_check(const char *address, struct balloon_error *error)
{
    const char *slash = strrchr(address, '/');

    if (!slash || slash == address || !slash[1] || !strstr(address, "://"))
        return balloon_fail(error, -EINVAL, "give libvirt:URI/DOMAIN, as in libvirt:qemu:///system/web1");
    return 0;
}

static void libvirt_close(void *arg)
{
    struct peer *peer = arg;

    if (peer->domain)
        library.domain_free(peer->domain);
    if (peer->connection)
        library.connect_close(peer->connection);
    free(peer);
}

/* The attributes of <memballoon>, of a text that a VMM's owner may have written. */
static void device_read(struct peer *peer)
{
    char element[512], *xml = library.get_xml(peer->domain, 0);
    const char *begin =
        xml && strnlen(xml, XML_BYTES_MAX) < XML_BYTES_MAX ? strstr(xml, "<memballoon") : NULL;

    peer->can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS;
    peer->no_device = false;
    if (begin) {
        snprintf(element, sizeof element, "%.*s", (int)strcspn(begin, ">"), begin);
        peer->no_device = strstr(element, "model='none'");
        if (strstr(element, "autodeflate='on'"))
            peer->can |= BALLOON_CAN_DEFLATE_ON_OOM;
        if (strstr(element, "freePageReporting='on'"))
            peer->can |= BALLOON_CAN_REPORTING;
    }
    free(xml);
}

static int libvirt_open(const struct balloon_ctl *ctl, const char *address, void **ret_peer,
                        struct balloon_error *error)
{
    char uri[BALLOON_ADDRESS_BYTES];
    const char *slash = strrchr(address, '/');

    pthread_once(&library_once, library_load);
    if (library.error[0])
        return balloon_fail(error, -EACCES, "%s", library.error);
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return balloon_fail(error, -ENOMEM, "out of memory");
    peer->ctl = ctl;
    snprintf(uri, sizeof uri, "%.*s", (int)(slash - address), address);
    if (slash[-1] == '/') /* qemu:///web1 is no URI without a path */
        snprintf(uri, sizeof uri, "%.*s", (int)(slash + 1 - address), address);
    peer->connection = library.connect_open(uri);
    peer->domain = peer->connection ? library.lookup(peer->connection, slash + 1) : NULL;
    if (!peer->domain || library.is_active(peer->domain) != 1) {
        int result = peer->domain
                         ? balloon_fail(error, -ENOTCONN, "libvirt: domain %.100s is not running", slash + 1)
                         : refused(error, -ENOTCONN);
        libvirt_close(peer);
        return result;
    }
    device_read(peer);
    if (!peer->no_device)
        library.stats_period(peer->domain, (int)ctl->stats_every_s, VIR_DOMAIN_AFFECT_LIVE);
    *ret_peer = peer;
    return 0;
}

static int get_stats(struct peer *peer, struct balloon_facts *facts)
{
    static const struct {
        enum vir_tag from;
        enum memd_balloon_tag to;
        unsigned shift;
    } tags[] = {
        {VIR_SWAP_IN, MEMD_BALLOON_SWAP_IN_BYTES, KIB},
        {VIR_SWAP_OUT, MEMD_BALLOON_SWAP_OUT_BYTES, KIB},
        {VIR_MAJOR_FAULT, MEMD_BALLOON_MAJOR_FAULTS, 0},
        {VIR_MINOR_FAULT, MEMD_BALLOON_MINOR_FAULTS, 0},
        {VIR_UNUSED, MEMD_BALLOON_FREE_BYTES, KIB},
        {VIR_AVAILABLE, MEMD_BALLOON_TOTAL_BYTES, KIB},
        {VIR_USABLE, MEMD_BALLOON_AVAILABLE_BYTES, KIB},
        {VIR_DISK_CACHES, MEMD_BALLOON_CACHES_BYTES, KIB},
        {VIR_HUGETLB_PGALLOC, MEMD_BALLOON_HUGETLB_ALLOCS, 0},
        {VIR_HUGETLB_PGFAIL, MEMD_BALLOON_HUGETLB_FAILS, 0},
    };
    struct vir_stat stats[STATS_MAX];
    int n = library.memory_stats(peer->domain, stats, STATS_MAX, 0);
    uint64_t serial = 0;

    if (n < 0)
        return -ENOTSUP;
    facts_clear_stats(facts);
    for (int i = 0; i < n && i < STATS_MAX; i++) {
        if (stats[i].tag == VIR_LAST_UPDATE)
            serial = stats[i].value;
        for (size_t t = 0; t < sizeof tags / sizeof tags[0]; t++)
            if (stats[i].tag == (int)tags[t].from && stats[i].value <= BALLOON_RAM_MAX)
                facts->stats[tags[t].to] = (uint64_t)stats[i].value << tags[t].shift;
    }
    facts->stats_serial = serial;
    return 0;
}

static int libvirt_refresh(void *arg, bool quick, struct balloon_facts *facts, struct balloon_error *error)
{
    struct peer *peer = arg;
    struct vir_info info;

    if (library.get_info(peer->domain, &info) < 0)
        return refused(error, -ENOTCONN);
    if (library.connect_is_alive(peer->connection) != 1 || library.is_active(peer->domain) != 1)
        return balloon_fail(error, -ENOTCONN, "libvirt: the domain has ended");
    if (peer->no_device)
        return balloon_fail(error, -ENODEV, "libvirt: the domain has <memballoon model='none'>");
    facts->ram_bytes = (uint64_t)info.max_memory_kib << KIB;
    facts->actual_bytes = (uint64_t)info.memory_kib << KIB;
    facts->can = peer->can;
    if (!quick && get_stats(peer, facts))
        facts->can &= ~(unsigned)BALLOON_CAN_STATS;
    return 0;
}

static int libvirt_set(void *arg, uint64_t bytes, struct balloon_facts *facts, struct balloon_error *error)
{
    struct peer *peer = arg;

    if (library.set_memory(peer->domain, (unsigned long)(bytes >> KIB), VIR_DOMAIN_AFFECT_LIVE) < 0)
        return refused(error, library.connect_is_alive(peer->connection) == 1 ? -ERANGE : -ENOTCONN);
    facts->target_bytes = bytes >> KIB << KIB;
    return 0;
}

const struct balloon_backend balloon_libvirt = {
    .version = BALLOON_BACKEND_VERSION,
    .size = sizeof(struct balloon_backend),
    .scheme = "libvirt",
    .can = BALLOON_CAN_TARGET | BALLOON_CAN_ACTUAL | BALLOON_CAN_STATS | BALLOON_CAN_REPORTING |
           BALLOON_CAN_DEFLATE_ON_OOM,
    .check = libvirt_check,
    .open = libvirt_open,
    .refresh = libvirt_refresh,
    .set = libvirt_set,
    .close = libvirt_close,
};
