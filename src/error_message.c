/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The thread's message for its last failed call.
 *
 * C, because a C thread-local needs no destructor: a thread may end, and the
 * library may be asked for the message, in any order.
 */
#include <stddef.h>

#define MESSAGE_SIZE 512

static _Thread_local char message[MESSAGE_SIZE];

char *sparsestream_private_message(size_t *size);

char *sparsestream_private_message(size_t *size)
{
    *size = sizeof message;
    return message;
}
