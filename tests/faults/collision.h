/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* collision: two pages with different bytes and the same XXH3_64bits(). */
#ifndef TESTS_FAULTS_COLLISION_H
#define TESTS_FAULTS_COLLISION_H

/* ret_a and ret_b: WIRE_PAGE_BYTES each; always the same two pages. */
void collision_make(void *ret_a, void *ret_b);

#endif
