/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * embed: balloons of VMs that embed libmemd. An engine that has one says so in its session; from there on the
 * VM has a balloon (balloons_embed()), which lasts as long as the VM, or until the engine says that it has
 * none. In between sessions nobody is there to move it. Of the loop; waits for nobody.
 */
#ifndef MEMD_DAEMON_EMBED_H
#define MEMD_DAEMON_EMBED_H

#include "memd/daemon/loop.h"
#include "memd/wire.h"

#include <stdbool.h>

struct core;
struct embedded;
struct session;
struct vm;

struct embed_vm {
    struct embedded *port; /* NULL: it has no balloon of this kind */
    int balloon;           /* its number; balloons.h */
    bool refused;          /* it could not be taken: said once */
};

/* Of core->inflate, which has the balloons. 0 or -errno. */
int embed_open(struct core *core);
void embed_close(struct core *core);

/* A BALLOON record. 0 or -EPROTO. */
int embed_heard(struct session *session, const struct wire_rec_balloon *said);
void embed_session_lost(struct vm *vm);
void embed_vm_left(struct vm *vm);

#endif
