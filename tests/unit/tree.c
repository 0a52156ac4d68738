/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see tree.h. */
#include "tests/unit/tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

char tree_root[] = "proc.XXXXXX";

void tree_put(const char *name, const char *text)
{
    char path[300];

    snprintf(path, sizeof path, "%s/%s", tree_root, name);
    for (char *slash = path + strlen(tree_root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        mkdir(path, 0755);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

int tree_make(void **state)
{
    (void)state;
    return !mkdtemp(tree_root);
}

int tree_remove(void **state)
{
    char command[64];

    (void)state;
    snprintf(command, sizeof command, "rm -r %s", tree_root);
    return system(command);
}
