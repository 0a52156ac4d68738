/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * device: a file system for swap files whose device can be made slow, full, failing or lying: the FUSE server
 * tests/faults/badfs.c, which is the test's own process, in a mount namespace of the test's own.
 */
#ifndef TESTS_ENGINE_DEVICE_H
#define TESTS_ENGINE_DEVICE_H

/* Before the first engine. Ends the test with 77 where nothing can be mounted. */
void device_open(void);
const char *device_dir(void);
/* Wait until this many requests wait for hold-reads or hold-writes to end. */
void device_holds(unsigned long n);
/* The commands of badfs. */
void device_set(const char *knob, unsigned long value);
void device_good(void);  /* all of them 0 */
void device_close(void); /* it is gone, with all that was on it */

#endif
