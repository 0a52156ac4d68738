/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mutate: a bounded fuzzing run with any compiler: the files of a corpus, then mutations of them. `make
 * fuzz-NAME` runs the same target under libFuzzer, without bounds.
 */
#ifndef TESTS_FUZZ_MUTATE_H
#define TESTS_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>

#define FUZZ_INPUT_MAX 4096u

/*
 * Runs one input; aborts if something is wrong. Returns a number that tells apart what inputs achieved: those
 * with a new one are mutated further.
 */
typedef uint64_t fuzz_target(const uint8_t *data, size_t bytes);

/*
 * `runs` inputs at MEMD_TEST_SCALE 1, started from tests/fuzz/corpus/NAME. With arguments: runs these files
 * only. Returns the exit code of a test. An input that makes the target abort is printed as hexadecimal.
 */
int fuzz_main(const char *name, fuzz_target *target, uint64_t runs, int argc, char **argv);

#endif
