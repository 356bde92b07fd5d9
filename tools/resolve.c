/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Names of hosts. getaddrinfo(3) has no time limit of its own: a resolver that does not answer holds it for
 * as long as resolv.conf(5) and nsswitch.conf(5) say. So a thread makes the query, and is abandoned when the
 * time is over.
 */

#include "wire.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct question {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    int holders; /* the thread that asks, and the one that waits */
    bool done;
    int result; /* of getaddrinfo(3), and its errno */
    int error;
    struct addrinfo *found;
    struct addrinfo hints;
    char *host;
    char *port;
};

static void question_free(struct question *question)
{
    if (question->found != NULL)
        freeaddrinfo(question->found);
    pthread_cond_destroy(&question->answered);
    pthread_mutex_destroy(&question->lock);
    free(question->host);
    free(question->port);
    free(question);
}

static struct question *question_new(const char *host, const char *port, const struct addrinfo *hints)
{
    struct question *question = calloc(1, sizeof(*question));
    pthread_condattr_t attributes;

    if (question == NULL)
        return NULL;
    pthread_mutex_init(&question->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&question->answered, &attributes);
    pthread_condattr_destroy(&attributes);
    question->holders = 2;
    question->hints = *hints;
    question->host = strdup(host);
    question->port = strdup(port);
    if (question->host == NULL || question->port == NULL) {
        question_free(question);
        return NULL;
    }
    return question;
}

/* The last one to let go of it frees it. The lock is held. */
static void question_drop(struct question *question)
{
    bool last = --question->holders == 0;

    pthread_mutex_unlock(&question->lock);
    if (last)
        question_free(question);
}

static void *ask(void *opaque)
{
    struct question *question = opaque;
    struct addrinfo *found = NULL;
    int r = getaddrinfo(question->host, question->port, &question->hints, &found), error = errno;

    pthread_mutex_lock(&question->lock);
    question->result = r;
    question->error = error;
    question->found = r == 0 ? found : NULL;
    question->done = true;
    pthread_cond_signal(&question->answered);
    question_drop(question);
    return NULL;
}

/* Starts the thread. It sees no signal: those are for the thread that waits. Returns 0 or an errno. */
static int start(struct question *question)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;
    int r = pthread_attr_init(&attributes);

    if (r != 0)
        return r;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, &attributes, ask, question);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return r;
}

/* Waits for the answer until `end`, in ms of now_ms(), or without a limit for 0. Returns whether it came. */
static bool wait_for_answer(struct question *question, int64_t end)
{
    const struct timespec until = { .tv_sec = (time_t)(end / 1000), .tv_nsec = end % 1000 * 1000000 };
    int r = 0;

    while (!question->done && r == 0)
        r = end == 0 ? pthread_cond_wait(&question->answered, &question->lock)
                     : pthread_cond_timedwait(&question->answered, &question->lock, &until);
    return question->done;
}

static int fail_name(const char *address, int r, int error)
{
    return fail(EXIT_CUT, "%s: %s", address, r == EAI_SYSTEM ? strerror(error) : gai_strerror(r));
}

int resolve(const char *address, const char *host, const char *port, int64_t end, struct addrinfo **found)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV | AI_NUMERICHOST,
    };
    struct question *question;
    int r = getaddrinfo(host, port, &hints, found), error = errno;
    bool answered;

    /* A numeric address needs no query. */
    if (r == 0)
        return 0;
    if (r != EAI_NONAME)
        return fail_name(address, r, error);
    hints.ai_flags = AI_NUMERICSERV;
    question = question_new(host, port, &hints);
    if (question == NULL)
        return fail_errno(address, NULL, ENOMEM);
    r = start(question);
    if (r != 0) {
        question_free(question);
        return fail_errno(address, "thread", r);
    }
    pthread_mutex_lock(&question->lock);
    answered = wait_for_answer(question, end);
    r = question->result;
    error = question->error;
    *found = question->found;
    question->found = NULL;
    question_drop(question);
    if (answered)
        return r == 0 ? 0 : fail_name(address, r, error);
    fail_errno(address, "the name of the host was not resolved", ETIMEDOUT);
    return EXIT_CUT;
}
