/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl agent list, agent reclaim: what agents in guests say, and the one thing they do. */
#include "memd/ctl/ctl.h"

#include <inttypes.h>
#include <string.h>

#define RECLAIM_S_MAX     600u
#define RECLAIM_S_DEFAULT 60u
#define ANSWER_S          10u /* longer than the daemon waits for a late answer */

/* A size the guest has told, or "-". */
static const char *size_of(char text[CTL_SIZE_BYTES], const json_t *memory, const char *key)
{
    return json_object_get(memory, key) ? ctl_size(text, ctl_get_int(memory, key)) : "-";
}

static int add_agent(struct ctl_table *table, const json_t *agent)
{
    const json_t *memory = json_object_get(agent, "memory");
    char total[CTL_SIZE_BYTES], available[CTL_SIZE_BYTES], cached[CTL_SIZE_BYTES], swapped[CTL_SIZE_BYTES];
    char stalled[16] = "-", age[CTL_SIZE_BYTES] = "-";

    if (json_object_get(memory, "stall_some_us"))
        snprintf(stalled, sizeof stalled, "%.1f%%",
                 json_number_value(json_object_get(agent, "stall_some_percent")));
    if (json_object_size(memory))
        ctl_duration(age, (uint64_t)ctl_get_int(agent, "age_ms"));
    int64_t swap = ctl_get_int(memory, "swap_total_bytes") - ctl_get_int(memory, "swap_free_bytes");
    return ctl_table_add(
        table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%" PRId64 "\t%s\t%s", ctl_get_text(agent, "vm"),
        ctl_get_text(agent, "state"), size_of(total, memory, "mem_total_bytes"),
        size_of(available, memory, "mem_available_bytes"), size_of(cached, memory, "cached_bytes"),
        json_object_size(memory) ? ctl_size(swapped, swap) : "-", stalled, ctl_get_int(memory, "oom_kills"),
        ctl_get_bool(agent, "can_reclaim") ? "yes" : "no", age);
}

static int print_agents(struct ctl *ctl, const json_t *agents)
{
    struct ctl_table table = {.ncolumns = 10, .right = 0x2fc};
    int failed = ctl_table_add(&table, "VM\tSTATE\tTOTAL\tAVAILABLE\tCACHED\tSWAPPED\tSTALLED\tOOM-KILLS"
                                       "\tRECLAIMS\tAGE");
    const json_t *agent;
    size_t i;

    json_array_foreach(agents, i, agent)
    {
        failed |= add_agent(&table, agent);
    }
    if (!failed)
        ctl_table_print(ctl, &table);
    ctl_table_free(&table);
    json_array_foreach(agents, i, agent)
    {
        const char *why = ctl_get_text(agent, "why");
        char text[256];
        snprintf(text, sizeof text, "%s: %s", ctl_get_text(agent, "vm"), why);
        if (*why)
            fprintf(ctl->out, "%s\n", ctl_printable(text));
    }
    return failed;
}

enum ctl_result ctl_agent_list(struct ctl *ctl)
{
    json_t *answer;
    enum ctl_result result = ctl_http(ctl, "GET", "/v1/agents", NULL, &answer);

    if (result)
        return result;
    const json_t *agents = json_object_get(answer, "agents");
    if (ctl->json) {
        result = ctl_print_json(ctl, answer);
    } else if (!json_array_size(agents)) {
        fprintf(ctl->out, "no agent is known: none is in the configuration, and no socket in the agents "
                          "directory\n");
    } else if (print_agents(ctl, agents)) {
        ctl_error(ctl, "out of memory");
        result = CTL_FAILED;
    }
    json_decref(answer);
    return result;
}

enum ctl_result ctl_agent_reclaim(struct ctl *ctl)
{
    unsigned seconds = ctl->timeout_s ? ctl->timeout_s : RECLAIM_S_DEFAULT;
    char got[CTL_SIZE_BYTES], wanted[CTL_SIZE_BYTES];
    uint64_t bytes;
    json_t *job;

    if (ctl_parse_size(ctl->args[1], &bytes) || !bytes || bytes > INT64_MAX) {
        ctl_error(ctl, "'%.40s' is not a size such as 512M; see memctl --help", ctl->args[1]);
        return CTL_USAGE;
    }
    if (seconds > RECLAIM_S_MAX)
        seconds = RECLAIM_S_MAX;
    ctl->timeout_s = seconds + ANSWER_S; /* the guest stops by itself before that */
    json_t *body = json_pack("{s:s, s:I, s:I}", "vm", ctl->args[0], "bytes", (json_int_t)bytes, "timeout_ms",
                             (json_int_t)seconds * 1000);
    enum ctl_result result = ctl_job_run(ctl, "reclaim", body, &job);
    if (result)
        return result;
    fprintf(ctl->out, "%s: reclaimed %s of %s\n", ctl->args[0],
            ctl_size(got, ctl_get_int(job, "reclaimed_bytes")), ctl_size(wanted, (int64_t)bytes));
    json_decref(job);
    return CTL_DONE;
}
