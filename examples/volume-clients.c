/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See volume-clients.h. */

#include "volume-clients.h"
#include "volume-log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

void clients_init(struct volume_clients *clients, const struct volume_options *options)
{
    clients->options = options;
    clients->count = 0;
    TAILQ_INIT(&clients->all);
    TAILQ_INIT(&clients->queue);
}

/* Whether one more client would be too many, of all users or of this one. */
static bool is_full(const struct volume_clients *clients, uid_t user)
{
    const struct volume_client *client;
    int64_t own = 0;

    TAILQ_FOREACH(client, &clients->all, all)
        own += client->user == user;
    return clients->count >= clients->options->max_clients || own >= clients->options->max_user;
}

/* Reports it, if that is possible without waiting. */
static void refuse(const struct volume_clients *clients, int fd, uid_t user)
{
    struct volume_channel channel;

    say("a client of user %u is refused: there are %lld", (unsigned)user, (long long)clients->count);
    volume_channel_init(&channel, fd);
    if (volume_queue_words(&channel, VOLUME_REPLY, 0, EUSERS, "too many clients") == 0)
        (void)volume_flush(&channel);
    close(fd);
}

struct volume_client *clients_add(struct volume_clients *clients, struct volume_service *service, int fd, uid_t user)
{
    static unsigned numbers;
    struct volume_client *client;

    if (is_full(clients, user)) {
        refuse(clients, fd, user);
        return NULL;
    }
    client = calloc(1, sizeof(*client));
    if (client == NULL) {
        say("a new client: %s", strerror(errno));
        close(fd);
        return NULL;
    }
    client->user = user;
    client->watched = EPOLLIN;
    session_open(&client->session, service, ++numbers, fd);
    TAILQ_INSERT_TAIL(&clients->all, client, all);
    clients->count++;
    clients_enqueue(clients, client, false);
    return client;
}

void clients_remove(struct volume_clients *clients, struct volume_client *client)
{
    if (client->queued)
        TAILQ_REMOVE(&clients->queue, client, next);
    TAILQ_REMOVE(&clients->all, client, all);
    clients->count--;
    session_close(&client->session);
    close(client->session.channel.fd);
    free(client);
}

void clients_enqueue(struct volume_clients *clients, struct volume_client *client, bool woken)
{
    if (client->queued)
        return;
    client->queued = true;
    if (woken && !session_transfers(&client->session))
        TAILQ_INSERT_HEAD(&clients->queue, client, next);
    else
        TAILQ_INSERT_TAIL(&clients->queue, client, next);
}

struct volume_client *clients_dequeue(struct volume_clients *clients)
{
    struct volume_client *client = TAILQ_FIRST(&clients->queue);

    if (client == NULL)
        return NULL;
    TAILQ_REMOVE(&clients->queue, client, next);
    client->queued = false;
    return client;
}
