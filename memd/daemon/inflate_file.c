/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see inflate_file.h. A line for each balloon: auto NAME on|off */
#include "memd/daemon/inflate_file.h"

#include "memd/common/log.h"
#include "memd/daemon/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define PATH_BYTES 300
#define LINE_BYTES 128

static void file_path(const struct core *core, const char *suffix, char path[PATH_BYTES])
{
    const char *run_dir = core->config.run_dir;

    snprintf(path, PATH_BYTES, "%s/balloons.%08x%s", core->config.state_dir,
             (unsigned)XXH3_64bits(run_dir, strlen(run_dir)), suffix);
}

void inflate_file_write(struct core *core)
{
    char path[PATH_BYTES], other[PATH_BYTES];
    int err = 0;

    file_path(core, "", path);
    file_path(core, ".new", other);
    FILE *out = fopen(other, "we");
    if (!out) {
        err = errno;
    } else {
        for (size_t i = 0; i < core->inflate.n; i++)
            if (core->inflate.one[i].is_set)
                fprintf(out, "auto %s %s\n", core->inflate.one[i].view.vm, core->inflate.one[i].on ? "on" : "off");
        bool failed = ferror(out);
        if (fclose(out) || failed)
            err = errno ? errno : EIO;
        else if (rename(other, path))
            err = errno;
        unlink(other);
    }
    if (err)
        core_warn(core, "%s cannot be written (%s): which balloons memd moves is not kept for the next start",
                  path, strerror(err));
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
    char path[PATH_BYTES], line[LINE_BYTES];

    file_path(core, "", path);
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
