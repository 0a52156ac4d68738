/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl merge on|off [VM]: POST /v1/merge. */
#include "memd/ctl/ctl.h"

static enum ctl_result merge_set(struct ctl *ctl, bool on)
{
    const char *vm = ctl->nargs ? ctl->args[0] : NULL;
    json_t *body = json_pack("{s:b, s:s*}", "on", on, "vm", vm), *answer;

    if (!body) {
        ctl_error(ctl, "'%.80s' is no VM's name", vm ? vm : "");
        return CTL_FAILED;
    }
    enum ctl_result result = ctl_http(ctl, "POST", "/v1/merge", body, &answer);
    json_decref(body);
    if (result)
        return result;
    json_decref(answer);
    fprintf(ctl->out, "merging %s: %s\n", on ? "on" : "off", vm ? vm : "all VMs");
    return CTL_DONE;
}

enum ctl_result ctl_merge_on(struct ctl *ctl)
{
    return merge_set(ctl, true);
}

enum ctl_result ctl_merge_off(struct ctl *ctl)
{
    return merge_set(ctl, false);
}
