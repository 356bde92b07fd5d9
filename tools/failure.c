/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The failure of a transfer: its line, and its exit code. */

#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* The exit code of a failure at the end that is the connection. */
static int code_of_wire(const sparsestream_error *error)
{
    switch (error->code) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ENODATA:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case ENETRESET:
        return EXIT_CUT;
    case EFBIG:
    case ESTALE:
    case EOPNOTSUPP:
        return EXIT_REFUSED;
    case EPROTO:
    case EBADMSG:
    case EMSGSIZE:
    case EPROTONOSUPPORT:
        return EXIT_STREAM;
    default:
        return EXIT_LOCAL;
    }
}

static int code_of(const sparsestream_error *error, const struct names *names)
{
    if (error->peer != 0)
        return EXIT_PEER;
    if (error->operation == SPARSESTREAM_OPERATION_SPARSE)
        return EXIT_REFUSED;
    /* The target refuses the stream before the first byte: too large for it, or what it may not become. */
    if (error->operation == SPARSESTREAM_OPERATION_OPEN && error->side == SPARSESTREAM_SIDE_SINK
        && names->wire_side != SPARSESTREAM_SIDE_SINK)
        return EXIT_REFUSED;
    if (names->wire_side != SPARSESTREAM_SIDE_NONE && error->side == names->wire_side)
        return code_of_wire(error);
    return EXIT_LOCAL;
}

int fail_transfer(const sparsestream_error *error, const struct names *names)
{
    static const char nothing[] = ": nothing: ";
    const char *symbol = error_name(error->code);
    const char *words = error->message;
    const char *name = error->peer != 0 ? names->peer
                       : error->side == SPARSESTREAM_SIDE_SOURCE ? names->source
                       : error->side == SPARSESTREAM_SIDE_SINK ? names->sink
                                                               : "transfer";

    /* The side gets the name that the user knows. A peer may send an errno only. */
    if (error->peer != 0) {
        words += strncmp(words, "peer: ", strlen("peer: ")) == 0 ? strlen("peer: ") : 0;
        /* The words of this library for an end that was only given up. Those of others are left as they are. */
        if (error->operation == SPARSESTREAM_OPERATION_NONE && strstr(words, nothing) != NULL)
            words = strstr(words, nothing) + strlen(nothing);
    } else {
        words = without_side(words);
    }
    if (error->code == ECANCELED && is_cancelled())
        return fail(128 + cancelled_by(), "cancelled by %s at offset %lld", cancelled_by() == SIGINT ? "SIGINT"
                    : cancelled_by() == SIGTERM ? "SIGTERM" : "SIGHUP", (long long)error->offset);
    return fail(code_of(error, names), "%s: %s%s%s%s", name, words, symbol != NULL ? " (" : "", symbol != NULL ? symbol : "",
                symbol != NULL ? ")" : "");
}

void describe_failure(char *text, size_t size, const char *message, int error)
{
    const char *symbol = error_name(error);

    snprintf(text, size, "%s%s%s%s", without_side(message), symbol != NULL ? " (" : "", symbol != NULL ? symbol : "",
             symbol != NULL ? ")" : "");
}

int fail_wire(const struct names *names, int error)
{
    const char *message = sparsestream_last_error();
    sparsestream_error fields = { .size = sizeof(fields), .code = abs(error), .side = names->wire_side };

    fields.peer = strncmp(message, "peer: ", strlen("peer: ")) == 0;
    snprintf(fields.message, sizeof(fields.message), "%s", message);
    return fail_transfer(&fields, names);
}
