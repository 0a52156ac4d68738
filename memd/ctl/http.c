/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * http: requests to the control API with libcurl over RUN_DIR/control.sock. One request at a time; an answer
 * is bounded in size and time, so that a daemon that went mad cannot hang or fill memctl.
 */
#include "memd/ctl/ctl.h"

#include "memd/wire.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define ANSWER_BYTES_MAX (64u << 20)
#define CONNECT_MS_MAX   5000l
#define REQUEST_MS_MAX   30000l /* longer than the daemon may take for any answer */

struct answer {
    char *text;
    size_t bytes;
};

static size_t on_data(char *data, size_t size, size_t count, void *ctx)
{
    struct answer *answer = ctx;
    size_t bytes = size * count;

    if (!bytes || bytes > ANSWER_BYTES_MAX - answer->bytes)
        return 0;
    char *text = realloc(answer->text, answer->bytes + bytes);
    if (!text)
        return 0;
    memcpy(text + answer->bytes, data, bytes);
    answer->text = text;
    answer->bytes += bytes;
    return bytes;
}

static enum ctl_result connect_error(struct ctl *ctl, CURL *curl, const char *socket_path, bool quiet)
{
    long error = 0;

    curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &error);
    if (error == EACCES || error == EPERM) {
        if (!quiet)
            ctl_error(ctl, "%s: %s; run memctl as root or as a member of the socket's group", socket_path,
                      strerror((int)error));
        return CTL_FAILED;
    }
    if (!quiet)
        ctl_error(ctl, "no memd at %s; start memd, or name its directory with --run-dir or MEMD_RUN_DIR",
                  socket_path);
    return CTL_NO_DAEMON;
}

/* The answer's text as an object, or a line about what it is instead. */
static enum ctl_result answer_parse(struct ctl *ctl, const struct answer *answer, long status, bool quiet,
                                    json_t **ret_answer)
{
    json_error_t error;
    json_t *json = answer->bytes ? json_loadb(answer->text, answer->bytes, 0, &error) : NULL;

    if (json_is_object(json) && status >= 200 && status < 300) {
        *ret_answer = json;
        return CTL_DONE;
    }
    const char *why = ctl_get_text(json, "error");
    if (!quiet && *why)
        ctl_error(ctl, "%s", why);
    else if (!quiet)
        ctl_error(ctl, "the daemon answered with HTTP status %ld and no JSON; is it memd?", status);
    json_decref(json);
    return CTL_FAILED;
}

static enum ctl_result perform(struct ctl *ctl, CURL *curl, const char *socket_path, bool quiet,
                               json_t **ret_answer)
{
    struct answer answer = {0};
    long status = 0;
    enum ctl_result result;

    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_COULDNT_CONNECT) {
        result = connect_error(ctl, curl, socket_path, quiet);
    } else if (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR) {
        if (!quiet)
            ctl_error(ctl, "the daemon at %s hung up: it is ending, or serves too many at once; try again",
                      socket_path);
        result = CTL_FAILED;
    } else if (code != CURLE_OK) {
        if (!quiet)
            ctl_error(ctl, "the daemon at %s did not answer: %s", socket_path, curl_easy_strerror(code));
        result = CTL_FAILED;
    } else {
        result = answer_parse(ctl, &answer, status, quiet, ret_answer);
    }
    free(answer.text);
    return result;
}

static enum ctl_result request(struct ctl *ctl, const char *method, const char *path, const char *body,
                               bool quiet, json_t **ret_answer)
{
    char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)], url[512];
    int length = snprintf(socket_path, sizeof socket_path, "%s/" WIRE_CONTROL_NAME, ctl->run_dir);

    if (length >= (int)sizeof socket_path) {
        if (!quiet)
            ctl_error(ctl, "--run-dir: a path of %zu bytes is too long for a socket", strlen(ctl->run_dir));
        return CTL_USAGE;
    }
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    enum ctl_result result = CTL_FAILED;
    if (!curl || !headers) {
        if (!quiet)
            ctl_error(ctl, "out of memory");
    } else {
        snprintf(url, sizeof url, "http://memd%s", path);
        curl_easy_setopt(curl, CURLOPT_URL, url);
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
        curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
        curl_easy_setopt(curl, CURLOPT_PROXY, "");
        curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1l); /* a VM may be called ".." */
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1l);
        curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS_MAX);
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, REQUEST_MS_MAX);
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
        if (body)
            curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, body);
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
        result = perform(ctl, curl, socket_path, quiet, ret_answer);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return result;
}

enum ctl_result ctl_http(struct ctl *ctl, const char *method, const char *path, const json_t *body,
                         json_t **ret_answer)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

    if (body && !text) {
        ctl_error(ctl, "cannot put the request into JSON: a name is not UTF-8, or memory is short");
        return CTL_FAILED;
    }
    enum ctl_result result = request(ctl, method, path, text, false, ret_answer);
    free(text);
    return result;
}

enum ctl_result ctl_http_quiet(struct ctl *ctl, const char *method, const char *path, json_t **ret_answer)
{
    return request(ctl, method, path, NULL, true, ret_answer);
}

int ctl_http_path(char *path, size_t bytes, const char *prefix, const char *name)
{
    char *escaped = curl_easy_escape(NULL, name, 0);
    int length = escaped ? snprintf(path, bytes, "%s%s", prefix, escaped) : -1;

    curl_free(escaped);
    return length < 0 ? -ENOMEM : length >= (int)bytes ? -ENAMETOOLONG : 0;
}
