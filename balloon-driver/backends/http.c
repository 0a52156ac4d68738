/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See http.h. */
#include "balloon-driver/backends/http.h"

#include "balloon-driver/backends/facts.h"
#include "balloon-driver/backends/link.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REQUEST_BYTES 1024
#define HEADER_BYTES  (16u * 1024u)

struct answer {
    unsigned status;
    size_t header_bytes; /* with the empty line */
    size_t body_bytes;
};

static int bad(struct balloon_error *error, const char *path, const char *what)
{
    return balloon_fail(error, -EPROTO, "what listens at %s is no API of a VMM: %s", path, what);
}

/* "Content-Length: N". 0: there is none. Twice, or another encoding, is an error. */
static int header_length(const char *header, size_t *ret_bytes, const char **ret_why)
{
    bool seen = false;

    *ret_bytes = 0;
    for (const char *line = strstr(header, "\r\n"); line && line[2] != '\r'; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, "Transfer-Encoding:", 18)) {
            *ret_why = "an answer in an encoding nobody uses here";
            return -EPROTO;
        }
        if (strncasecmp(line, "Content-Length:", 15))
            continue;
        const char *digits = line + 15 + strspn(line + 15, " \t");
        size_t n = strspn(digits, "0123456789");
        if (seen || !n || n > 9 || digits[n] != '\r') {
            *ret_why = "a length that is none";
            return -EPROTO;
        }
        seen = true;
        *ret_bytes = strtoul(digits, NULL, 10);
    }
    return 0;
}

/* `header` ends with a NUL after its empty line. */
static int header_parse(const char *header, struct answer *answer, const char **ret_why)
{
    char end;

    if (strncmp(header, "HTTP/1.", 7) || (header[7] != '0' && header[7] != '1') || header[8] != ' ' ||
        strspn(header + 9, "0123456789") != 3 || sscanf(header + 9, "%3u%c", &answer->status, &end) != 2 ||
        (end != ' ' && end != '\r') || answer->status < 200) {
        *ret_why = "no HTTP";
        return -EPROTO;
    }
    int result = header_length(header, &answer->body_bytes, ret_why);
    if (!result && (answer->status == 204 || answer->status == 304))
        answer->body_bytes = 0;
    if (!result && answer->body_bytes > LINK_BUFFER_BYTES - HEADER_BYTES) {
        *ret_why = "an answer too large";
        return -EPROTO;
    }
    return result;
}

/* Until the header is there, in whole. */
static int header_receive(struct link *link, const char *path, uint64_t deadline_ns, struct answer *answer,
                          struct balloon_error *error)
{
    char header[HEADER_BYTES + 1];
    const char *why = "";

    for (size_t seen = 0;;) {
        int result = link_receive(link, deadline_ns);
        if (result)
            return link_fail(error, result, path);
        size_t from = seen > 3 ? seen - 3 : 0;
        const char *end = memmem(link->bytes + from, link->filled - from, "\r\n\r\n", 4);
        seen = link->filled;
        if (!end && seen <= HEADER_BYTES)
            continue;
        answer->header_bytes = end ? (size_t)(end - link->bytes) + 4 : HEADER_BYTES + 1;
        if (answer->header_bytes > HEADER_BYTES)
            return bad(error, path, "a header without an end");
        memcpy(header, link->bytes, answer->header_bytes);
        header[answer->header_bytes] = 0;
        if (strlen(header) != answer->header_bytes || header_parse(header, answer, &why))
            return bad(error, path, *why ? why : "zero bytes in a header");
        return 0;
    }
}

static int answer_receive(struct link *link, const char *path, uint64_t deadline_ns, unsigned *ret_status,
                          json_t **ret_json, struct balloon_error *error)
{
    struct answer answer = {0};
    int result = header_receive(link, path, deadline_ns, &answer, error);

    if (result)
        return result;
    while (link->filled < answer.header_bytes + answer.body_bytes) {
        result = link_receive(link, deadline_ns);
        if (result)
            return link_fail(error, result, path);
    }
    json_t *json = NULL;
    if (answer.body_bytes) {
        json = facts_parse(link->bytes + answer.header_bytes, answer.body_bytes, error);
        if (!json && answer.status < 400)
            return -EPROTO;
    }
    *ret_status = answer.status;
    *ret_json = json;
    return 0;
}

int http_ask(const struct balloon_ctl *ctl, const char *socket_path, const char *method, const char *path,
             const char *body, uint64_t deadline_ns, unsigned *ret_status, json_t **ret_json,
             struct balloon_error *error)
{
    struct link link = LINK_CLOSED;
    char request[REQUEST_BYTES];

    int length = snprintf(request, sizeof request,
                          "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
                          "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                          method, path, body ? strlen(body) : 0, body ? body : "");
    if (length >= (int)sizeof request)
        return balloon_fail(error, -EPROTO, "a request too long");
    int result = link_open(&link, ctl, socket_path);
    if (!result)
        result = link_send(&link, request, (size_t)length, deadline_ns);
    if (result)
        result = link_fail(error, result, socket_path);
    else
        result = answer_receive(&link, socket_path, deadline_ns, ret_status, ret_json, error);
    link_close(&link);
    return result;
}
