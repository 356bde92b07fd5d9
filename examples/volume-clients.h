/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The clients of volume-daemon: how many there may be, and whose turn is next. */

#ifndef VOLUME_CLIENTS_H
#define VOLUME_CLIENTS_H

#include "volume-session.h"

#include <sys/queue.h>
#include <sys/types.h>

struct volume_client {
    TAILQ_ENTRY(volume_client) all, next; /* next: in the queue of those that have something to do */
    bool queued;
    uid_t user;
    uint32_t watched; /* by epoll */
    struct volume_session session;
};

TAILQ_HEAD(volume_client_list, volume_client);

struct volume_clients {
    const struct volume_options *options;
    struct volume_client_list all, queue;
    int64_t count;
};

void clients_init(struct volume_clients *clients, const struct volume_options *options);

/* Makes a queued client of a connection, for which epoll is to watch EPOLLIN. Returns NULL, with the connection closed, if there
 * are too many clients, or too many of this user, or no memory. */
struct volume_client *clients_add(struct volume_clients *clients, struct volume_service *service, int fd, uid_t user);
/* Ends the session, and closes the connection, which also removes it from epoll. */
void clients_remove(struct volume_clients *clients, struct volume_client *client);

/* Gives a client a turn. Of those that were woken, calls are short, and go before transfers. */
void clients_enqueue(struct volume_clients *clients, struct volume_client *client, bool woken);
/* The client whose turn it is, or NULL. */
struct volume_client *clients_dequeue(struct volume_clients *clients);

#endif
