/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The state that the processes of the stress stand share. */
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
    PAUSED,     /* stops in the middle, until it is asked to continue */
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
    PHASE_RESUME,   /* and continues to its end */
    PHASE_HOLD,     /* again stopped: the daemon is shut down over it */
    PHASE_SHUTDOWN, /* and half of them continue while it allows that */
    PHASE_GONE,     /* the rest must end with an error */
    PHASE_END,
};

enum { TRANSFERS_MAX = 60000, DOWNLOADABLE = 4 };

/* An event of a transfer, with its number. */
enum moment_kind {
    MOMENT_CONNECTED, /* microseconds that it took */
    MOMENT_REUSED,    /* the connection of the transfer with that number */
    MOMENT_CALLED,    /* bytes of the call */
    MOMENT_GARBAGE,   /* bytes that are not a call */
    MOMENT_ANSWERED,  /* status */
    MOMENT_ACTED,     /* position: from here on it does what its manner is */
    MOMENT_WENT_ON,   /* position */
    MOMENT_WAITED,    /* poll(2)'s events, 0 for time: only the last wait is kept */
    MOMENT_RETURNED,  /* what the run of the transfer said at last */
    MOMENT_ENDED,     /* position */
};

enum { MOMENTS_MAX = 12 };

/* All that is needed to explain how a transfer ended, kept for each of them: which ones are wrong is known late. */
struct record {
    uint8_t manner;
    uint8_t upload;
    uint8_t outcome;
    uint8_t phase;
    uint8_t daemon; /* what its log says: RIGHT or FAILED */
    uint8_t named;  /* it got as far as to be named in the log */
    uint8_t cancelled; /* its log says so */
    uint8_t moments;
    uint8_t sparse, flags; /* of the call */
    int64_t offset, call_length;
    int64_t length;
    int64_t moved;  /* bytes of data and of holes, by the daemon's log */
    int64_t begun;  /* microseconds */
    int64_t absent; /* microseconds: the longest that its process did not look after it */
    struct moment {
        int64_t at; /* microseconds */
        int64_t value;
        uint8_t kind;
    } timeline[MOMENTS_MAX];
    char why[300]; /* it is wrong */
};

struct stand {
    const char *socket_path;
    int directory; /* the daemon's */
    uint64_t seed;
    int64_t start; /* microseconds */
    struct content volumes[DOWNLOADABLE]; /* "base0" ... */

    /* Shared between the processes. */
    _Atomic int phase;
    _Atomic int begun;   /* transfers */
    _Atomic int stopped; /* clients that stand still in their middle */
    _Atomic int busy;    /* clients within a transfer */
    _Atomic int filled;  /* downloads that failed, and ended in zeros that are not the volume's */
    struct record records[TRANSFERS_MAX];
};

int64_t now_us(void);

/* One process of clients: runs `count` of them until PHASE_END. Does not return. */
_Noreturn void clients_run(struct stand *stand, int number, int count);

#endif
