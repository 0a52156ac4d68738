/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * zeros MIB: in a guest: memory that was never written to reads zeros. The first byte of each page is
 * written, so that the kernel takes one from what is free; one that believes these to be zeroed does not
 * clear it. Prints how many bytes were wrong; exits with 1 if one was, 2: no memory.
 *
 * memd-test: helper
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096u

int main(int argc, char *argv[])
{
    size_t bytes = argc == 2 ? strtoul(argv[1], NULL, 10) << 20 : 0, wrong = 0;
    volatile uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (!bytes || at == MAP_FAILED)
        return 2;
    for (size_t i = 0; i < bytes; i += PAGE) {
        at[i] = 1;
        for (size_t k = 1; k < PAGE; k++)
            wrong += at[i + k] != 0;
    }
    printf("%zu\n", wrong);
    return wrong != 0;
}
