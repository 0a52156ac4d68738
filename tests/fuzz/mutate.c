/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Theory of operation: a pool of inputs, first those of the corpus. Each run takes one, changes a few bytes,
 * inserts, deletes, or joins it with another, and keeps the result if the target says that it achieved
 * something new. The seed is printed and fixed, so a failure comes again; MEMD_FUZZ_SEED sets another.
 */
#include "tests/fuzz/mutate.h"

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_MAX  2048u
#define SEEN_BITS (1u << 20)

struct input {
    size_t bytes;
    uint8_t data[FUZZ_INPUT_MAX];
};

static struct input *pool[POOL_MAX];
static unsigned npool;
static uint8_t seen[SEEN_BITS / 8];
static struct input current;
static uint64_t random_state;

/* A sanitizer that finds something ends the process the same way as a failed check. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "abort_on_error=1:handle_abort=0";
}
const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}

static uint64_t roll(uint64_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1dull % bound;
}

static void on_crash(int signal_number)
{
    static const char digits[] = "0123456789abcdef";
    char hex[2 * FUZZ_INPUT_MAX + 1];
    size_t n = 0;

    for (size_t i = 0; i < current.bytes; i++) {
        hex[n++] = digits[current.data[i] >> 4];
        hex[n++] = digits[current.data[i] & 15];
    }
    hex[n++] = '\n';
    if (write(STDERR_FILENO, "the input was (xxd -r -p makes a file of it):\n", 46) < 0 ||
        write(STDERR_FILENO, hex, n) < 0)
        _exit(1);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* Run `current`; keep it if it is new. */
static void run(fuzz_target *target)
{
    uint64_t what = target(current.data, current.bytes) * 0x9e3779b97f4a7c15ull >> 44;
    uint8_t bit = (uint8_t)(1u << what % 8);

    if (seen[what / 8] & bit)
        return;
    seen[what / 8] |= bit;
    if (npool == POOL_MAX)
        return;
    pool[npool] = malloc(sizeof current);
    if (pool[npool])
        *pool[npool++] = current;
}

static bool read_file(const char *path)
{
    FILE *file = fopen(path, "rb");

    if (!file)
        return false;
    current.bytes = fread(current.data, 1, sizeof current.data, file);
    return fclose(file) == 0;
}

static unsigned run_corpus(const char *dir, fuzz_target *target)
{
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort);
    unsigned nfiles = 0;

    for (int i = 0; i < n; i++) {
        char path[4096 + 512];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && read_file(path)) {
            run(target);
            nfiles++;
        }
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return nfiles;
}

static void change_bytes(void)
{
    for (uint64_t n = 1 + roll(4); n > 0 && current.bytes > 0; n--) {
        uint8_t *at = &current.data[roll(current.bytes)];
        static const uint8_t odd[] = {0, 1, 0x7f, 0x80, 0xff};
        switch (roll(4)) {
        case 0:
            *at ^= (uint8_t)(1u << roll(8));
            break;
        case 1:
            *at = odd[roll(sizeof odd)];
            break;
        case 2:
            *at = (uint8_t)(*at + roll(9) - 4);
            break;
        default:
            *at = (uint8_t)roll(256);
        }
    }
}

static void delete_bytes(void)
{
    if (current.bytes < 2)
        return;
    size_t at = roll(current.bytes), n = 1 + roll(current.bytes - at < 32 ? current.bytes - at : 32);

    memmove(current.data + at, current.data + at + n, current.bytes - at - n);
    current.bytes -= n;
}

/* Put a part of an input of the pool, or random bytes, somewhere into this one. */
static void insert_bytes(void)
{
    const struct input *other = pool[roll(npool)];
    size_t room = FUZZ_INPUT_MAX - current.bytes, at = roll(current.bytes + 1), from, n;

    if (room == 0)
        return;
    from = other->bytes ? roll(other->bytes) : 0;
    n = other->bytes - from < 64 ? other->bytes - from : 1 + roll(64);
    n = n < room ? n : room;
    memmove(current.data + at + n, current.data + at, current.bytes - at);
    for (size_t i = 0; i < n; i++)
        current.data[at + i] = other->data[from + i];
    current.bytes += n;
}

static void mutate(void)
{
    current = *pool[roll(npool)];
    for (uint64_t n = 1 + roll(3); n > 0; n--) {
        switch (roll(4)) {
        case 0:
            delete_bytes();
            break;
        case 1:
            insert_bytes();
            break;
        default:
            change_bytes();
        }
    }
}

int fuzz_main(const char *name, fuzz_target *target, uint64_t runs, int argc, char **argv)
{
    const char *source = getenv("MEMD_SOURCE_DIR"), *scale = getenv("MEMD_TEST_SCALE");
    const char *seed = getenv("MEMD_FUZZ_SEED");
    char dir[4096];
    unsigned nfiles;

    signal(SIGABRT, on_crash);
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    for (int i = 1; i < argc; i++) {
        if (!read_file(argv[i])) {
            fprintf(stderr, "cannot read %s\n", argv[i]);
            return 1;
        }
        run(target);
    }
    if (argc > 1)
        return 0;
    runs = scale ? (uint64_t)((double)runs * atof(scale)) : runs;
    random_state = seed ? strtoull(seed, NULL, 0) | 1 : 0x6d656d64;
    snprintf(dir, sizeof dir, "%s/tests/fuzz/corpus/%s", source ? source : ".", name);
    nfiles = run_corpus(dir, target);
    if (nfiles == 0) {
        fprintf(stderr, "no corpus in %s\n", dir);
        return 1;
    }
    for (uint64_t i = 0; i < runs; i++) {
        mutate();
        run(target);
    }
    printf("%s: %u files, %llu mutations with seed %s, %u of them new\n", name, nfiles,
           (unsigned long long)runs, seed ? seed : "0x6d656d64", npool - nfiles);
    while (npool > 0)
        free(pool[--npool]);
    return 0;
}
