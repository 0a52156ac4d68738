/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * backend: what a balloon backend is - the one way memd speaks to the balloon of a VM, whatever its VMM.
 *
 * A backend is a table of functions. Each VM with a balloon has a thread (balloons.c) that opens a peer, the
 * backend's connection to one VMM, and calls it, always from that thread and one call at a time: a backend
 * keeps no global state and needs no lock. A call may block, but not for longer than BALLOON_CALL_MS, and it
 * returns at once when memd stops (struct balloon_ctl). What libvirt does in there is out of our hands:
 * whoever waits for a thread gives up by himself.
 *
 * Units. VMMs differ (QEMU: bytes left to the guest, Firecracker: MiB in the balloon, Cloud Hypervisor: bytes
 * in the balloon). Here, and in everything users see, a size is what is LEFT TO THE GUEST, in bytes:
 * actual_bytes + the balloon = ram_bytes.
 *
 * Everything a VMM says is hostile: answers are bounded (link.h), numbers checked and clamped (facts.h),
 * texts made printable (balloon_fail()).
 *
 * Errors are negative errno values; with each comes one line for users:
 *   -ENODEV       the VM has no balloon          -ENOTCONN   nobody there, or gone
 *   -EBUSY        somebody else has the monitor  -ETIMEDOUT  no answer in time
 *   -EPROTO       nonsense                       -EACCES     we may not
 *   -ENOTSUP      it cannot do that              -ERANGE     it does not want that size
 *   -ESHUTDOWN    memd is ending                 -ENOMEM
 * After -ENOTCONN, -ETIMEDOUT, -EPROTO, -ESHUTDOWN and -ENOMEM the peer is of no more use and is closed.
 */
#ifndef BALLOON_BACKENDS_BACKEND_H
#define BALLOON_BACKENDS_BACKEND_H

#include "memd/balloon.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BALLOON_CALL_MS       5000u
#define BALLOON_REASON_BYTES  200u
#define BALLOON_ADDRESS_BYTES 192u
#define BALLOON_RAM_MAX       (1ull << 50) /* a VMM that claims more lies */

/* What a backend, or the device it found, can do. */
enum balloon_can {
    BALLOON_CAN_TARGET = 1 << 0,         /* take a size */
    BALLOON_CAN_ACTUAL = 1 << 1,         /* say how far the guest has got */
    BALLOON_CAN_STATS = 1 << 2,          /* statistics of the guest's memory */
    BALLOON_CAN_REPORTING = 1 << 3,      /* free page reporting */
    BALLOON_CAN_DEFLATE_ON_OOM = 1 << 4, /* the guest takes memory back before it kills */
    BALLOON_CAN_EVENTS = 1 << 5,         /* say by itself that the balloon has moved */
    BALLOON_CAN_DRIVER = 1 << 6,         /* say whether the guest has a driver */
};

/* What is known of a balloon. refresh() fills it in; what the VMM does not say stays as it was. */
struct balloon_facts {
    unsigned can; /* of this VM's device; of REPORTING and DEFLATE_ON_OOM: they are on */
    uint64_t ram_bytes;
    uint64_t actual_bytes;             /* 0: not known */
    uint64_t target_bytes;             /* 0: not known; set() and VMMs that say it fill it in */
    bool no_driver;                    /* the guest has none; with CAN_DRIVER */
    bool migrating;                    /* the VM is on its way to another host, where the VMM says so */
    uint32_t pid;                      /* of who listens at its socket; 0: not known */
    uint64_t events;                   /* heard so far */
    uint64_t stats_serial;             /* another number whenever the guest has sent new ones; 0: none yet */
    uint64_t stats[MEMD_BALLOON_TAGS]; /* MEMD_BALLOON_NO_STAT: not said */
};

struct balloon_error {
    int error; /* positive errno */
    char reason[BALLOON_REASON_BYTES];
};

struct embedded;

/* How a peer waits. */
struct balloon_ctl {
    int stop_fd;            /* readable once memd is ending: every wait ends */
    int wake_fd;            /* readable when there is something to do: wait() ends, other calls go on */
    const char *proc_root;  /* "/proc", or a test's own */
    unsigned call_ms;       /* BALLOON_CALL_MS, or a test's own */
    unsigned stats_every_s; /* how often guests are to send statistics, where the VMM leaves it to us */
    struct embedded *port;  /* embedded.h; NULL: of all others */
};

#define BALLOON_BACKEND_VERSION 1u

struct balloon_backend {
    uint32_t version;   /* BALLOON_BACKEND_VERSION it was written for; others are refused */
    uint32_t size;      /* sizeof(struct balloon_backend) then; later versions append */
    const char *scheme; /* addresses begin with it and a colon */
    unsigned can;       /* at most */

    /* Whether what follows the colon is an address, without asking anybody. 0, or -EINVAL with a reason. */
    int (*check)(const char *address, struct balloon_error *error);
    /* Connect. 0 or -errno. */
    int (*open)(const struct balloon_ctl *ctl, const char *address, void **ret_peer,
                struct balloon_error *error);
    /* Ask for what there is to know; `quick`: only for how far it has got. -ENODEV may change later. */
    int (*refresh)(void *peer, bool quick, struct balloon_facts *facts, struct balloon_error *error);
    /* Leave the guest `bytes`, at most facts->ram_bytes of the last refresh(). 0: the VMM has taken note. */
    int (*set)(void *peer, uint64_t bytes, struct balloon_facts *facts, struct balloon_error *error);
    /* Until there is an event, ctl->wake_fd, or `ms` have passed; events may change the facts. NULL: none. */
    int (*wait)(void *peer, unsigned ms, struct balloon_facts *facts, struct balloon_error *error);
    void (*close)(void *peer);
};

extern const struct balloon_backend balloon_qmp;
extern const struct balloon_backend balloon_firecracker;
extern const struct balloon_backend balloon_cloud_hypervisor;
extern const struct balloon_backend balloon_libvirt;
extern const struct balloon_backend balloon_embedded; /* has no addresses: embedded.h */

/* Note an error, its text made printable and cut. Returns -errno. */
__attribute__((format(printf, 3, 4))) int balloon_fail(struct balloon_error *error, int negative_errno,
                                                       const char *format, ...);

/* Of the backends that speak to a socket: an absolute path that fits into its address. */
int balloon_check_path(const char *address, struct balloon_error *error);

#endif
