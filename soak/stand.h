/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the processes of the stress stand share. */
#ifndef STAND_H
#define STAND_H

#include "content.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* How a client behaves in one transfer. */
enum manner {
    FAST,
    SLOW,       /* 64 KiB/s */
    STALLED,    /* stops in the middle for longer than the daemon allows */
    CUT,        /* its connection is cut in the middle */
    GARBAGE,    /* breaks the protocol in the middle, or does not speak it at all */
    CANCELLED,  /* cancels in the middle */
    PAUSED,     /* stops in the middle, until it is told to go on */
    MANNERS,
};

enum outcome {
    PENDING,
    RIGHT,  /* done, as it should, and every byte compared */
    FAILED, /* with an error, as it should */
    WRONG,
};

enum phase {
    PHASE_LOAD,     /* each client makes one transfer after the other */
    PHASE_DRAIN,    /* what was begun is ended */
    PHASE_STALL,    /* each client begins one transfer and stops in its middle */
    PHASE_RESUME,   /* and goes on to its end */
    PHASE_HOLD,     /* again stopped: the daemon is shut down over it */
    PHASE_SHUTDOWN, /* and half of them go on while it lets them */
    PHASE_GONE,     /* the rest must end with an error */
    PHASE_END,
};

enum { TRANSFERS_MAX = 60000, DOWNLOADABLE = 4 };

struct record {
    uint8_t manner;
    uint8_t upload;
    uint8_t outcome;
    uint8_t daemon; /* what its log says: RIGHT or FAILED */
    uint8_t named;  /* it got as far as to be named in the log */
    char why[120];  /* it is wrong */
};

struct stand {
    const char *socket_path;
    int directory; /* the daemon's */
    int64_t stall_ms;
    uint64_t seed;
    struct content volumes[DOWNLOADABLE]; /* "base0" ... */

    /* Shared between the processes. */
    _Atomic int phase;
    _Atomic int begun;   /* transfers */
    _Atomic int stopped; /* clients that stand still in their middle */
    _Atomic int busy;    /* clients within a transfer */
    struct record records[TRANSFERS_MAX];
};

int64_t now_us(void);

/* One process of clients: runs `count` of them until PHASE_END. Does not return. */
_Noreturn void clients_run(struct stand *stand, int number, int count);

/* A blocking connection to the daemon, or -errno. */
int stand_connect(const char *socket_path);

#endif
