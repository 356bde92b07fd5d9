/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Other files that a disk image names as a part of its content.
 *
 * Whoever made an image decides which these are. A copy of it would then read any file of the host.
 */

#include "image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t big_endian(const unsigned char *bytes, int count)
{
    uint64_t value = 0;

    while (count-- > 0)
        value = value << 8 | *bytes++;
    return value;
}

static uint64_t little_endian(const unsigned char *bytes, int count)
{
    uint64_t value = 0;

    while (count-- > 0)
        value = value << 8 | bytes[count];
    return value;
}

/* pread(2) until there is no more. Returns the count or a negative errno. */
static ssize_t read_at(int fd, void *buffer, size_t length, off_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t got = pread(fd, (char *)buffer + done, length - done, offset + (off_t)done);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

/* The header of a qcow2 image: a backing file at byte 8, features of version 3 at byte 72. */
static int foreign_in_qcow2(int fd, const char **foreign)
{
    enum { VERSION = 4, BACKING = 8, FEATURES = 72, EXTERNAL_DATA = 1 << 2 };
    unsigned char header[FEATURES + 8];
    ssize_t length = read_at(fd, header, sizeof(header), 0);

    if (length < 0)
        return (int)length;
    /* The server refuses a file that is not such an image, and one that is too short for its version. */
    if (length < FEATURES || memcmp(header, "QFI\xfb", 4) != 0)
        return 0;
    if (big_endian(header + BACKING, 8) != 0)
        *foreign = "a backing file";
    else if (big_endian(header + VERSION, 4) >= 3 && length == sizeof(header) &&
             (big_endian(header + FEATURES, 8) & EXTERNAL_DATA) != 0)
        *foreign = "an external data file";
    return 0;
}

/*
 * A sparse extent with its description inside. A description by itself, and an extent without a capacity of its own,
 * name extents in other files.
 *
 * QEMU looks for the parent in the 10 KiB from byte 512 on, wherever the header says that the description is.
 */
static int foreign_in_vmdk(int fd, const char **foreign)
{
    enum { CAPACITY = 12, DESCRIPTION = 28, SECTOR = 512, MOST = 64 << 10 };
    static const char parent[] = "parentFileNameHint";
    unsigned char *head = malloc(MOST), *description = malloc(MOST);
    ssize_t length, more = 0;
    int r = 0;

    if (head == NULL || description == NULL) {
        free(head);
        free(description);
        return -ENOMEM;
    }
    length = read_at(fd, head, MOST, 0);
    if (length >= SECTOR)
        more = read_at(fd, description, MOST, (off_t)(little_endian(head + DESCRIPTION, 8) & INT32_MAX) * SECTOR);
    if (length < 0 || more < 0)
        r = (int)(length < 0 ? length : more);
    else if (length < SECTOR || memcmp(head, "KDMV", 4) != 0 || little_endian(head + CAPACITY, 8) == 0)
        *foreign = "extents in other files";
    else if (memmem(head, (size_t)length, parent, strlen(parent)) != NULL ||
             memmem(description, (size_t)more, parent, strlen(parent)) != NULL)
        *foreign = "a parent image";
    free(head);
    free(description);
    return r;
}

int image_foreign(const char *format, int fd, const char **foreign)
{
    *foreign = NULL;
    if (strcmp(format, "qcow2") == 0)
        return foreign_in_qcow2(fd, foreign);
    if (strcmp(format, "vmdk") == 0)
        return foreign_in_vmdk(fd, foreign);
    /* QEMU opens no VDI or VHDX image that has a parent. */
    return 0;
}
