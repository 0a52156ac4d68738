/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see embed.h. */
#include "memd/daemon/embed.h"

#include "balloon-driver/backends/embedded.h"
#include "memd/daemon/state.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static_assert(BALLOONS_EMBEDDED >= CORE_VMS_MAX, "one for each VM");

/* What the balloons' threads ask for goes to their engines. One that does not read its socket is not asked,
 * and its balloon's thread gives up by itself. */
static void send_ask(struct vm *vm)
{
    struct wire_msg_balloon_ask ask;

    if (!session_is_live(vm->session) || !embedded_ask(vm->embed.port, &ask))
        return;
    ask.h = (struct wire_msg){.magic = WIRE_MAGIC, .type = WIRE_BALLOON_ASK, .bytes = sizeof ask};
    ssize_t ignored = send(vm->session->sock.fd, &ask, sizeof ask, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)ignored;
}

static void on_asks(struct loop_source *source, uint32_t events)
{
    struct inflate *inflate = caa_container_of(source, struct inflate, asks);
    struct core *core = caa_container_of(inflate, struct core, inflate);
    struct vm *vm;
    uint64_t count;

    (void)events;
    ssize_t ignored = read(source->fd, &count, sizeof count);
    (void)ignored; /* every port says what it has */
    cds_list_for_each_entry (vm, &core->vms, link)
        if (vm->embed.port)
            send_ask(vm);
}

int embed_open(struct core *core)
{
    struct loop_source *asks = &core->inflate.asks;

    *asks = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_asks};
    if (asks->fd < 0)
        return -errno;
    int err = loop_add(&core->loop, asks, EPOLLIN);
    if (err)
        close(asks->fd);
    return err;
}

void embed_close(struct core *core)
{
    struct vm *vm;

    cds_list_for_each_entry (vm, &core->vms, link)
        vm->embed = (struct embed_vm){0};
    loop_del(&core->loop, &core->inflate.asks);
    close(core->inflate.asks.fd);
}

static void refuse(struct vm *vm, int result)
{
    if (!vm->embed.refused && session_may_log(vm->session))
        log_warn("balloon of VM %s: that of its engine is not used: %s", vm->engine.name,
                 result == -EEXIST ? "the configuration names another ([vm NAME] balloon)"
                                   : strerror(-result));
    vm->embed.refused = true;
}

static void begin(struct vm *vm)
{
    struct embedded *port;
    int result = inflate_embed(vm->core, vm->engine.name, &port);

    if (result < 0) {
        refuse(vm, result);
        return;
    }
    vm->embed = (struct embed_vm){.port = port, .balloon = result};
}

int embed_heard(struct session *session, const struct wire_rec_balloon *said)
{
    struct vm *vm = session->vm;

    if (!session->balloons || !embedded_is_sane(said))
        return -EPROTO;
    if (!vm->core->inflate.balloons)
        return 0;
    if (!(said->flags & WIRE_BALLOON_ATTACHED)) {
        embed_vm_left(vm);
        return 0;
    }
    if (!vm->embed.port)
        begin(vm);
    if (vm->embed.port)
        embedded_say(vm->embed.port, said);
    return 0;
}

void embed_session_lost(struct vm *vm)
{
    if (vm->embed.port)
        embedded_lost(vm->embed.port);
}

void embed_vm_left(struct vm *vm)
{
    if (vm->embed.port)
        inflate_leave(vm->core, vm->embed.balloon);
    vm->embed = (struct embed_vm){0};
}
