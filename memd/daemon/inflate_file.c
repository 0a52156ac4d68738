/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see inflate_file.h. Lines for each balloon: auto NAME on|off; limits NAME MIN MAX */
#include "memd/daemon/inflate_file.h"

#include "memd/common/log.h"
#include "memd/daemon/state.h"
#include "memd/daemon/state_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHAT       "balloons"
#define LINE_BYTES 128

/* ---- what is kept */

static size_t find(const struct core *core, const char *vm)
{
    size_t i = 0;

    while (i < core->inflate.nkept && strcmp(core->inflate.kept[i].vm, vm) != 0)
        i++;
    return i;
}

const struct inflate_kept *inflate_kept(const struct core *core, const char *vm)
{
    size_t i = find(core, vm);

    return i < core->inflate.nkept ? &core->inflate.kept[i] : NULL;
}

static bool is_there(const struct inflate *inflate, const char *vm)
{
    for (size_t i = 0; i < inflate->n; i++)
        if (inflate->one[i].there && !strcmp(inflate->one[i].view.vm, vm))
            return true;
    return false;
}

static void make_room(struct inflate *inflate)
{
    size_t i = 0;

    while (i < inflate->nkept - 1 && is_there(inflate, inflate->kept[i].vm))
        i++;
    memmove(&inflate->kept[i], &inflate->kept[i + 1], (--inflate->nkept - i) * sizeof inflate->kept[0]);
}

struct inflate_kept *inflate_keep(struct core *core, const char *vm)
{
    struct inflate *inflate = &core->inflate;
    size_t i = find(core, vm);

    if (i < inflate->nkept)
        return &inflate->kept[i];
    if (inflate->nkept >= INFLATE_KEPT_MAX)
        make_room(inflate);
    struct inflate_kept *grown = realloc(inflate->kept, (inflate->nkept + 1) * sizeof *grown);
    if (!grown) {
        core_warn(core, "out of memory: what was said of the balloon of %s is not kept", vm);
        return NULL;
    }
    inflate->kept = grown;
    struct inflate_kept *kept = &grown[inflate->nkept++];
    *kept = (struct inflate_kept){0};
    snprintf(kept->vm, sizeof kept->vm, "%s", vm);
    return kept;
}

/* ---- the file */

static unsigned put_all(FILE *out, const struct core *core)
{
    const struct inflate *inflate = &core->inflate;

    for (size_t i = 0; i < inflate->nkept; i++) {
        const struct inflate_kept *k = &inflate->kept[i];
        if (k->has_auto)
            fprintf(out, "auto %s %s\n", k->vm, k->on ? "on" : "off");
        if (k->has_limits)
            fprintf(out, "limits %s %" PRIu64 " %" PRIu64 "\n", k->vm, k->min_bytes, k->max_bytes);
    }
    return (unsigned)inflate->nkept;
}

void inflate_file_write(struct core *core)
{
    state_file_write(core, WHAT, put_all,
                     "limits of balloons, and which of them memd moves, are not kept for the next start");
}

static bool recall(struct core *core, const char *line)
{
    char name[CORE_NAME_BYTES], state[4];
    uint64_t min, max;

    if (sscanf(line, "limits %63s %" SCNu64 " %" SCNu64, name, &min, &max) == 3) {
        struct inflate_kept *kept = inflate_keep(core, name);
        if (kept)
            kept->has_limits = true, kept->min_bytes = min, kept->max_bytes = max;
        return true;
    }
    if (sscanf(line, "auto %63s %3s", name, state) != 2 || (strcmp(state, "on") && strcmp(state, "off")))
        return false;
    struct inflate_kept *kept = inflate_keep(core, name);
    if (kept)
        kept->has_auto = true, kept->on = !strcmp(state, "on");
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
