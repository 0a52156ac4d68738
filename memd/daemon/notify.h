/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* notify: tells the service manager how it goes with the daemon; see notify.c. */
#ifndef MEMD_DAEMON_NOTIFY_H
#define MEMD_DAEMON_NOTIFY_H

/* Lines as sd_notify(3) has them. Nothing happens where nobody asked to be told. Start and end only. */
void notify_manager(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
