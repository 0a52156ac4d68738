/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control: the HTTP server of the control API.
 *
 * Theory of operation. libmicrohttpd accepts on our own listening socket and runs a thread per connection
 * (at most CONTROL_CONNECTIONS_MAX), so a request may block: on the core's answer, bounded by
 * CORE_CALL_TIMEOUT_MS, or on a job, bounded by CONTROL_WAIT_MS_MAX. libmicrohttpd calls on_request() first
 * with the header, then with each piece of the body, last with none: then control_api_dispatch() makes the
 * reply. Requests share nothing but the core, the balloons and the word `stopping`.
 */
#include "memd/daemon/control.h"

#include "memd/common/log.h"
#include "memd/daemon/control_api.h"
#include "memd/daemon/metrics.h"
#include "memd/wire.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define THREAD_STACK_BYTES (1u << 20) /* jansson recurses, at most 2048 deep */
#define DISCARD_BYTES      (1u << 20) /* of a body too large: read on this far to answer, then hang up */

struct control {
    struct core *core;
    struct balloons *balloons;
    struct MHD_Daemon *http;
    atomic_bool stopping; /* set once; ends the waits of handlers */
    struct sockaddr_un address;
};

/* ---------------------------------------------------------------- libmicrohttpd */

static enum MHD_Result reply_send(struct MHD_Connection *connection, struct control_reply *reply)
{
    const char *type = METRICS_CONTENT_TYPE;

    if (!reply->text) {
        type = "application/json";
        reply->text = reply->json ? json_dumps(reply->json, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
        json_decref(reply->json);
        if (!reply->text)
            return MHD_NO; /* out of memory: hang up */
        reply->text_bytes = strlen(reply->text);
        reply->text[reply->text_bytes++] = '\n'; /* in place of the NUL: the length is told */
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(reply->text_bytes, reply->text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(reply->text);
        return MHD_NO;
    }
    enum MHD_Result result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (reply->allow && result == MHD_YES)
        result = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, reply->allow);
    if (result == MHD_YES)
        result = MHD_queue_response(connection, reply->status, response);
    MHD_destroy_response(response);
    return result;
}

/* A piece of the body. MHD_NO hangs up. */
static enum MHD_Result body_add(struct control_request *request, const char *data, size_t bytes)
{
    size_t had = request->body_bytes;

    if (bytes > DISCARD_BYTES - had)
        return MHD_NO;
    request->body_bytes += bytes;
    if (request->body_bytes > CONTROL_BODY_BYTES)
        return MHD_YES;
    char *body = realloc(request->body, request->body_bytes + 1);
    if (!body)
        return MHD_NO;
    memcpy(body + had, data, bytes);
    body[request->body_bytes] = 0;
    request->body = body;
    return MHD_YES;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **state)
{
    struct control_request *request = *state;
    struct control *control = ctx;
    struct control_reply reply = {0};

    (void)version;
    if (!request) {
        request = calloc(1, sizeof *request);
        if (!request)
            return MHD_NO;
        request->core = control->core;
        request->balloons = control->balloons;
        request->stopping = &control->stopping;
        *state = request;
        return MHD_YES;
    }
    if (*data_bytes) {
        enum MHD_Result result = body_add(request, data, *data_bytes);
        *data_bytes = 0;
        return result;
    }
    request->wait_ms = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "wait_ms");
    control_api_dispatch(request, method, url, &reply);
    return reply_send(connection, &reply);
}

static void on_request_end(void *ctx, struct MHD_Connection *connection, void **state,
                           enum MHD_RequestTerminationCode why)
{
    struct control_request *request = *state;

    (void)ctx, (void)connection, (void)why;
    if (!request)
        return;
    json_decref(request->json);
    free(request->body);
    free(request);
    *state = NULL;
}

__attribute__((format(printf, 2, 0))) static void on_http_log(void *ctx, const char *format, va_list args)
{
    char text[256];

    (void)ctx;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    log_debug("control: %s", text);
}

/* ---------------------------------------------------------------- the socket */

/* Whether somebody accepts connections at `address`. */
static bool socket_alive(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return true;
    int result = connect(fd, (const struct sockaddr *)address, sizeof *address);
    bool alive = !result || errno == EAGAIN || errno == EINPROGRESS;
    close(fd);
    return alive;
}

static int socket_bind(int fd, const struct sockaddr_un *address)
{
    struct stat st;

    if (!bind(fd, (const struct sockaddr *)address, sizeof *address))
        return 0;
    if (errno != EADDRINUSE || lstat(address->sun_path, &st))
        return -errno;
    if (!S_ISSOCK(st.st_mode) || socket_alive(address))
        return -EADDRINUSE;
    if (unlink(address->sun_path) || bind(fd, (const struct sockaddr *)address, sizeof *address))
        return -errno;
    return 0;
}

/* Nobody can connect before listen(), so the mode is in force from the first connection. */
static int socket_open(const struct sockaddr_un *address, int *ret_fd)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    int result = socket_bind(fd, address);
    if (result) {
        close(fd);
        return result;
    }
    if (chmod(address->sun_path, 0660) || listen(fd, CONTROL_CONNECTIONS_MAX)) {
        result = -errno;
        unlink(address->sun_path);
        close(fd);
        return result;
    }
    *ret_fd = fd;
    return 0;
}

static struct MHD_Daemon *http_start(struct control *control, int fd)
{
    return MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
                                MHD_USE_ITC | MHD_USE_ERROR_LOG,
                            0, NULL, NULL, on_request, control, MHD_OPTION_EXTERNAL_LOGGER, on_http_log, NULL,
                            MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
                            CONTROL_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, CONTROL_IDLE_S,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONTROL_HEADER_BYTES,
                            MHD_OPTION_THREAD_STACK_SIZE, (size_t)THREAD_STACK_BYTES,
                            MHD_OPTION_NOTIFY_COMPLETED, on_request_end, NULL, MHD_OPTION_END);
}

int control_start(struct core *core, struct balloons *balloons, const char *run_dir,
                  struct control **ret_control, char *ret_error, size_t error_bytes)
{
    int fd = -1, result;
    struct control *control = calloc(1, sizeof *control);

    if (!control) {
        snprintf(ret_error, error_bytes, "out of memory for the control API");
        return -ENOMEM;
    }
    control->core = core;
    control->balloons = balloons;
    control->address.sun_family = AF_UNIX;
    char *path = control->address.sun_path;
    int length = snprintf(path, sizeof control->address.sun_path, "%s/" WIRE_CONTROL_NAME, run_dir);
    result =
        length < (int)sizeof control->address.sun_path ? socket_open(&control->address, &fd) : -ENAMETOOLONG;
    if (result) {
        if (result == -EADDRINUSE)
            snprintf(ret_error, error_bytes,
                     "%s is in use: another memd serves this directory; stop it, or give another --run-dir",
                     path);
        else
            snprintf(ret_error, error_bytes,
                     "cannot make the control socket %s: %s; check the directory's owner "
                     "and mode, or give another --run-dir",
                     path, strerror(-result));
        free(control);
        return result;
    }
    control->http = http_start(control, fd);
    if (!control->http) {
        snprintf(ret_error, error_bytes,
                 "cannot start the control API's threads; check ulimit -u and free memory");
        close(fd);
        unlink(path);
        free(control);
        return -EAGAIN;
    }
    *ret_control = control;
    return 0;
}

void control_stop(struct control *control)
{
    atomic_store(&control->stopping, true);
    MHD_stop_daemon(control->http); /* joins the threads, closes the listening socket */
    unlink(control->address.sun_path);
    free(control);
}
