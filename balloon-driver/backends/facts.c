/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See facts.h. */
#include "balloon-driver/backends/facts.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define EXACT_MAX 9007199254740992.0 /* 2^53 */
#define TEXT_MAX  4096u

int balloon_fail(struct balloon_error *error, int negative_errno, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error->reason, sizeof error->reason, format, args);
    va_end(args);
    for (char *c = error->reason; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    error->error = -negative_errno;
    return negative_errno;
}

int balloon_check_path(const char *address, struct balloon_error *error)
{
    size_t max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

    if (address[0] != '/')
        return balloon_fail(error, -EINVAL, "the path of the VMM's socket starts with /");
    if (strlen(address) > max)
        return balloon_fail(error, -EINVAL, "the path of a socket has at most %zu bytes", max);
    return 0;
}

void facts_clear_stats(struct balloon_facts *facts)
{
    for (unsigned i = 0; i < MEMD_BALLOON_TAGS; i++)
        facts->stats[i] = MEMD_BALLOON_NO_STAT;
    facts->stats_serial = 0;
}

void facts_clear(struct balloon_facts *facts)
{
    *facts = (struct balloon_facts){0};
    facts_clear_stats(facts);
}

void facts_clamp(struct balloon_facts *facts)
{
    if (facts->ram_bytes > BALLOON_RAM_MAX)
        facts->ram_bytes = BALLOON_RAM_MAX;
    if (facts->actual_bytes > facts->ram_bytes)
        facts->actual_bytes = facts->ram_bytes;
    if (facts->target_bytes > facts->ram_bytes)
        facts->target_bytes = facts->ram_bytes;
}

json_t *facts_parse(const char *text, size_t bytes, struct balloon_error *error)
{
    json_error_t where;
    json_t *json = json_loadb(text, bytes, JSON_DECODE_INT_AS_REAL | JSON_REJECT_DUPLICATES, &where);

    if (!json)
        balloon_fail(error, -EPROTO, "the VMM's answer is not JSON: %s at byte %d", where.text,
                     where.position);
    return json;
}

int facts_number(const json_t *value, uint64_t *ret_value)
{
    double number = json_is_number(value) ? json_number_value(value) : -1;

    if (!(number >= 0) || number > EXACT_MAX || floor(number) != number)
        return -EPROTO;
    *ret_value = (uint64_t)number;
    return 0;
}

int facts_get(const json_t *object, const char *key, uint64_t *ret_value)
{
    const json_t *value = json_object_get(object, key);

    return value ? facts_number(value, ret_value) : -ENOENT;
}

bool facts_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

const char *facts_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_string(value) && json_string_length(value) <= TEXT_MAX ? json_string_value(value) : "";
}

void facts_stats(const json_t *object, const char *const keys[MEMD_BALLOON_TAGS],
                 uint64_t ret_stats[MEMD_BALLOON_TAGS])
{
    for (unsigned i = 0; i < MEMD_BALLOON_TAGS; i++)
        if (facts_get(object, keys[i], &ret_stats[i]))
            ret_stats[i] = MEMD_BALLOON_NO_STAT;
}
