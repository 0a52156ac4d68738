/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * facts: numbers out of what VMMs answer, checked. Pure; any thread.
 *
 * JSON is read with JSON_DECODE_INT_AS_REAL: QEMU says "not known" as 2^64-1, which is no integer to jansson.
 * Doubles are exact up to 2^53, far above any RAM; what is larger, negative, broken or no number is no value.
 */
#ifndef BALLOON_BACKENDS_FACTS_H
#define BALLOON_BACKENDS_FACTS_H

#include "balloon-driver/backends/backend.h"

#include <jansson.h>

/* As of a VM of which nothing is known. */
void facts_clear(struct balloon_facts *facts);
/* RAM is at most BALLOON_RAM_MAX; actual and target are within it. */
void facts_clamp(struct balloon_facts *facts);
/* Forget the statistics. */
void facts_clear_stats(struct balloon_facts *facts);

/* One JSON document of `bytes`; NULL, with a reason, if it is none. */
json_t *facts_parse(const char *text, size_t bytes, struct balloon_error *error);

/* A whole number from 0 to 2^53. 0 or -EPROTO. */
int facts_number(const json_t *value, uint64_t *ret_value);
/* Of a key of an object. 0; -ENOENT: there is no such key; -EPROTO: it is no such number. */
int facts_get(const json_t *object, const char *key, uint64_t *ret_value);
/* A boolean key that is true. */
bool facts_true(const json_t *object, const char *key);
/* A text of at most 4 KiB, or "". */
const char *facts_text(const json_t *object, const char *key);

/* Statistics out of an object with these keys, in the order of enum memd_balloon_tag. */
void facts_stats(const json_t *object, const char *const keys[MEMD_BALLOON_TAGS],
                 uint64_t ret_stats[MEMD_BALLOON_TAGS]);

#endif
