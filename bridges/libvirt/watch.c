/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Reports the loss of a connection to its jobs. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>

struct sparsestream_libvirt_watch {
    virConnectPtr connection;
    struct watched *jobs;
    /* libvirt's callback refers to it until it is unregistered and returns. */
    int references;
    bool registered;
    int lost;
};

static void unref(void *opaque)
{
    struct sparsestream_libvirt_watch *watch = opaque;

    if (--watch->references == 0)
        free(watch);
}

static void closed(virConnectPtr connection, int reason, void *opaque)
{
    (void) connection;
    sparsestream_libvirt_watch_lost(opaque, reason);
}

/* Returns 0 or a negative errno. */
static int register_callback(struct sparsestream_libvirt_watch *watch, failure_t *failure)
{
    struct sigpipe saved;
    int r;

    sigpipe_block(&saved);
    r = virConnectRegisterCloseCallback(watch->connection, closed, watch, unref);
    sigpipe_restore(&saved);
    if (r < 0) {
        r = error_take(failure);
        /* libvirt's words say that there is one already. */
        return r == -EINVAL ? failure->code = EBUSY, -EBUSY : r;
    }
    watch->references++;
    watch->registered = true;
    return 0;
}

/* Returns 0 or a negative errno. */
static int watch_new(virConnectPtr connection, int own_callback, failure_t *failure,
                     struct sparsestream_libvirt_watch **out)
{
    struct sparsestream_libvirt_watch *watch;

    if (connection == NULL)
        return error_set(failure, -EINVAL, "the connection is NULL");
    if (own_callback != 0 && own_callback != 1)
        return error_set(failure, -EINVAL, "own_callback is %d, but must be 0 or 1", own_callback);
    if (virConnectRef(connection) < 0)
        return error_take(failure);
    watch = calloc(1, sizeof(*watch));
    if (watch == NULL) {
        virConnectClose(connection);
        return error_set(failure, -ENOMEM, "no memory");
    }
    watch->references = 1;
    watch->connection = connection;
    *out = watch;
    return own_callback == 1 ? 0 : register_callback(watch, failure);
}

int sparsestream_libvirt_watch_new(virConnectPtr connection, int own_callback, failure_t *failure_out,
                                   struct sparsestream_libvirt_watch **out)
{
    struct sparsestream_libvirt_watch *watch = NULL;
    failure_t failure;
    int r;

    if (out == NULL || error_check(failure_out) < 0)
        return -EINVAL;
    error_clear(&failure);
    r = watch_new(connection, own_callback, &failure, &watch);
    if (r < 0) {
        sparsestream_libvirt_watch_free(watch);
        watch = NULL;
    }
    error_give(&failure, failure_out);
    *out = watch;
    return r;
}

void sparsestream_libvirt_watch_lost(struct sparsestream_libvirt_watch *watch, int reason)
{
    if (watch == NULL)
        return;
    watch->references++;
    watch->lost = reason == VIR_CONNECT_CLOSE_REASON_KEEPALIVE ? ETIMEDOUT : ECONNRESET;
    /* Each takes itself out, and its `done` may free others, or the watch. */
    while (watch->jobs != NULL) {
        struct watched *first = watch->jobs;

        watch_remove(first);
        first->lost(first, watch->lost);
    }
    unref(watch);
}

void sparsestream_libvirt_watch_free(struct sparsestream_libvirt_watch *watch)
{
    struct sigpipe saved;

    if (watch == NULL)
        return;
    while (watch->jobs != NULL)
        watch_remove(watch->jobs);
    sigpipe_block(&saved);
    if (watch->registered)
        virConnectUnregisterCloseCallback(watch->connection, closed);
    virConnectClose(watch->connection);
    sigpipe_restore(&saved);
    unref(watch);
}

int watch_add(struct sparsestream_libvirt_watch *watch, struct watched *watched, failure_t *failure)
{
    if (watch->lost == 0 && virConnectIsAlive(watch->connection) == 0)
        watch->lost = ECONNRESET;
    if (watch->lost != 0)
        return error_set(failure, -watch->lost, "the connection to the daemon is lost");
    watched->next = watch->jobs;
    watched->link = &watch->jobs;
    if (watched->next != NULL)
        watched->next->link = &watched->next;
    watch->jobs = watched;
    return 0;
}

void watch_remove(struct watched *watched)
{
    if (watched->link == NULL)
        return;
    *watched->link = watched->next;
    if (watched->next != NULL)
        watched->next->link = watched->link;
    watched->next = NULL;
    watched->link = NULL;
}
