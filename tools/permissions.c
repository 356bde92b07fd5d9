/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Mode, owner, times and attributes of the target. */

#include "tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { PRIVATE = 0600, PERMISSIONS = 0777 };

static const char access_list[] = "system.posix_acl_access";

mode_t mode_of_new(const struct settings *settings, const struct target *source)
{
    if (settings->mode >= 0)
        return (mode_t)settings->mode;
    /* Members of a group that the file will not keep must not get access. */
    if (source == NULL || !source->regular || (settings->preserve & PRESERVE_OWNERSHIP) != 0)
        return PRIVATE;
    return source->st.st_mode & PERMISSIONS;
}

int check_preserve(const struct settings *settings, const struct target *from, const struct target *to)
{
    const struct target *wrong = !from->regular ? from : !to->regular || to->path == NULL ? to : NULL;

    if (settings->preserve == 0 || wrong == NULL)
        return 0;
    return usage(settings, "--preserve: %s is not a file with a name and permissions", wrong->name);
}

static int preserve_owner(const struct settings *settings, const struct stat *st, const struct target *to)
{
    mode_t mask = umask(0);

    umask(mask);
    if (fchown(to->fd, st->st_uid, st->st_gid) < 0) {
        if (errno != EPERM)
            return fail_errno(to->name, "fchown", errno);
        warn("%s: the owner cannot be preserved: %s", to->name, strerror(errno));
        /* The group may be one of ours. */
        if (fchown(to->fd, (uid_t)-1, st->st_gid) < 0 && errno != EPERM)
            return fail_errno(to->name, "fchown", errno);
    }
    if (to->created && (settings->preserve & PRESERVE_MODE) == 0 &&
        fchmod(to->fd, st->st_mode & PERMISSIONS & ~mask) < 0)
        return fail_errno(to->name, "fchmod", errno);
    return 0;
}

/* Copies one extended attribute. Returns 0 or a negative errno. */
static int copy_attribute(int from, int to, const char *name)
{
    ssize_t size = fgetxattr(from, name, NULL, 0);
    char *value;
    int r = 0;

    if (size < 0)
        return -errno;
    value = malloc(size > 0 ? (size_t)size : 1);
    if (value == NULL)
        return -ENOMEM;
    size = fgetxattr(from, name, value, (size_t)size);
    if (size < 0 || fsetxattr(to, name, value, (size_t)size, 0) < 0)
        r = -errno;
    free(value);
    return r;
}

static int preserve_mode(const struct settings *settings, const struct target *from, const struct target *to)
{
    const struct stat *st = &from->st;
    struct stat now;
    mode_t mode = st->st_mode & 07777;
    int r;

    r = copy_attribute(from->fd, to->fd, access_list);
    /* Nor does it keep the one that its directory gave it. */
    if (r == -ENODATA && fremovexattr(to->fd, access_list) < 0)
        r = -errno;
    if (r < 0 && r != -ENODATA && r != -EOPNOTSUPP)
        return fail_errno(to->name, "access list", r);
    if (fstat(to->fd, &now) < 0)
        return fail_errno(to->name, "fstat", errno);
    /* A program that runs as its owner must not come to run as another. */
    if ((settings->preserve & PRESERVE_OWNERSHIP) == 0 || now.st_uid != st->st_uid || now.st_gid != st->st_gid)
        mode &= PERMISSIONS;
    return fchmod(to->fd, mode) < 0 ? fail_errno(to->name, "fchmod", errno) : 0;
}

/* Attributes that grant access belong to the mode, and labels to the system's policy. */
static bool is_of_others(const char *name)
{
    return strncmp(name, "system.", strlen("system.")) == 0 || strcmp(name, "security.selinux") == 0;
}

static int preserve_attributes(const struct target *from, const struct target *to)
{
    ssize_t size = flistxattr(from->fd, NULL, 0);
    char *names, *at;
    int r = 0;

    if (size <= 0)
        return size == 0 || errno == EOPNOTSUPP ? 0 : fail_errno(from->name, "flistxattr", errno);
    names = malloc((size_t)size);
    if (names == NULL)
        return fail_errno(from->name, NULL, ENOMEM);
    size = flistxattr(from->fd, names, (size_t)size);
    if (size < 0)
        r = fail_errno(from->name, "flistxattr", errno);
    for (at = names; r == 0 && at < names + size; at += strlen(at) + 1) {
        int error = is_of_others(at) ? 0 : copy_attribute(from->fd, to->fd, at);

        if (error == -EPERM && strncmp(at, "user.", strlen("user.")) != 0)
            warn("%s: %s cannot be preserved: %s", to->name, at, strerror(-error));
        else if (error < 0)
            r = fail_errno(to->name, at, error);
    }
    free(names);
    return r;
}

int preserve(const struct settings *settings, const struct target *from, const struct target *to)
{
    int r = 0;

    if (settings->preserve == 0)
        return 0;
    /* A change of owner takes rights away, and all of these change the times. */
    if ((settings->preserve & PRESERVE_OWNERSHIP) != 0)
        r = preserve_owner(settings, &from->st, to);
    if (r == 0 && (settings->preserve & PRESERVE_MODE) != 0)
        r = preserve_mode(settings, from, to);
    if (r == 0 && (settings->preserve & PRESERVE_XATTR) != 0)
        r = preserve_attributes(from, to);
    if (r == 0 && (settings->preserve & PRESERVE_TIMESTAMPS) != 0) {
        const struct timespec times[2] = { from->st.st_atim, from->st.st_mtim };

        if (futimens(to->fd, times) < 0)
            r = fail_errno(to->name, "futimens", errno);
    }
    if (r == 0 && settings->sync && fsync(to->fd) < 0)
        r = fail_errno(to->name, "fsync", errno);
    return r;
}
