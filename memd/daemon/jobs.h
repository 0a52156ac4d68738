/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MEMD_DAEMON_JOBS_H
#define MEMD_DAEMON_JOBS_H
struct jobs { int none; };
#endif
