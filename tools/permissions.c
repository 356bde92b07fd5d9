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

/* The value of an attribute, which the caller frees. Returns its size or a negative errno. */
static ssize_t read_attribute(int fd, const char *name, char **value)
{
    ssize_t size = fgetxattr(fd, name, NULL, 0);

    *value = NULL;
    if (size < 0)
        return -errno;
    *value = malloc(size > 0 ? (size_t)size : 1);
    if (*value == NULL)
        return -ENOMEM;
    size = fgetxattr(fd, name, *value, (size_t)size);
    return size < 0 ? -errno : size;
}

/*
 * The permissions that a copy without the access list may grant. In the mode of a file with a list, the group's bits show
 * the mask of the list, and the group itself may have fewer permissions.
 */
static mode_t without_list(mode_t mode, const char *value, ssize_t size)
{
    enum { HEADER = 4, ENTRY = 8, TAG_GROUP = 4 };

    for (ssize_t at = HEADER; at + ENTRY <= size; at += ENTRY) {
        /* The numbers are little-endian. */
        if (value[at] == TAG_GROUP && value[at + 1] == 0)
            return mode & ~((~(mode_t)value[at + 2] << 3) & 070);
    }
    return mode & ~(mode_t)070;
}

/* The permissions that the mode of the source grants by itself. */
static mode_t granted_by(const struct target *source)
{
    mode_t mode = source->st.st_mode & PERMISSIONS;
    char *value;
    ssize_t size = read_attribute(source->fd, access_list, &value);

    if (size >= 0)
        mode = without_list(mode, value, size);
    free(value);
    return mode;
}

mode_t mode_of_new(const struct settings *settings, const struct target *source)
{
    if (settings->mode >= 0)
        return (mode_t)settings->mode;
    /* Members of a group that the file will not keep must not get access. */
    if (source == NULL || !source->regular || (settings->preserve & PRESERVE_OWNERSHIP) != 0)
        return PRIVATE;
    return granted_by(source);
}

int check_preserve(const struct settings *settings, const struct target *from, const struct target *to)
{
    const struct target *wrong = !from->regular ? from : !to->regular || to->path == NULL ? to : NULL;

    if (settings->preserve == 0 || wrong == NULL)
        return 0;
    return usage(settings, "--preserve: %s is not a file with a name and permissions", wrong->name);
}

static int preserve_owner(const struct settings *settings, const struct target *from, const struct target *to)
{
    const struct stat *st = &from->st;
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
        fchmod(to->fd, granted_by(from) & ~mask) < 0)
        return fail_errno(to->name, "fchmod", errno);
    return 0;
}

/* Copies one extended attribute. Returns 0 or a negative errno. */
static int copy_attribute(int from, int to, const char *name)
{
    char *value;
    ssize_t size = read_attribute(from, name, &value);
    int r = size < 0 ? (int)size : fsetxattr(to, name, value, (size_t)size, 0) < 0 ? -errno : 0;

    free(value);
    return r;
}

/*
 * Gives the target the access list of the source, or takes away the one that its directory gave it. Returns 0 or a
 * negative errno, and takes from `mode` what it may not grant then.
 */
static int preserve_list(const struct target *from, const struct target *to, mode_t *mode)
{
    char *value;
    ssize_t size = read_attribute(from->fd, access_list, &value);
    int r = 0;

    if (size >= 0 && fsetxattr(to->fd, access_list, value, (size_t)size, 0) < 0) {
        r = -errno;
        *mode = without_list(*mode, value, size);
    } else if (size == -ENODATA || size == -EOPNOTSUPP) {
        if (fremovexattr(to->fd, access_list) < 0 && errno != ENODATA && errno != EOPNOTSUPP)
            r = -errno;
    } else if (size < 0) {
        r = (int)size;
    }
    free(value);
    return r;
}

static int preserve_mode(const struct settings *settings, const struct target *from, const struct target *to)
{
    const struct stat *st = &from->st;
    struct stat now;
    mode_t mode = st->st_mode & 07777;
    int r;

    r = preserve_list(from, to, &mode);
    if (fstat(to->fd, &now) < 0)
        return fail_errno(to->name, "fstat", errno);
    /* A program that runs as its owner must not come to run as another. */
    if ((settings->preserve & PRESERVE_OWNERSHIP) == 0 || now.st_uid != st->st_uid || now.st_gid != st->st_gid)
        mode &= PERMISSIONS;
    /* With an access list this sets its mask, to what it is. */
    if (fchmod(to->fd, mode) < 0)
        return fail_errno(to->name, "fchmod", errno);
    return r < 0 ? fail_errno(to->name, "the access control list", r) : 0;
}

/*
 * Attributes that grant access belong to the mode, labels to the system's policy, and those of a file system to itself:
 * xfs shows its access lists to root by other names too. xattr.conf(5) of libattr has the same.
 */
static bool is_of_others(const char *name)
{
    static const char *const prefixes[] = { "system.", "trusted.SGI_", "xfsroot.", "afs." };

    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return strcmp(name, "security.selinux") == 0 || strcmp(name, "security.evm") == 0;
}

static int preserve_attributes(const struct settings *settings, const struct target *from, const struct target *to)
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

        if ((error == -EPERM && strncmp(at, "user.", strlen("user.")) != 0) ||
            (error == -EOPNOTSUPP && (settings->preserve & PRESERVE_WHAT_CAN_BE) != 0))
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
        r = preserve_owner(settings, from, to);
    if (r == 0 && (settings->preserve & PRESERVE_MODE) != 0)
        r = preserve_mode(settings, from, to);
    if (r == 0 && (settings->preserve & PRESERVE_XATTR) != 0)
        r = preserve_attributes(settings, from, to);
    if (r == 0 && (settings->preserve & PRESERVE_TIMESTAMPS) != 0) {
        const struct timespec times[2] = { from->st.st_atim, from->st.st_mtim };

        if (futimens(to->fd, times) < 0)
            r = fail_errno(to->name, "futimens", errno);
    }
    if (r == 0 && settings->sync && fsync(to->fd) < 0)
        r = fail_errno(to->name, "fsync", errno);
    return r;
}
