/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * balloons: the balloons memd has been told of, for whoever shows or moves them (control API, metrics).
 *
 * Each has a thread of its own, its keeper (keeper.h), which connects, reconnects, looks and sets. The
 * functions here may be called from any thread between balloons_open() and balloons_close(), and wait for
 * nobody but, in balloons_set(), a keeper, and for that a bounded time.
 *
 * Those of the configuration are there from the beginning to the end. Others come and go with VMs that embed
 * libmemd (balloons_embed(), balloons_leave()). A balloon is named by a number that no later one has: what is
 * asked of one that is gone is -ENOENT.
 */
#ifndef BALLOON_BACKENDS_BALLOONS_H
#define BALLOON_BACKENDS_BALLOONS_H

#include "balloon-driver/backends/backend.h"

#include "memd/memd.h"

#define BALLOONS_MAX        256u  /* in the configuration */
#define BALLOONS_EMBEDDED   1024u /* of VMs that embed libmemd */
#define BALLOONS_SLOTS      (BALLOONS_MAX + BALLOONS_EMBEDDED)
#define BALLOONS_VM_BYTES   (MEMD_NAME_MAX + 1)
#define BALLOONS_NEAR_BYTES (1ull << 20) /* a target this near is reached: some VMMs count in MiB */

/* What memd is told: of which VM, where, and what it may be left with. */
struct balloons_spec {
    char vm[BALLOONS_VM_BYTES];
    char address[BALLOON_ADDRESS_BYTES]; /* scheme:where */
    uint64_t min_bytes;                  /* 0: balloons_floor() */
    uint64_t max_bytes;                  /* 0: its RAM */
    bool is_auto;                        /* moved by the policy, until somebody says otherwise */
};

/* Whether this is an address: 0, or -EINVAL with a reason. Asks nobody. */
int balloons_check_address(const char *address, struct balloon_error *error);

/* What a Linux guest of this much RAM is to be left with if nobody says otherwise (Hyper-V's driver does not
 * go below it either: drivers/hv/hv_balloon.c, compute_balloon_floor()). */
uint64_t balloons_floor(uint64_t ram_bytes);

struct balloons_options {
    const struct balloons_spec *specs;
    size_t nspecs; /* at most BALLOONS_MAX */
    const char *proc_root;
    /* 0: the default; for tests */
    unsigned call_ms;    /* BALLOON_CALL_MS */
    unsigned refresh_ms; /* how often a VMM is asked while nothing moves */
    unsigned retry_ms;   /* first pause before another attempt; doubles */
    unsigned retry_ms_max;
};

struct balloons;

/* 0, -EINVAL (too many, or an address that is none), -ENOMEM, -EMFILE, -EAGAIN (no threads) */
int balloons_open(const struct balloons_options *options, struct balloons **ret_balloons);
/* The balloon of a VM that embeds libmemd: its name, limits and is_auto of `spec` count. `asks_fd`: see
 * embedded_new(). Returns the balloon and the port its engine is heard by, valid until balloons_leave();
 * -EEXIST: the VM has one by the configuration; -ENOSPC, -ENOMEM, -EMFILE, -EAGAIN. */
int balloons_embed(struct balloons *balloons, const struct balloons_spec *spec, int asks_fd,
                   struct embedded **ret_port);
/* Its VM has none any more. Waits for nobody: what it took is freed by balloons_reap(), in time. */
void balloons_leave(struct balloons *balloons, int balloon);
void balloons_reap(struct balloons *balloons);
/* Calls into VMMs that are under way end at once; one that libvirt does not return from is left behind. */
void balloons_close(struct balloons *balloons);

enum balloons_state {
    BALLOONS_CONNECTING, /* until the first attempt has ended */
    BALLOONS_READY,
    BALLOONS_NO_DRIVER, /* the device is there, the guest does not use it */
    BALLOONS_NO_DEVICE,
    BALLOONS_TAKEN,  /* somebody else has the monitor */
    BALLOONS_GONE,   /* no VMM there; not running */
    BALLOONS_FAILED, /* no answer, nonsense, no permission, ... */
    BALLOONS_STATES
};
const char *balloons_state_name(enum balloons_state state);

/* The name of a bit of enum balloon_can, from bit 0 on; NULL: there is none. */
const char *balloons_can_name(unsigned bit);

#define BALLOONS_NEVER UINT64_MAX

struct balloons_view {
    int balloon;
    char vm[BALLOONS_VM_BYTES];
    char address[BALLOON_ADDRESS_BYTES];
    const char *backend; /* its scheme */
    unsigned backend_can;
    enum balloons_state state;
    char reason[BALLOON_REASON_BYTES]; /* why it is not ready; "" */
    struct balloon_facts facts;        /* as of age_ms ago */
    uint64_t age_ms;                   /* BALLOONS_NEVER */
    uint64_t stats_age_ms;             /* since they last changed; BALLOONS_NEVER */
    uint64_t floor_bytes;              /* no target is below it; 0: not known yet */
    uint64_t min_bytes, max_bytes;     /* as set; 0: not */
    uint64_t connects, failures, sets; /* so far */
    bool is_auto;                      /* moved by the policy */
    const char *note;                  /* balloons_note() */
    uint64_t order_serial;             /* of balloons_order(): so many were answered */
    int order_error;                   /* of the last of these: a positive errno, or 0 */
};

/* How many there are. */
size_t balloons_count(struct balloons *balloons);
/* One after the other: *cursor is 0 at first. -ENOENT: that was the last. */
int balloons_next(struct balloons *balloons, size_t *cursor);
/* -ENOENT */
int balloons_find(struct balloons *balloons, const char *vm);
/* Of the balloons there are at a time each has another: 0 to BALLOONS_SLOTS - 1. */
size_t balloons_slot(int balloon);
/* 0; -ENOENT, and what is there to be seen is that it is gone. */
int balloons_view(struct balloons *balloons, int balloon, struct balloons_view *ret_view);

/* Leave the guest `bytes`: 0 once the VMM has taken note, -errno with a reason. The guest follows in its own
 * time. */
int balloons_set(struct balloons *balloons, int balloon, uint64_t bytes, struct balloon_error *error);
/* The same, without waiting for anything: what becomes of it is in the view. One that was not carried out yet
 * is forgotten. */
void balloons_order(struct balloons *balloons, int balloon, uint64_t bytes);
/* Whether it is moved by the policy: looked at often, and no user's to move (balloons_set() is -EBUSY). */
void balloons_watch(struct balloons *balloons, int balloon, bool on);
/* What the policy made of it at its last look, for the view: a text that stays. */
void balloons_note(struct balloons *balloons, int balloon, const char *note);
/* Other limits (NULL: as it was; 0: none), as long as it is there. Moves nothing. 0, -ERANGE or -ENOENT. */
int balloons_limit(struct balloons *balloons, int balloon, const uint64_t *min_bytes,
                   const uint64_t *max_bytes, struct balloon_error *error);

#endif
