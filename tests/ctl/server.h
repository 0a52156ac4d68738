/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* server: the control server over the fake core, in the test's own process and directory; for cmocka tests.
 */
#ifndef TESTS_CTL_SERVER_H
#define TESTS_CTL_SERVER_H

#include "tests/ctl/client.h"

/* Of the group. What is left in the directory at the end fails the tests. */
int server_setup(void **state);
int server_teardown(void **state);

/* Around each test: the fake core is as at first, and afterwards the server still answers. */
int server_fresh(void **state);
int server_still_answers(void **state);
#define SERVER_TEST(f) cmocka_unit_test_setup_teardown(f, server_fresh, server_still_answers)

void server_start(void);
void server_stop(void);
extern char server_dir[];
extern char server_path[64]; /* of the socket */

struct client_answer server_ask(const char *method, const char *url, const char *body);
int server_status_of(const char *method, const char *url, const char *body);

/* The answer is an object with this status, and, being an error, says so in one line. */
void server_assert_refused(struct client_answer answer, int status, const char *code);

#endif
