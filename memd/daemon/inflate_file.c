/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see inflate_file.h. A line for each balloon: auto NAME on|off */
#include "memd/daemon/inflate_file.h"

#include "memd/common/log.h"
#include "memd/daemon/state.h"
#include "memd/daemon/state_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WHAT       "balloons"
#define LINE_BYTES 128

static unsigned put_all(FILE *out, const struct core *core)
{
    unsigned n = 0;

    for (size_t i = 0; i < core->inflate.n; i++)
        if (core->inflate.one[i].is_set)
            fprintf(out, "auto %s %s\n", core->inflate.one[i].view.vm,
                    core->inflate.one[i].on ? "on" : "off"),
                n++;
    return n;
}

void inflate_file_write(struct core *core)
{
    state_file_write(core, WHAT, put_all, "which balloons memd moves is not kept for the next start");
}

static bool recall(struct core *core, const char *line)
{
    char name[CORE_NAME_BYTES], state[4];

    if (sscanf(line, "auto %63s %3s", name, state) != 2 || (strcmp(state, "on") && strcmp(state, "off")))
        return false;
    for (size_t i = 0; i < core->inflate.n; i++)
        if (!strcmp(core->inflate.one[i].view.vm, name)) {
            core->inflate.one[i].on = !strcmp(state, "on");
            core->inflate.one[i].is_set = true;
        }
    return true;
}

void inflate_file_read(struct core *core)
{
    char path[STATE_FILE_BYTES], line[LINE_BYTES];

    state_file_path(core, WHAT, path);
    FILE *in = fopen(path, "re");
    if (!in) {
        if (errno != ENOENT)
            core_warn(core, "%s cannot be read (%s): balloons are moved as the configuration says", path,
                      strerror(errno));
        return;
    }
    while (fgets(line, sizeof line, in))
        if (!recall(core, line))
            log_warn("%s: a line that says nothing is left out: %.60s", path, line);
    fclose(in);
}
