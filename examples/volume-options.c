/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See volume-options.h. */

#define _GNU_SOURCE
#include "volume-options.h"
#include "volume-arguments.h"

#include <getopt.h>

static struct volume_options given = {
    .max_size = INT64_C(1) << 40, .max_zeroed = INT64_C(64) << 30, .max_zeroed_all = INT64_C(256) << 30,
    .max_clients = 256, .max_user = 128, .stall_ms = 30000, .idle_ms = 600000, .grace_ms = 2000, .log_lines = 100,
};

static const struct number {
    const char *name, *help;
    int64_t *value, least;
} numbers[] = {
    { "max-size", "largest volume, in bytes", &given.max_size, 1 },
    { "max-zeroed", "bytes of zeros that may be written for the holes of an upload", &given.max_zeroed, 0 },
    { "max-zeroed-all", "the same of all uploads that run", &given.max_zeroed_all, 0 },
    { "max-clients", "clients at a time", &given.max_clients, 1 },
    { "max-user", "of them of one user", &given.max_user, 1 },
    { "stall-ms", "limit of a call or a transfer without progress; 0: none", &given.stall_ms, 0 },
    { "idle-ms", "limit of a client between two calls; 0: none", &given.idle_ms, 0 },
    { "grace-ms", "time for transfers to end after SIGTERM", &given.grace_ms, 0 },
    { "log-lines", "lines of the log in a second; 0: no limit", &given.log_lines, 0 },
};

enum { NUMBERS = sizeof(numbers) / sizeof(numbers[0]), DIRECTORY = NUMBERS, SOCKET, SYNC, HELP, OPTIONS };

static _Noreturn void usage(FILE *to, int code)
{
    fputs("usage: volume-daemon --dir DIR --socket PATH [--sync] [--OPTION NUMBER]...\n"
          "  --sync            an upload is on the medium before it is called done\n", to);
    for (int i = 0; i < NUMBERS; i++)
        fprintf(to, "  --%-15s %s (%lld)\n", numbers[i].name, numbers[i].help, (long long)*numbers[i].value);
    exit(code);
}

void options_parse(struct volume_options *options, int argc, char **argv)
{
    struct option known[OPTIONS + 1] = {
        [DIRECTORY] = { "dir", required_argument, NULL, DIRECTORY },
        [SOCKET] = { "socket", required_argument, NULL, SOCKET },
        [SYNC] = { "sync", no_argument, NULL, SYNC },
        [HELP] = { "help", no_argument, NULL, HELP },
    };
    int option;

    for (int i = 0; i < NUMBERS; i++)
        known[i] = (struct option){ numbers[i].name, required_argument, NULL, i };
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (option == DIRECTORY)
            given.directory = optarg;
        else if (option == SOCKET)
            given.socket = optarg;
        else if (option == SYNC)
            given.sync = true;
        else if (option == HELP)
            usage(stdout, 0);
        else if (option >= NUMBERS)
            usage(stderr, 2);
        else if ((*numbers[option].value = parse_size("volume-daemon", numbers[option].name, optarg)) < numbers[option].least)
            usage(stderr, 2);
    }
    if (optind != argc || given.directory == NULL || given.socket == NULL)
        usage(stderr, 2);
    *options = given;
}
