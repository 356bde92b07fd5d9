/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* libvirt's errors as errno, and their text, which the next call into libvirt resets. */

#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The largest errno of Linux; a greater number cannot be returned as a negative errno. */
#define MOST_ERRNO 4095

static const struct {
    int code, error;
} codes[] = {
    { VIR_ERR_NO_MEMORY, ENOMEM },
    { VIR_ERR_NO_SUPPORT, EOPNOTSUPP },
    { VIR_ERR_OPERATION_UNSUPPORTED, EOPNOTSUPP },
    { VIR_ERR_ARGUMENT_UNSUPPORTED, EOPNOTSUPP },
    { VIR_ERR_CONFIG_UNSUPPORTED, EOPNOTSUPP },
    { VIR_ERR_NO_CONNECT, ENOTCONN },
    { VIR_ERR_INVALID_CONN, ENOTCONN },
    { VIR_ERR_UNKNOWN_HOST, EHOSTUNREACH },
    { VIR_ERR_INVALID_ARG, EINVAL },
    { VIR_ERR_INVALID_STREAM, EINVAL },
    { VIR_ERR_INVALID_STORAGE_VOL, EINVAL },
    { VIR_ERR_INVALID_STORAGE_POOL, EINVAL },
    { VIR_ERR_OPERATION_INVALID, EINVAL },
    { VIR_ERR_NO_STORAGE_VOL, ENOENT },
    { VIR_ERR_NO_STORAGE_POOL, ENOENT },
    { VIR_ERR_STORAGE_VOL_EXIST, EEXIST },
    { VIR_ERR_OPERATION_DENIED, EPERM },
    { VIR_ERR_ACCESS_DENIED, EACCES },
    { VIR_ERR_AUTH_FAILED, EACCES },
    { VIR_ERR_AUTH_CANCELLED, EACCES },
    { VIR_ERR_AUTH_UNAVAILABLE, EACCES },
    { VIR_ERR_OPERATION_TIMEOUT, ETIMEDOUT },
    { VIR_ERR_OPERATION_ABORTED, ECANCELED },
    { VIR_ERR_RPC, EPROTO },
    { VIR_ERR_OVERFLOW, EOVERFLOW },
};

int sparsestream_libvirt_errno(const virError *error)
{
    if (error == NULL || error->code == VIR_ERR_OK)
        return 0;
    if (error->code == VIR_ERR_SYSTEM_ERROR) {
        const int code = error->int1;

        if (code <= 0 || code > MOST_ERRNO || code == EAGAIN || code == EINTR)
            return EIO;
        return code;
    }
    /* "client socket is closed", "connection closed due to keepalive timeout" and their like have no code of their own. */
    if (error->code == VIR_ERR_INTERNAL_ERROR && error->domain == VIR_FROM_RPC)
        return ECONNRESET;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        if (codes[i].code == error->code)
            return codes[i].error;
    }
    return EIO;
}

int error_take(failure_t *failure)
{
    const virError *error = virGetLastError();
    int code = sparsestream_libvirt_errno(error);

    if (code == 0)
        return error_set(failure, -EIO, "libvirt failed without an error");
    error_set(failure, -code, "%s", error->message == NULL ? "unknown error" : error->message);
    failure->libvirt_code = error->code;
    failure->libvirt_domain = error->domain;
    return -code;
}

int error_set(failure_t *failure, int error, const char *format, ...)
{
    va_list list;

    error_clear(failure);
    failure->code = -error;
    va_start(list, format);
    vsnprintf(failure->message, sizeof(failure->message), format, list);
    va_end(list);
    return error;
}

void error_add_transfer(failure_t *failure, int error, const struct sparsestream_error *reported)
{
    /* An end that the transfer aborted because of the other keeps no failure of its own. */
    if (failure->code != -error)
        error_clear(failure);
    failure->code = -error;
    failure->side = reported->side;
    failure->operation = reported->operation;
    failure->offset = reported->code == 0 ? -1 : reported->offset;
    if (reported->message[0] != '\0')
        snprintf(failure->message, sizeof(failure->message), "%s", reported->message);
}

void error_clear(failure_t *failure)
{
    memset(failure, 0, sizeof(*failure));
    failure->size = sizeof(*failure);
    failure->offset = -1;
}

int error_check(const failure_t *out)
{
    return out != NULL && (out->size < sizeof(out->size) || out->size > 65536) ? -EINVAL : 0;
}

void error_give(const failure_t *failure, failure_t *out)
{
    uint64_t size;

    if (out == NULL)
        return;
    size = out->size;
    memset(out, 0, size);
    memcpy(out, failure, size < sizeof(*failure) ? size : sizeof(*failure));
    out->size = size;
}
