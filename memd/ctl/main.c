/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memctl's process: its streams and signals. See ctl.h. */
#include "memd/ctl/ctl.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

static struct ctl memctl;

static void on_signal(int signal_number)
{
    (void)signal_number;
    memctl.interrupted = 1;
}

int main(int argc, char *argv[])
{
    /* Not SA_RESTART: a wait ends at once. The second Ctrl-C ends the program whatever it is doing. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    memctl.out = stdout;
    memctl.err = stderr;
    memctl.out_tty = isatty(STDOUT_FILENO);
    memctl.err_tty = isatty(STDERR_FILENO);
    enum ctl_result result = ctl_run(&memctl, argc, argv);
    if (fflush(stdout) || ferror(stdout)) {
        if (errno != EPIPE)
            ctl_error(&memctl, "cannot write the output");
        return result ? result : CTL_FAILED;
    }
    return result;
}
