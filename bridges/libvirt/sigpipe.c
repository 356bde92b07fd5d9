/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* libvirt's client writes to its socket with write(2). */

#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

static void only_sigpipe(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGPIPE);
}

void sigpipe_block(struct sigpipe *saved)
{
    const int error = errno;
    sigset_t set, pending;

    only_sigpipe(&set);
    pthread_sigmask(SIG_BLOCK, &set, &saved->mask);
    /* One that somebody else blocked and has not taken is not ours to take. It can only be there if it was blocked. */
    saved->pending = false;
    if (sigismember(&saved->mask, SIGPIPE) == 1 && sigpending(&pending) == 0)
        saved->pending = sigismember(&pending, SIGPIPE) == 1;
    errno = error;
}

void sigpipe_restore(const struct sigpipe *saved)
{
    static const struct timespec at_once;
    const int error = errno;
    sigset_t set, pending;

    if (!saved->pending && sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1) {
        only_sigpipe(&set);
        while (sigtimedwait(&set, NULL, &at_once) < 0 && errno == EINTR)
            ;
    }
    pthread_sigmask(SIG_SETMASK, &saved->mask, NULL);
    errno = error;
}
