/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The probe: how long the daemon takes to answer a listing, and how long a process that has nothing else to do takes
 * to send a byte back. The second is the machine's share in the first.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdint.h>

enum { PROBES_MAX = 20000 };

struct times {
    int count;
    int64_t us[PROBES_MAX];
};

struct probe {
    int echo;      /* the baseline's socket */
    int echo_pid;
    int fd;        /* the daemon's */
    int failures;  /* listings that failed */
    struct times listing;
    struct times baseline;
};

/* Starts the baseline, connects to the daemon. 0 or -errno; probe_close in any case. */
int probe_open(struct probe *probe, const char *socket_path);
/* One of each. */
void probe_once(struct probe *probe);
void probe_close(struct probe *probe);

/* The time that `share` percent of the calls did not exceed; 100 for the longest. Sorts. */
int64_t times_percentile(struct times *times, double share);

#endif
