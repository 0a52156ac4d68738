/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * serve DIR: the real control server over the fake core, for the shell tests of what speaks to it.
 *
 * Says "ready" once DIR/control.sock accepts, then takes commands on stdin, a line each, and answers each
 * with a line: `set FIELD NUMBER` and `get FIELD` of struct fake_core, `reset`. Ends at the end of stdin.
 *
 * memd-test: helper
 */
#include "memd/daemon/control.h"
#include "tests/ctl/fake_core.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -1: no such field. */
static int set_field(const char *name, int number)
{
    if (!strcmp(name, "snapshot_error"))
        fake.snapshot_error = number;
    else if (!strcmp(name, "command_error"))
        fake.command_error = number;
    else if (!strcmp(name, "job_polls"))
        fake.job_polls = (unsigned)number;
    else if (!strcmp(name, "job_error"))
        fake.job_error = number;
    else if (!strcmp(name, "alarm"))
        fake.alarm = number;
    else if (!strcmp(name, "balloon_error"))
        fake.balloon_error = number;
    else if (!strcmp(name, "balloon_state"))
        fake.balloon_state = number;
    else if (!strcmp(name, "balloon_mute"))
        fake.balloon_mute = number;
    else if (!strcmp(name, "balloon_steps"))
        fake.balloon_steps = (unsigned)number;
    else if (!strcmp(name, "dry_run"))
        fake.dry_run = number;
    else if (!strcmp(name, "rests"))
        fake.rests = number;
    else if (!strcmp(name, "nvms"))
        fake.nvms = (unsigned)number;
    else
        return -1;
    return 0;
}

static void get_field(const char *name)
{
    if (!strcmp(name, "last_vm"))
        puts(fake.last_vm);
    else if (!strcmp(name, "last_on"))
        puts(fake.last_on ? "on" : "off");
    else if (!strcmp(name, "dry_run"))
        puts(fake.dry_run ? "on" : "off");
    else if (!strcmp(name, "last_nvms"))
        printf("%zu\n", fake.last_nvms);
    else if (!strcmp(name, "last_budget"))
        printf("%llu\n", (unsigned long long)fake.last_budget);
    else if (!strcmp(name, "last_terms"))
        printf("%u %llu %llu %u %d %llu\n", fake.last_which,
               (unsigned long long)fake.last_terms.reservation_bytes,
               (unsigned long long)fake.last_terms.limit_bytes, fake.last_terms.shares,
               fake.last_terms.swap_never, (unsigned long long)fake.last_terms.writes_bytes);
    else if (!strcmp(name, "last_paging"))
        printf("%llu %u\n", (unsigned long long)fake.last_paging.bytes, fake.last_paging.park_ms);
    else if (!strcmp(name, "balloon"))
        printf("%llu %llu %llu\n", (unsigned long long)fake.balloon_target,
               (unsigned long long)fake.balloon_min, (unsigned long long)fake.balloon_max);
    else if (!strcmp(name, "commands"))
        printf("%u\n", fake.commands);
    else if (!strcmp(name, "cancels"))
        printf("%u\n", fake.cancels);
    else if (!strcmp(name, "polls"))
        printf("%u\n", fake.polls);
    else
        puts("no such field");
}

static void obey(char *line)
{
    char *word = strtok(line, " \n"), *field = strtok(NULL, " \n"), *value = strtok(NULL, " \n");

    fake_core_lock();
    if (word && !strcmp(word, "reset")) {
        fake_core_reset();
        puts("ok");
    } else if (word && field && value && !strcmp(word, "set")) {
        puts(set_field(field, atoi(value)) ? "no such field" : "ok");
    } else if (word && field && !strcmp(word, "get")) {
        get_field(field);
    } else {
        puts("no such command");
    }
    fake_core_unlock();
}

int main(int argc, char *argv[])
{
    struct core_config config;
    struct control *control;
    struct core *core;
    char text[512];

    if (argc != 2) {
        fprintf(stderr, "usage: serve DIR\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    core_config_default(&config);
    snprintf(config.run_dir, sizeof config.run_dir, "%s", argv[1]);
    if (core_open(&config, &core, text, sizeof text) ||
        control_start(core, fake_balloons(), config.run_dir, &control, text, sizeof text)) {
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    puts("ready");
    while (fgets(text, sizeof text, stdin))
        obey(text);
    control_stop(control);
    core_close(core);
    return 0;
}
