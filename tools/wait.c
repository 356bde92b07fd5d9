/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Time, and waiting for descriptors. */

#include "tool.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sleep_ms(int64_t ms)
{
    const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

    nanosleep(&time, NULL);
}

int wait_for_fd(int fd, int events, int64_t ms)
{
    enum { STEP_MS = 10 };
    struct pollfd ready = { .fd = fd, .events = (short)events };
    int r = poll(&ready, 1, ms > INT32_MAX ? INT32_MAX : (int)ms);

    if (r >= 0)
        return r;
    r = -errno;
    if (r == -EINTR)
        return 0;
    /* A sandbox may forbid it. A caller that tries again must not spin. */
    sleep_ms(ms < STEP_MS ? ms : STEP_MS);
    return r;
}
