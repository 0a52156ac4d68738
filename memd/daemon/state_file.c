/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see state_file.h. */
#include "memd/daemon/state_file.h"

#include "memd/daemon/state.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

void state_file_path(const struct core *core, const char *what, char ret_path[STATE_FILE_BYTES])
{
    const char *run_dir = core->config.run_dir;

    snprintf(ret_path, STATE_FILE_BYTES, "%s/%s.%08x", core->config.state_dir, what,
             (unsigned)XXH3_64bits(run_dir, strlen(run_dir)));
}

void state_file_write(struct core *core, const char *what,
                      unsigned (*put)(FILE *out, const struct core *core), const char *loss)
{
    char path[STATE_FILE_BYTES], other[STATE_FILE_BYTES + 4];
    int err = 0;

    state_file_path(core, what, path);
    snprintf(other, sizeof other, "%s.new", path);
    FILE *out = fopen(other, "we");
    if (!out) {
        err = errno;
    } else {
        unsigned n = put(out, core);
        bool failed = ferror(out);
        if (fclose(out) || failed)
            err = errno ? errno : EIO;
        else if (n ? rename(other, path) : unlink(path) && errno != ENOENT)
            err = errno;
        unlink(other);
    }
    if (err)
        core_warn(core, "%s cannot be written (%s): %s", path, strerror(err), loss);
}
