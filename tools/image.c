/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Names of disk images of other formats, and which of them are refused.
 *
 * An image that names other files of the host is refused unless --backing-chain is given; see foreign.c.
 */

#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const formats[] = { "qcow2", "vmdk", "vdi", "vhdx" };

/* The format of a name, or NULL. */
static const char *format_of(const char *name)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        size_t length = strlen(formats[i]);

        if (strncmp(name, formats[i], length) == 0 && name[length] == ':' && name[length + 1] != '\0')
            return formats[i];
    }
    return NULL;
}

static const char *file_of(const char *name)
{
    return strchr(name, ':') + 1;
}

bool is_image(const char *name)
{
    return format_of(name) != NULL;
}

/* The file as a word of a shell that is neither an option nor the URL of a protocol, or NULL if there is no memory. */
static char *quoted_file(const char *name)
{
    const char *file = file_of(name);
    char *text = malloc(4 * strlen(file) + 5), *at = text;

    if (text == NULL)
        return NULL;
    *at++ = '\'';
    if (file[0] != '/' && (file[0] == '-' || strchr(file, ':') != NULL))
        at = stpcpy(at, "./");
    for (; *file != '\0'; file++) {
        if (*file == '\'')
            at = stpcpy(at, "'\\''");
        else
            *at++ = *file;
    }
    strcpy(at, "'");
    return text;
}

int image_too_small(const char *name, int64_t room, int64_t length, int64_t size)
{
    char *file = quoted_file(name);
    int r = fail(EXIT_REFUSED, "%s: has room for %lld bytes, but %lld are to be written (qemu-img create -f %s %s %lld)", name,
                 (long long)room, (long long)length, format_of(name), file != NULL ? file : "FILE", (long long)size);

    free(file);
    return r;
}

static int fail_absent(const char *name)
{
    char *file = quoted_file(name);
    int r = fail(EXIT_LOCAL, "%s: does not exist: make it first (qemu-img create -f %s %s SIZE)", name, format_of(name),
                 file != NULL ? file : "FILE");

    free(file);
    return r;
}

/* Refuses an image that names others, and what is neither a file nor a device. Returns 0 or an exit code. */
static int check(const struct settings *settings, const char *name, int fd, bool *device)
{
    const char *foreign;
    struct stat st;
    int r;

    if (fstat(fd, &st) < 0)
        return fail_errno(name, "fstat", errno);
    *device = S_ISBLK(st.st_mode);
    if (!S_ISREG(st.st_mode) && !*device)
        return fail(EXIT_REFUSED, "%s: is neither a regular file nor a block device", name);
    r = image_foreign(format_of(name), fd, &foreign);
    if (r < 0)
        return fail_errno(name, "read", r);
    if (foreign == NULL || settings->backing_chain)
        return 0;
    return fail(EXIT_REFUSED, "%s: has %s, which may be any file of this host (--backing-chain uses it)", name, foreign);
}

int image_serve(const struct settings *settings, const char *name, bool writable, struct image *image, int *connection)
{
    struct server server = { .format = format_of(name), .writable = writable, .locks = !settings->no_lock };
    char *path = NULL;
    int r;

    /* A FIFO is not waited for. */
    server.fd = open(file_of(name), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (server.fd < 0)
        return errno == ENOENT && writable ? fail_absent(name) : fail_errno(name, NULL, errno);
    r = check(settings, name, server.fd, &server.device);
    if (r == 0 && settings->backing_chain) {
        path = realpath(file_of(name), NULL);
        r = path == NULL ? fail_errno(name, NULL, errno) : 0;
    }
    if (r == 0) {
        server.path = path;
        *image = (struct image){ .name = name, .timeout_ms = settings->timeout_ms };
        r = server_start(&server, image, connection);
        r = r < 0 ? fail_errno(name, "qemu-nbd", r) : 0;
    }
    free(path);
    close(server.fd);
    return r;
}
