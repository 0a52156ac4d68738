/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * http: one HTTP/1.1 request to a VMM's API socket, on a connection of its own, and its answer.
 *
 * As much of HTTP as the APIs of Firecracker and Cloud Hypervisor use: a status, a Content-Length, JSON.
 * memctl has libcurl for this; in the daemon it would bring a TLS library along, and cost more memory than
 * the balloons of a small host give back. Bounded by link.h. One thread.
 */
#ifndef BALLOON_BACKENDS_HTTP_H
#define BALLOON_BACKENDS_HTTP_H

#include "balloon-driver/backends/backend.h"

#include <jansson.h>

/*
 * `body` is NULL or JSON. Returns 0, the status and the answer's body: a JSON document, or NULL if there is
 * none (free it with json_decref()). A status of 400 or more is no error here; then the body may be no JSON,
 * and is left out. -errno: there is no answer.
 */
int http_ask(const struct balloon_ctl *ctl, const char *socket_path, const char *method, const char *path,
             const char *body, uint64_t deadline_ns, unsigned *ret_status, json_t **ret_json,
             struct balloon_error *error);

#endif
