/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tree: a directory of a test's own that stands for /proc: group fixtures, and files in it. */
#ifndef MEMD_TESTS_UNIT_TREE_H
#define MEMD_TESTS_UNIT_TREE_H

extern char tree_root[];

int tree_make(void **state);
int tree_remove(void **state);
/* Makes the directories on the way, too. */
void tree_put(const char *name, const char *text);

#endif
