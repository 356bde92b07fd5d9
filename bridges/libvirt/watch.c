/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Tells the jobs of a connection when it is lost. */

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

int sparsestream_libvirt_watch_new(virConnectPtr connection, int own_callback,
                                   struct sparsestream_libvirt_watch **out)
{
    struct sparsestream_libvirt_watch *watch;

    if (out == NULL)
        return -EINVAL;
    *out = NULL;
    if (connection == NULL || (own_callback != 0 && own_callback != 1))
        return -EINVAL;
    watch = calloc(1, sizeof(*watch));
    if (watch == NULL)
        return -ENOMEM;
    watch->references = 1;
    if (virConnectRef(connection) < 0) {
        free(watch);
        return -EINVAL;
    }
    watch->connection = connection;
    if (own_callback == 0) {
        if (virConnectRegisterCloseCallback(connection, closed, watch, unref) < 0) {
            const int error = sparsestream_libvirt_errno(virGetLastError());

            virConnectClose(connection);
            free(watch);
            return error == EINVAL ? -EBUSY : -error;
        }
        watch->references++;
        watch->registered = true;
    }
    *out = watch;
    return 0;
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
    if (watch == NULL)
        return;
    while (watch->jobs != NULL)
        watch_remove(watch->jobs);
    if (watch->registered)
        virConnectUnregisterCloseCallback(watch->connection, closed);
    virConnectClose(watch->connection);
    unref(watch);
}

int watch_add(struct sparsestream_libvirt_watch *watch, struct watched *watched)
{
    if (watch->lost == 0 && virConnectIsAlive(watch->connection) == 0)
        watch->lost = ECONNRESET;
    if (watch->lost != 0)
        return -watch->lost;
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
