/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of the program's memory memd looks after, and the engine that does it.
 *
 * Memory that the program advises (hooks.c) is wanted. A helper thread, started with the first of it, waits
 * for a daemon, opens an engine and enrols what is wanted; no thread of the program ever waits for that.
 * Where wanted memory cannot take part for a while (locked, protected, under the program's own userfaultfd)
 * it stays wanted and is looked at again when the program undoes it.
 *
 * A forked child has no engine and none of the helper threads: it starts over, with a name of its own. Of the
 * memory it has inherited some is mapped from the parent's frames; nobody merges in that, and a discard there
 * has to be done by hand (track_discard()), and before it is moved or grows it is copied (track_own()).
 *
 * Lock: `track.lock`, taken before any lock of the engine, and after those of the program's allocator, which
 * maps and unmaps memory under its own. So at fork() ours has to be taken last, and our handlers are the
 * first to be registered (hooks.c, __register_atfork). Whoever holds it has all signals blocked and cannot be
 * cancelled: a handler that jumps away, or calls munmap() itself, would leave or find it locked. A thread
 * that is inside already, and every thread of the engine, passes the hooks by: allocators map memory at any
 * time.
 */
#ifndef MEMD_PRELOAD_TRACK_H
#define MEMD_PRELOAD_TRACK_H

#include "memd/memd.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct track_guard {
    sigset_t before;
    int cancel; /* pthread_setcancelstate() before */
};

/* May anything of [start, end) concern us? No lock, a few instructions. */
bool track_hits(uint64_t start, uint64_t end);
/* False: this thread is inside already, or the engine's, or this is a child that nobody has told of its
 * birth: it has none of the memory. */
bool track_enter(struct track_guard *guard);
void track_leave(const struct track_guard *guard);
/* The main thread is about to end, and the program with the last of its other threads. */
void track_main_ends(void);
/* fork() stops for us from now on; before anybody else has asked for that. Once, any thread. */
void track_watch_forks(void);
void wrap_watch_forks(void); /* wrap.c */
void wrap_fork_prepare(void);
void wrap_fork_done(void);
/* What fork() calls; for forks.c. */
void track_fork_prepare(void);
void track_fork_parent(void);
void track_fork_child(void);
/* This thread is the engine's own. */
void track_mark_own(void);

/* ---- inside; 0 or -errno */

int track_want(uint64_t start, uint64_t end);
/* What is mapped from a parent's frames becomes plain memory with the same bytes: before what would show the
 * file behind it. -EBUSY: other threads may be writing there. */
int track_own(uint64_t start, uint64_t end);
/* Whatever is merged there comes home and takes no part any more; it stays wanted. */
int track_cut(uint64_t start, uint64_t end, enum memd_ineligible why);
/* What is wanted of it is looked at again. */
void track_again(uint64_t start, uint64_t end);
/* The same now and then, until it takes part: nobody tells when a userfaultfd is closed. */
void track_again_later(uint64_t start, uint64_t end);
/* It is wanted no more; merged pages come home. */
int track_unwant(uint64_t start, uint64_t end);
/* `call` unmaps or replaces exactly this range, or fails and changes nothing. */
int track_unmap(uint64_t start, uint64_t end, int (*call)(void *ctx), void *ctx);
bool track_wants(uint64_t start, uint64_t end); /* any of it */
bool track_mark_is_watched(void);               /* that this thread is inside is noted in wanted memory */
/* madvise(MADV_DONTNEED, MADV_FREE, MADV_REMOVE) and the advices memd_region_advise() knows. */
int track_discard(uint64_t start, uint64_t end, int advice);
int track_advise(uint64_t start, uint64_t end, int advice);
/* All that is merged comes home and the engine ends, before mlockall(); it starts again by itself. */
int track_close(void);

/* Before a call that only processes of one thread can make: ours end, and all that is merged comes home; the
 * kernel may still count them for a moment. track_start_threads() in any case. */
bool track_has_threads(void);
int track_end_threads(void);
void track_start_threads(void);

/* Private anonymous mappings of at least this size are wanted too; 0: not. Any thread. */
uint64_t track_all_anon(void);

#endif
