/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The real memd as a service manager and a shell see it: readiness told through NOTIFY_SOCKET and on standard
 * output, --daemon, signals, exit codes.
 *
 * memd-test: timeout=90
 */
#include "memd/common/clock.h"
#include "tests/ctl/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char run_dir[64] = "/dev/shm/memd-test.XXXXXX", state_dir[80], control_path[96], memd_path[512];

static int setup(void **state)
{
    const char *build_dir = getenv("MEMD_BUILD_DIR");

    (void)state;
    if (access("/dev/userfaultfd", R_OK | W_OK)) {
        printf("skip: needs /dev/userfaultfd\n");
        exit(77);
    }
    if (!build_dir || !mkdtemp(run_dir))
        return -1;
    snprintf(memd_path, sizeof memd_path, "%s/memd", build_dir);
    snprintf(state_dir, sizeof state_dir, "%s/state", run_dir);
    snprintf(control_path, sizeof control_path, "%s/control.sock", run_dir);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* a memd in the background becomes this process's child */
    return 0;
}

static int teardown(void **state)
{
    char command[160];

    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", run_dir);
    return system(command);
}

/* memd with these words behind --run-dir and --state-dir; its output in the file `out`. */
static pid_t memd_start(const char *const *words)
{
    char *argv[16] = {memd_path, "--run-dir", run_dir, "--state-dir", state_dir};
    int argc = 5;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child)
        return child;
    while (*words)
        argv[argc++] = (char *)*words++;
    int fd = open("out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv(memd_path, argv);
    _exit(127);
}
#define START(...) memd_start((const char *const[]){__VA_ARGS__, NULL})

/* The exit code; -1: ended by a signal. */
static int end_of(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void read_file(const char *name, char *text, size_t bytes)
{
    FILE *file = fopen(name, "r");

    assert_non_null(file);
    text[fread(text, 1, bytes - 1, file)] = 0;
    fclose(file);
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;

    while ((text = strchr(text, '\n'))) {
        text++;
        lines++;
    }
    return lines;
}

static int notify_open(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify.sock", run_dir);
    unlink(address.sun_path);
    assert_return_code(bind(fd, (struct sockaddr *)&address, sizeof address), errno);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    return fd;
}

static void notify_close(int fd)
{
    unlink(getenv("NOTIFY_SOCKET"));
    unsetenv("NOTIFY_SOCKET");
    close(fd);
}

static void notify_receive(int fd, char *text, size_t bytes)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};

    assert_int_equal(poll(&pollfd, 1, CLIENT_PATIENCE_MS), 1);
    ssize_t got = recv(fd, text, bytes - 1, 0);
    assert_true(got > 0);
    text[got] = 0;
}

static void the_service_manager_is_told(void **state)
{
    static const int stops[] = {SIGTERM, SIGINT, SIGHUP};
    char text[512], expected[64];
    (void)state;

    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
        int fd = notify_open();
        pid_t child = START("--merge", "off");
        notify_receive(fd, text, sizeof text);
        snprintf(expected, sizeof expected, "READY=1\nMAINPID=%d\n", (int)child);
        assert_memory_equal(text, expected, strlen(expected));
        /* ready means ready: no retry */
        struct client_answer answer = client_ask(control_path, "GET", "/v1/status", NULL);
        assert_int_equal(answer.status, 200);
        assert_non_null(strstr(answer.body, "\"merge\": false"));
        kill(child, stops[i]);
        notify_receive(fd, text, sizeof text);
        assert_string_equal(text, "STOPPING=1");
        assert_int_equal(end_of(child), 0);
        assert_int_equal(access(control_path, F_OK), -1);
        notify_close(fd);
        read_file("out", text, sizeof text);
        snprintf(expected, sizeof expected, ", pid %d, ", (int)child);
        const char *line = strstr(text, "memd: ready, version ");
        assert_non_null(line);
        assert_non_null(strstr(line, expected));
        assert_non_null(strstr(line, run_dir));
    }
}

/* The parent ends with 0 when the daemon is ready; the daemon has let go of terminal and directory. */
static void the_background_is_entered_when_ready(void **state)
{
    char text[4096], name[96];
    struct stat st;
    (void)state;

    assert_int_equal(end_of(START("--daemon")), 0);
    struct client_answer answer = client_ask(control_path, "GET", "/v1/status", NULL);
    assert_int_equal(answer.status, 200);
    const char *found = strstr(answer.body, "\"pid\": ");
    assert_non_null(found);
    pid_t daemon = (pid_t)strtol(found + 7, NULL, 10);
    assert_int_equal(getsid(daemon), daemon);
    snprintf(name, sizeof name, "/proc/%d/cwd", (int)daemon);
    assert_true(readlink(name, text, sizeof text) == 1 && *text == '/');
    snprintf(name, sizeof name, "/proc/%d/fd/0", (int)daemon);
    assert_int_equal(readlink(name, text, sizeof text), strlen("/dev/null"));
    snprintf(name, sizeof name, "%s/memd.log", state_dir);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_mode & 07, 0); /* not for everybody */

    /* a second one is refused, also in the background: the parent says so and fails */
    pid_t second = START("--daemon", "--log-level", "error");
    assert_int_equal(end_of(second), 1);
    read_file("out", text, sizeof text);
    assert_non_null(strstr(text, "another memd is serving"));
    assert_int_equal(count_lines(text), 1);

    kill(daemon, SIGTERM);
    assert_int_equal(end_of(daemon), 0);
    while (waitpid(-1, NULL, 0) > 0)
        ; /* the child of the second */
    assert_int_equal(access(control_path, F_OK), -1);
}

static void mistakes_end_with_2(void **state)
{
    char text[1024];
    (void)state;

    assert_int_equal(end_of(START("--merge", "perhaps")), 2);
    read_file("out", text, sizeof text);
    assert_string_equal(text, "memd: --merge: 'perhaps' is neither on nor off\n");
    assert_int_equal(end_of(START("--daemon", "--config", "no.conf")), 2);
    read_file("out", text, sizeof text);
    assert_int_equal(count_lines(text), 1);
    assert_non_null(strstr(text, "no.conf: No such file"));
}

/* What memctl could not have said before: the control socket cannot be made. Nothing is left behind. */
static void a_control_socket_in_the_way_ends_with_1(void **state)
{
    char text[1024], name[96];
    (void)state;

    assert_int_equal(mkdir(control_path, 0700), 0);
    assert_int_equal(end_of(START("--log-level", "error")), 1);
    read_file("out", text, sizeof text);
    assert_int_equal(count_lines(text), 1);
    assert_non_null(strstr(text, control_path));
    rmdir(control_path);
    snprintf(name, sizeof name, "%s/memd.sock", run_dir);
    assert_int_equal(access(name, F_OK), -1);
}

static void help_and_version(void **state)
{
    char text[8192];
    (void)state;

    assert_int_equal(end_of(START("--version")), 0);
    read_file("out", text, sizeof text);
    assert_memory_equal(text, "memd ", 5);
    assert_int_equal(end_of(START("--help")), 0);
    read_file("out", text, sizeof text);
    assert_memory_equal(text, "Usage: memd ", 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_service_manager_is_told),
        cmocka_unit_test(the_background_is_entered_when_ready),
        cmocka_unit_test(mistakes_end_with_2),
        cmocka_unit_test(a_control_socket_in_the_way_ends_with_1),
        cmocka_unit_test(help_and_version),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
