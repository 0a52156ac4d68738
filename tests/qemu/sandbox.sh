#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# memd-test: timeout=300 san=no
#
# QEMU in its seccomp sandbox, as libvirt starts it (no process may be spawned, no right gained, no resource control
# changed) and as a user might: the guests are merged, with a memd that is killed and back, and lose nothing.
# shellcheck source=tests/qemu/under_memd.sh
. "$(dirname "$0")/under_memd.sh"

memd_set_up
qemu_launch libvirt 160 -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
qemu_launch sandbox 160 -sandbox on
guests_live libvirt sandbox
qemu_end libvirt sandbox
memd_tear_down
