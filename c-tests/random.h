/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Numbers that a printed seed brings back. */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *random)
{
    uint64_t mixed = random->state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

/* From `least` to `most`, both included. */
static inline int64_t random_between(struct random *random, int64_t least, int64_t most)
{
    return least + (int64_t) (random_next(random) % (uint64_t) (most - least + 1));
}

static inline bool random_percent(struct random *random, unsigned percent)
{
    return random_next(random) % 100 < percent;
}

#endif
