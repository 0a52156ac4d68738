/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Theory of operation: see parse.h. One pass over the lines; a line is a key, what stands between, a number.
 */
#include "guest-agent/parse.h"

#include <string.h>

size_t parse_number(const char *text, size_t n, uint64_t *ret_value)
{
    uint64_t value = 0;
    size_t i = 0;

    for (; i < n && text[i] >= '0' && text[i] <= '9'; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return 0;
        value = value * 10 + digit;
    }
    if (i)
        *ret_value = value;
    return i;
}

/* The next line of [*text, end), without its end; NULL: none. A last line that has no end may be cut off and
 * is none. */
static const char *next_line(const char **text, const char *end, size_t *ret_n)
{
    const char *line = *text, *stop = line < end ? memchr(line, '\n', (size_t)(end - line)) : NULL;

    if (!stop)
        return NULL;
    *text = stop + 1;
    *ret_n = (size_t)(stop - line);
    return line;
}

struct key {
    const char *name;
    enum agent_value value;
    bool prefix; /* all keys that begin so, added up */
};

/* A line "KEY<between>NUMBER...": the number of the key it has, times `unit`. */
static void parse_line(const char *line, size_t n, const struct key *keys, size_t nkeys, char between,
                       uint64_t unit, struct sample *sample)
{
    const char *colon = memchr(line, between, n);
    size_t length = colon ? (size_t)(colon - line) : 0;
    uint64_t number;

    for (size_t i = 0; i < nkeys && length; i++) {
        size_t want = strlen(keys[i].name);
        if (length < want || (!keys[i].prefix && length != want) || memcmp(line, keys[i].name, want) != 0)
            continue;
        const char *at = colon + 1, *end = line + n;
        while (at < end && *at == ' ')
            at++;
        if (!parse_number(at, (size_t)(end - at), &number) || number > UINT64_MAX / unit)
            return;
        number *= unit;
        if (keys[i].prefix && sample_has(sample, keys[i].value))
            number += sample->value[keys[i].value];
        sample_set(sample, keys[i].value, number);
        return;
    }
}

static void parse_lines(const char *text, size_t n, const struct key *keys, size_t nkeys, char between,
                        uint64_t unit, struct sample *sample)
{
    const char *end = text + n, *line;
    size_t length;

    while ((line = next_line(&text, end, &length)))
        parse_line(line, length, keys, nkeys, between, unit, sample);
}

void parse_meminfo(const char *text, size_t n, struct sample *sample)
{
    static const struct key keys[] = {
        {"MemTotal", AGENT_MEM_TOTAL, false},         {"MemFree", AGENT_MEM_FREE, false},
        {"MemAvailable", AGENT_MEM_AVAILABLE, false}, {"Cached", AGENT_CACHED, false},
        {"SwapTotal", AGENT_SWAP_TOTAL, false},       {"SwapFree", AGENT_SWAP_FREE, false},
        {"Committed_AS", AGENT_COMMITTED, false},
    };

    parse_lines(text, n, keys, sizeof keys / sizeof keys[0], ':', 1024, sample);
}

void parse_vmstat(const char *text, size_t n, uint64_t page_bytes, struct sample *sample)
{
    static const struct key pages[] = {
        {"workingset_refault_anon", AGENT_REFAULT_ANON, false},
        {"workingset_refault_file", AGENT_REFAULT_FILE, false},
        {"pswpin", AGENT_SWAP_IN, false},
        {"pswpout", AGENT_SWAP_OUT, false},
    };
    static const struct key events[] = {
        {"allocstall", AGENT_ALLOC_STALLS, true}, /* one for each zone */
        {"oom_kill", AGENT_OOM_KILLS, false},
    };

    sample->present &= ~(1ull << AGENT_ALLOC_STALLS);
    parse_lines(text, n, pages, sizeof pages / sizeof pages[0], ' ', page_bytes, sample);
    parse_lines(text, n, events, sizeof events / sizeof events[0], ' ', 1, sample);
}

/* "some avg10=0.00 avg60=0.00 avg300=0.00 total=123" */
void parse_pressure(const char *text, size_t n, struct sample *sample)
{
    static const char total[] = " total=";
    const char *end = text + n, *line;
    uint64_t number;
    size_t length;

    while ((line = next_line(&text, end, &length))) {
        const char *at = memmem(line, length, total, sizeof total - 1);
        if (!at || length < 5)
            continue;
        at += sizeof total - 1;
        if (!parse_number(at, length - (size_t)(at - line), &number))
            continue;
        if (!memcmp(line, "some ", 5))
            sample_set(sample, AGENT_STALL_SOME_US, number);
        else if (!memcmp(line, "full ", 5))
            sample_set(sample, AGENT_STALL_FULL_US, number);
    }
}
