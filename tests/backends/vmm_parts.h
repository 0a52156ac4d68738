/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vmm_parts: what vmm.c, vmm_qmp.c and vmm_http.c share. All under the VMM's lock, which vmm_answer() gives
 * up while it writes. */
#ifndef TESTS_BACKENDS_VMM_PARTS_H
#define TESTS_BACKENDS_VMM_PARTS_H

#include "tests/backends/vmm.h"

/* The guest moves: somebody looks. */
void vmm_look(struct vmm *vmm);

bool vmm_wait(struct vmm *vmm, int fd, short events);
bool vmm_write(struct vmm *vmm, int fd, const char *data, size_t bytes);
bool vmm_answer(struct vmm *vmm, int fd, const char *text, const char *lie);

/* Until the connection ends; one request. */
void vmm_serve_qmp(struct vmm *vmm, int fd);
void vmm_serve_http(struct vmm *vmm, int fd);

#endif
