/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control_api: the requests of the control API, apart from HTTP: method, path and body in, status and
 * document out. Runs on any number of threads at once, and keeps nothing between requests. Blocks for the
 * core's answer, at most CORE_CALL_TIMEOUT_MS, and for a job as long as the client asked, at most
 * CONTROL_WAIT_MS_MAX.
 */
#ifndef MEMD_DAEMON_CONTROL_API_H
#define MEMD_DAEMON_CONTROL_API_H

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct balloons;
struct core;

struct control_request {
    struct core *core;
    struct balloons *balloons;
    const atomic_bool *stopping; /* true ends every wait */
    const char *wait_ms;         /* the query's, or NULL */
    size_t body_bytes;           /* received; past CONTROL_BODY_BYTES the body is not kept */
    char *body;
    /* of the dispatcher */
    const char *arg; /* what stood for '*' in the route */
    json_t *json;    /* the body, an object; NULL for routes without. The caller frees it */
};

/* A status and either a document or a text, both the caller's; neither: memory ran out. */
struct control_reply {
    unsigned status;
    json_t *json;
    char *text;
    size_t text_bytes;
    const char *allow; /* the methods possible, with status 405 */
};

void control_api_dispatch(struct control_request *request, const char *method, const char *url,
                          struct control_reply *ret_reply);

/* Of the handlers: reply with an error, a positive errno, and what it means here. */
void control_api_error(struct control_reply *reply, int error, const char *text);

/* ---- control_balloon.c: handlers of the balloons */
void control_get_balloons(struct control_request *request, struct control_reply *reply);
void control_get_balloon(struct control_request *request, struct control_reply *reply);
void control_post_balloons(struct control_request *request, struct control_reply *reply);
void control_post_balloon(struct control_request *request, struct control_reply *reply);

#endif
