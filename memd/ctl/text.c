/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* text: sizes, tables, colours and the fields of JSON answers, as people read them. Pure but for printing. */
#include "memd/ctl/ctl.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *ctl_size(char text[CTL_SIZE_BYTES], int64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (bytes < 0 ? -(double)bytes : (double)bytes) / 1024;
    size_t unit = 0;

    if (bytes > -1024 && bytes < 1024) {
        snprintf(text, CTL_SIZE_BYTES, "%" PRId64 " B", bytes);
        return text;
    }
    while (value >= 1023.5 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(text, CTL_SIZE_BYTES, "%s%.*f %s", bytes < 0 ? "-" : "", value < 99.95 ? 1 : 0, value,
             units[unit]);
    return text;
}

const char *ctl_duration(char text[CTL_SIZE_BYTES], uint64_t ms)
{
    uint64_t s = ms / 1000;

    if (s < 60)
        snprintf(text, CTL_SIZE_BYTES, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
    else if (s < 3600)
        snprintf(text, CTL_SIZE_BYTES, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, CTL_SIZE_BYTES, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
    else
        snprintf(text, CTL_SIZE_BYTES, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s % 86400 / 3600);
    return text;
}

int ctl_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    unsigned shift = 0;
    char *end;

    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
    }
    if (errno || *end || value > UINT64_MAX >> shift)
        return -EINVAL;
    *ret_bytes = value << shift;
    return 0;
}

bool ctl_lacks_unit(uint64_t bytes)
{
    return bytes && bytes < 1 << 20;
}

const char *ctl_colour_on(const struct ctl *ctl, enum ctl_colour colour)
{
    static const char *const sequences[] = {
        [CTL_PLAIN] = "",          [CTL_BOLD] = "\033[1m", [CTL_GREEN] = "\033[32m",
        [CTL_YELLOW] = "\033[33m", [CTL_RED] = "\033[31m",
    };
    const char *term = getenv("TERM");

    if (!ctl->out_tty || getenv("NO_COLOR") || !term || !strcmp(term, "dumb"))
        return "";
    return sequences[colour];
}

const char *ctl_colour_off(const struct ctl *ctl, enum ctl_colour colour)
{
    return *ctl_colour_on(ctl, colour) ? "\033[0m" : "";
}

char *ctl_printable(char *text)
{
    for (char *c = text; *c; c++)
        if (iscntrl((unsigned char)*c))
            *c = '?';
    return text;
}

void ctl_progress(struct ctl *ctl, const char *what, double progress)
{
    if (!ctl->err_tty)
        return;
    fprintf(ctl->err, "\r%s %3.0f%% ", what, 100 * progress);
    fflush(ctl->err);
    ctl->progress = true;
}

void ctl_progress_end(struct ctl *ctl)
{
    if (ctl->progress)
        fputs("\r\033[K", ctl->err);
    ctl->progress = false;
}

int64_t ctl_get_int(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

const char *ctl_get_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

bool ctl_get_bool(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

enum ctl_result ctl_print_json(struct ctl *ctl, const json_t *document)
{
    if (json_dumpf(document, ctl->out, JSON_INDENT(2)) || fputc('\n', ctl->out) == EOF) {
        if (errno != EPIPE) /* `memctl why NAME | head` has what it wants */
            ctl_error(ctl, "cannot write the output");
        return CTL_FAILED;
    }
    return CTL_DONE;
}

int ctl_table_add(struct ctl_table *table, const char *format, ...)
{
    char row[CTL_COLUMNS_MAX * CTL_CELL_BYTES], *next = row;
    va_list args;

    if (table->nrows == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 16;
        void *cells = realloc(table->cells, capacity * table->ncolumns * CTL_CELL_BYTES);
        if (!cells)
            return -ENOMEM;
        table->cells = cells;
        table->capacity = capacity;
    }
    va_start(args, format);
    vsnprintf(row, sizeof row, format, args);
    va_end(args);
    char(*cells)[CTL_CELL_BYTES] = &table->cells[table->nrows++ * table->ncolumns];
    for (size_t i = 0; i < table->ncolumns; i++) {
        const char *cell = strsep(&next, "\t");
        snprintf(cells[i], CTL_CELL_BYTES, "%s", cell ? cell : "");
        ctl_printable(cells[i]);
    }
    return 0;
}

static size_t column_width(const struct ctl_table *table, size_t column)
{
    size_t width = 0;

    for (size_t row = 0; row < table->nrows; row++) {
        size_t length = strlen(table->cells[row * table->ncolumns + column]);
        if (length > width)
            width = length;
    }
    return width;
}

void ctl_table_print(struct ctl *ctl, const struct ctl_table *table)
{
    int width[CTL_COLUMNS_MAX];

    for (size_t i = 0; i < table->ncolumns; i++)
        width[i] = (int)column_width(table, i);
    for (size_t row = 0; row < table->nrows; row++) {
        enum ctl_colour colour = row || table->headless ? CTL_PLAIN : CTL_BOLD;
        fputs(ctl_colour_on(ctl, colour), ctl->out);
        for (size_t i = 0; i < table->ncolumns; i++) {
            bool right = table->right >> i & 1, last = i + 1 == table->ncolumns;
            int pad = right ? width[i] : last ? 0 : -width[i];
            fprintf(ctl->out, "%s%*s", i ? "  " : "", pad, table->cells[row * table->ncolumns + i]);
        }
        fprintf(ctl->out, "%s\n", ctl_colour_off(ctl, colour));
    }
}

void ctl_table_free(struct ctl_table *table)
{
    free(table->cells);
    table->cells = NULL;
    table->nrows = table->capacity = 0;
}
