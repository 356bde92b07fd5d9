/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Failures as text, including those of libnbd. */

#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The largest errno of Linux; a greater number cannot be returned as a negative errno. */
#define MOST_ERRNO 4095

static _Thread_local struct failure last;

static void set(struct failure *failure, int error, const char *format, va_list list)
{
    failure->error = error;
    vsnprintf(failure->text, sizeof(failure->text), format, list);
}

int failure_set(struct failure *failure, int error, const char *format, ...)
{
    va_list list;

    if (failure->error == 0) {
        va_start(list, format);
        set(failure, error, format, list);
        va_end(list);
    }
    return -failure->error;
}

/* "nbd_aio_notify_read: recv: Connection reset by peer": the caller has no use for the name of the function. */
static const char *words_of_libnbd(void)
{
    const char *words = nbd_get_error();
    const char *colon;

    colon = strchr(words, ':');
    return strncmp(words, "nbd_", 4) == 0 && colon != NULL && colon[1] == ' ' ? colon + 2 : words;
}

/* The end of the connection within a message. libnbd has no errno for it, only these words. */
static bool was_cut_off(const char *words)
{
    return strstr(words, "server disconnected unexpectedly") != NULL ||
           strstr(words, "server closed socket unexpectedly") != NULL;
}

int failure_take(struct failure *failure)
{
    int error = nbd_get_errno();

    /* A connection that broke while a request was sent leaves no text. */
    if (error == 0 && nbd_get_error() == NULL)
        return failure_set(failure, ECONNRESET, "the connection to the server broke");
    /* Another failure without an errno is one of the protocol. EAGAIN or EINTR would be repeated for ever. */
    if (error <= 0 || error > MOST_ERRNO)
        error = was_cut_off(words_of_libnbd()) ? ECONNRESET : EPROTO;
    else if (error == EAGAIN || error == EINTR)
        error = EIO;
    /* A connection that broke has one errno, whichever call noticed it. */
    else if (error == ENOTCONN || error == EPIPE)
        error = ECONNRESET;
    return failure_set(failure, error, "%s", words_of_libnbd());
}

int failure_report(const struct failure *failure)
{
    last = *failure;
    return -failure->error;
}

int refuse(int error, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    set(&last, -error, format, list);
    va_end(list);
    return error;
}

const char *sparsestream_nbd_last_error(void)
{
    return last.text;
}
