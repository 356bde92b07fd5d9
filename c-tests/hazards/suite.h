/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * One hazard, one case. A case runs in a child process of its own, within a time limit, once for
 * each implementation. Its outcome is pass, fail, hang, killed or skip.
 */
#ifndef SUITE_H
#define SUITE_H

#include "../fixtures/content.h"
#include "../fixtures/fixtures.h"
#include "../fixtures/fuse-server.h"
#include "implementation.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB INT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

struct hazard {
    const char *name;
    const char *what; /* what goes wrong where it is not met */
    void (*run)(const struct implementation *implementation);
    bool catches_naive; /* the naive implementation must not pass */
};

struct hazard_list {
    const struct hazard *hazards;
    size_t count;
};

extern const struct hazard_list hazards_of_files;
extern const struct hazard_list hazards_of_devices;
extern const struct hazard_list hazards_of_maps;
extern const struct hazard_list hazards_of_ends;
extern const struct hazard_list hazards_of_limits;

#define HAZARD_LIST(array) {(array), sizeof(array) / sizeof((array)[0])}

/* Each ends the case, with its reason. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ends the case unless a step of its own preparation worked. */
void need(bool worked, const char *what);

/* Opens a fixture for the rest of the case, or skips it. */
struct fixture *need_fixture(const char *name, const struct fixture_options *options);

/* Opens the file of a file system or the device, for reading and writing. */
int need_file(const struct fixture *fixture);

/* A new, empty memfd. */
int need_memory(void);

/* A memfd with these pieces. */
int need_source(const struct content *pieces, size_t count);

/* A FUSE file with these pieces, opened with O_RDWR; `rules` apply from here on. */
struct fuse_server *need_fuse(unsigned flags, const struct content *pieces, size_t count,
                              const struct fuse_rule *rules, size_t rules_count, int *fd);

/* Fails the case unless the outcome is this one, 0 or a negative errno. */
void expect_result(const struct outcome *outcome, int result);

/* Fails the case unless the file holds exactly these pieces and nothing after them. */
void expect_content(int fd, const struct content *pieces, size_t count);

/* Fails the case unless the file holds these pieces at `offset`, whatever is around them. */
void expect_part(int fd, int64_t offset, const struct content *pieces, size_t count);

/*
 * Fails the case unless the device begins with these pieces, in its cache and on its medium, which is read with
 * O_DIRECT.
 */
void expect_device(const struct fixture *device, const struct content *pieces, size_t count);

/* The same for a part of the device, which need not lie on sectors. */
void expect_device_part(const struct fixture *device, int64_t offset, const struct content *pieces,
                        size_t count);

/* For a case that may never end: fewer seconds to wait for that than the usual. */
void limit_seconds(unsigned seconds);

int64_t suite_now_ms(void);

#endif
