/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The volumes of volume-daemon: the regular files and block devices of one directory.
 *
 * Each function returns 0, or a descriptor, or a negative errno with the reason in `words`, a buffer of
 * VOLUME_WORDS_MAX + 1 bytes.
 */

#ifndef VOLUME_STORE_H
#define VOLUME_STORE_H

#include "volume-protocol.h"

#include <dirent.h>

struct volume_store {
    int directory;
    bool punches;     /* its file system can make a hole in what is there */
    int64_t max_size; /* of a volume */
};

int store_open(struct volume_store *store, const char *path, int64_t max_size, char *words);

/* Opens a volume. `flags`: O_RDONLY or O_WRONLY. A device that is written is opened exclusively. */
int store_volume(const struct volume_store *store, const char *name, int flags, struct volume_facts *facts,
                 bool *device, char *words);
int store_create(const struct volume_store *store, const char *name, int64_t size, char *words);
int store_delete(const struct volume_store *store, const char *name, char *words);

/* The entries, one at a time. Returns 1, with an empty name for what is not a volume, or 0 at the end. */
int store_list(const struct volume_store *store, DIR **listing, char *words);
int store_next(const struct volume_store *store, DIR *listing, char name[VOLUME_NAME_MAX + 1],
               struct volume_facts *facts, char *words);

/* Puts the words into the buffer and returns the error. */
int store_fail(char *words, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
