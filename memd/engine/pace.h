/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * pace: a VM that touches its pages faster than they can leave is held back.
 *
 * Pages are brought home by the fault server at the priority of the VMM, and taken out by the worker, which
 * is niced. Where CPU is short the VM wins, and its memory stays far above what it is to have for as long as
 * it likes; the host then ends somebody. The kernel lets those who allocate pay for reclaim; here, while any
 * page is to go (WIRE_PAGEOUT_ALL, state low), the server waits before it answers if more has come home than
 * half of what has gone: PACE_MIN_US a page, twice as long each time that is found, PACE_MAX_US at most, and
 * for PACE_TURN_US in a turn at most. Who waits gives the worker its CPU.
 *
 * It lasts as long as pages are wanted that nobody is given the time to touch before they go (state hard,
 * too): else the VM has everything back as soon as it is below. After that it is halved every PACE_HALF_NS.
 *
 * The worker measures; the fault server reads.
 */
#ifndef MEMD_ENGINE_PACE_H
#define MEMD_ENGINE_PACE_H

#include "memd/engine/engine.h"

#define PACE_MIN_US  50u
#define PACE_MAX_US  2000u
#define PACE_TURN_US 10000u
#define PACE_HALF_NS 1000000000ull
#define PACE_PARK_MS 500u /* orders that leave a page as long to be touched are in no hurry */

/* An order begins. */
void pace_begin(struct memd *m, const struct wire_rec_page *order);
/* Of one to take any page: some more has gone, or was to go. */
void pace_measure(struct memd *m);
/* The fault server's, before it answers `npages` faults. */
void pace_wait(struct memd *m, unsigned npages);

#endif
