/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The signals that end the program, and what has to be done before that. */

#include "tool.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static _Atomic(sparsestream_transfer *) running;
static _Atomic(const char *) to_remove;
static dev_t remove_dev;
static ino_t remove_ino;
static atomic_int to_block[2] = { -1, -1 };
static volatile sig_atomic_t caught;

static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

void signals_leave(int code)
{
    const char *path = atomic_load(&to_remove);
    size_t i;

    if (path != NULL)
        remove_same(path, remove_dev, remove_ino);
    for (i = 0; i < sizeof(to_block) / sizeof(to_block[0]); i++) {
        int fd = atomic_load(&to_block[i]);

        if (fd >= 0)
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    }
    _exit(code);
}

static void on_signal(int number)
{
    sparsestream_transfer *transfer = atomic_load(&running);

    if (transfer != NULL && caught == 0) {
        caught = number;
        sparsestream_transfer_cancel(transfer);
        return;
    }
    /* Nothing runs yet, or what runs does not end: a second signal does not wait for it. */
    signals_leave(128 + number);
}

void signals_catch(void)
{
    struct sigaction action = { .sa_handler = on_signal };
    size_t i;

    sigemptyset(&action.sa_mask);
    for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        struct sigaction before;

        /* nohup stays in force. */
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
    /* The reader of the progress may exit; the transfer continues. */
    signal(SIGPIPE, SIG_IGN);
}

void signals_remove(const char *path, dev_t dev, ino_t ino)
{
    remove_dev = dev;
    remove_ino = ino;
    atomic_store(&to_remove, path);
}

void signals_set_blocking(int input, int output)
{
    atomic_store(&to_block[0], input);
    atomic_store(&to_block[1], output);
}

void signals_cancel(sparsestream_transfer *transfer)
{
    atomic_store(&running, transfer);
}

bool is_cancelled(void)
{
    return caught != 0;
}

int cancelled_by(void)
{
    return caught;
}
