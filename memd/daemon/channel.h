/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * channel: a session's two rings: records in, checked and handed on; records out, and the kick.
 *
 * A turn takes a bounded number of records from a session, then the next session has its turn. The daemon
 * never waits for room in a down ring and never for long leaves an up ring unread: an engine whose rings are
 * both full must find one of them moving. Proposals that find no room wait in memory (proposals.h); while too
 * many wait, hashes are left unread, at most SESSION_STUCK_MS at a time.
 */
#ifndef MEMD_DAEMON_CHANNEL_H
#define MEMD_DAEMON_CHANNEL_H

#include "memd/daemon/session.h"

/* Make the shared memory and the pipes of a session. */
int channel_open(struct session *session);
void channel_close(struct session *session);
/* Listen: from ADOPTED on. */
int channel_start(struct session *session);

/* Room for a record, or NULL; it is published at the end of the turn. `keep`: leave that many bytes free. */
void *channel_reserve(struct session *session, enum wire_rec_type type, uint32_t bytes, uint32_t keep);
/* Publish and kick what was written in this turn. */
void channel_flush_all(struct core *core);

/* Give the session its turn: send what is due, take records. True: there is more to do at once. */
bool channel_turn(struct session *session);
/* Take all records that are there now. */
void channel_drain(struct session *session);
/* Send what is due and fits. */
void channel_send_due(struct session *session);
/* Something could not be sent for want of room, which nobody announces. */
bool channel_is_waiting(const struct session *session);
/* Have channel_turn() called soon. */
void channel_wake(struct session *session);
/* Idle: memory of the rings nobody uses goes back. */
void channel_trim(struct session *session);

size_t channel_bytes(const struct session *session);
/* Of that, the memory it shares with the engine. */
size_t channel_shared_bytes(const struct session *session);

#endif
