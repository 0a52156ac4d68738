/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests come, go, die and stand still while others share frames with them.
 *
 * Four guests of one domain hold the same content. One leaves in order, one is killed, one is stopped while
 * memd is killed and started again. Each time the others must keep their content and their sharing, the
 * references of those gone must go, and at the end no frame may be left.
 *
 * memd-test: timeout=240 san=address
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/kvm/kit.h"

#define GUESTS   4
#define CONTENTS 64 /* of memvm --shared */

static struct kit_daemon daemon_;
static struct kit_vm vms[GUESTS];
static const char *const names[GUESTS] = {"a", "b", "c", "d"};

static void start(int g)
{
    kit_vm_start(&daemon_, &vms[g], names[g],
                 KIT_ARGS("--domain", "web", "--mem", "32", "--vcpus", "2", "--thp", "off", "--zero", "25",
                          "--shared", "60", "--verify", "500"));
}

/* Common pages of one guest: 60% of the 75% that are not zero; 90% of these must be merged. */
static int64_t common(int nguests)
{
    return (int64_t)vms[0].pages * 45 / 100 * 90 / 100 * nguests;
}

/* Every guest that lives checks all of its memory once more. */
static void verify_all(void)
{
    for (int g = 0; g < GUESTS; g++) {
        if (vms[g].pid)
            kit_vm_verified(&vms[g]);
    }
}

static void leave_and_die(void)
{
    int64_t all;

    kit_settle(&daemon_, 60);
    kit_total_reaches(&daemon_, "pages_sharing", common(GUESTS) - CONTENTS);
    all = kit_total(&daemon_, "pages_sharing");
    CHECK(kit_total(&daemon_, "pages_shared") >= CONTENTS, "fewer frames than contents");

    kit_vm_end(&vms[0]);
    kit_total_falls(&daemon_, "pages_sharing", all - common(1));
    kit_total_falls(&daemon_, "vms", GUESTS - 1);
    verify_all();

    kit_vm_kill(&vms[1]);
    kit_total_falls(&daemon_, "pages_sharing", all - 2 * common(1));
    kit_total_falls(&daemon_, "vms", GUESTS - 2);
    verify_all();
}

/* c stands still; memd comes back without it, serves the others, and c finds its way when it goes on. */
static void stand_still(void)
{
    kill(vms[2].pid, SIGSTOP);
    kit_daemon_kill(&daemon_);
    kit_vm_verified(&vms[3]);
    kit_daemon_start(&daemon_, NULL);
    start(0);
    kit_total_reaches(&daemon_, "vms", 2);
    kit_total_reaches(&daemon_, "pages_sharing", common(2) - CONTENTS);
    kit_vm_rewrite(&vms[3]); /* gives up its frames, some of which only the stopped guest names */
    kit_vm_verified(&vms[3]);

    kill(vms[2].pid, SIGCONT);
    kit_total_reaches(&daemon_, "vms", 3);
    kit_total_reaches(&daemon_, "pages_sharing", common(2) - CONTENTS);
    verify_all();
}

int main(void)
{
    kit_need_kvm();
    kit_daemon_create(&daemon_, NULL);
    for (int g = 0; g < GUESTS; g++)
        start(g);
    leave_and_die();
    stand_still();
    for (int g = 0; g < GUESTS; g++) {
        if (vms[g].pid)
            kit_vm_end(&vms[g]);
    }
    kit_total_falls(&daemon_, "vms", 0);
    kit_total_falls(&daemon_, "pages_shared", 0);
    kit_daemon_end(&daemon_);
    return 0;
}
