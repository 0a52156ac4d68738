/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* thp: transparent huge pages are to be had. QEMU asks for them for guest RAM. */
#ifndef BENCH_QEMU_THP_H
#define BENCH_QEMU_THP_H

/* If the machine never gives any, those who ask get them until thp_restore(). */
void thp_save(void);
void thp_allow(void);
void thp_restore(void); /* for the guardian */

#endif
