/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * embedded: the balloon of a VMM that embeds libmemd. It has no address: its engine speaks of it in its
 * session with memd (WIRE_REC_BALLOON, WIRE_BALLOON_ASK; memd/wire.h), which belongs to the daemon's loop.
 * Here is the port between that loop and the balloon's keeper, whose backend this is.
 *
 * Threads: what begins with embedded_ is the loop's; the backend's functions are the keeper's. A keeper waits
 * for an engine's answer, for BALLOON_CALL_MS at most; the loop waits for nobody.
 */
#ifndef BALLOON_BACKENDS_EMBEDDED_H
#define BALLOON_BACKENDS_EMBEDDED_H

#include "balloon-driver/backends/backend.h"
#include "memd/wire.h"

#define EMBEDDED_ADDRESS "embedded"
#define EMBEDDED_NEWS_MS 10u /* between two looks at what an engine says, however often it does */

struct embedded;

/* Whether a record is one that an engine may send. */
bool embedded_is_sane(const struct wire_rec_balloon *said);

/* `asks_fd`: an eventfd that counts up when embedded_ask() has something; `wake_fd`: of the keeper. Both must
 * outlive the port. NULL: no memory, no descriptors. */
struct embedded *embedded_new(int asks_fd, int wake_fd);
void embedded_free(struct embedded *port);

/* The engine has said how it is; with WIRE_BALLOON_ATTACHED, and sane. */
void embedded_say(struct embedded *port, const struct wire_rec_balloon *said);
/* It has no session any more. */
void embedded_lost(struct embedded *port);
/* What is to be sent to it: false: nothing. */
bool embedded_ask(struct embedded *port, struct wire_msg_balloon_ask *ret_ask);

#endif
