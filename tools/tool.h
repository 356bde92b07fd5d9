/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the parts of the sparsestream command share. */

#ifndef TOOL_H
#define TOOL_H

#include <sparsestream.h>
#include <stdio.h>
#include <sys/types.h>

/* Exit codes, as the manual page has them. A signal that cancels gives 128 and its number. */
enum exit_code {
    EXIT_OK = 0,
    EXIT_LOCAL = 1,
    EXIT_USAGE = 2,
    EXIT_PEER = 3,
    EXIT_CUT = 4,
    EXIT_REFUSED = 5,
    EXIT_STREAM = 6,
    EXIT_DIFFERENT = 10,
    EXIT_OTHER_HOLES = 11,
};

enum progress_mode { PROGRESS_NONE, PROGRESS_BAR, PROGRESS_JSON };

/* What the command line asks for. Each command takes the options that mean something to it. */
struct settings {
    const char *command;

    int64_t offset; /* --range */
    int64_t length; /* 0: to the end */
    bool ranged;
    int64_t at; /* --at; -1: not given */

    int32_t sparse;
    bool detect_zeroes;
    uint32_t zero_block;
    bool ignore_map;
    bool known_zero;
    bool sync;
    int truncate; /* -1: not given */
    int64_t rate;
    int64_t timeout_ms;
    enum progress_mode progress;
    bool quiet;

    bool json;
    bool list;
    int64_t rows;
    bool holes;

    bool verify; /* --check, and what goes with it */
    bool status;
    bool strict;
    bool warn;
    bool ignore_missing;

    const char *connect;
    const char *listen;
    const char *command_line; /* --exec */
    bool answers;
    bool resume;
    bool restart;
    bool checksum;
    const char *state;
    int64_t checkpoint;
    int64_t max_size; /* -1: not given */
};

typedef int command_function(struct settings *settings, int count, char **operands);

command_function command_map, command_copy, command_check, command_checksum, command_send, command_recv;

/* report.c */

/* From here on failures are JSON lines. */
void report_as_json(void);
/* One line on standard error. Returns `code`. */
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line that tells of no failure; as JSON an event of this name with the text. */
void tell(const char *event, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As fail, for a wrong command line, with a hint. Returns EXIT_USAGE. */
int usage(const struct settings *settings, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* `name: what: No such file or directory (ENOENT)`, for an errno of either sign; `what` may be NULL. */
int fail_errno(const char *name, const char *what, int error);
/* As fail_errno, with the words of this thread's last failed call of the library. */
int fail_library(const char *name, int error);
/* "ENOSPC", or NULL for a number that has no name. */
const char *error_name(int error);
/* A message of the library without the side that it starts with, which the caller names better. */
const char *without_side(const char *message);
/* A string in quotes, for JSON. */
void json_string(FILE *file, const char *text);
/* "1.5 GiB", in a buffer of at least 16 bytes. */
const char *human(char *buffer, size_t size, int64_t bytes);

/* arguments.c */

/* Reads the options of a command. Returns -1 to go on with argv[optind], or an exit code. */
int parse_options(struct settings *settings, int argc, char **argv, const char *allowed);

/* progress.c */

struct progress {
    enum progress_mode mode;
    const char *verb;
    int64_t total;  /* bytes of the stream, -1: not known */
    int64_t work;   /* of them, bytes that will be read or written; -1: not known */
    int64_t begun;  /* where a resumed stream went on */
    int map_fd;     /* whose map tells how much of `work` lay before that; -1: none */
    int64_t map_offset;
    int64_t start_ms;
    int64_t shown_ms;
    int64_t done;   /* of `work`, as last shown */
    int64_t position;
    int64_t data_bytes;
    int64_t hole_bytes;
};

void progress_start(struct progress *progress, enum progress_mode mode, const char *verb, int64_t total,
                    int64_t work);
/* `zero_bytes`: of the holes, those that were read as data. Shows it if it is time. */
void progress_update(struct progress *progress, int64_t position, int64_t data_bytes, int64_t hole_bytes,
                     int64_t zero_bytes);
/* The last word, when all went well. */
void progress_end(struct progress *progress);
/* Removes an unfinished bar, so that a message starts on a line of its own. */
void progress_clear(void);
int64_t now_ms(void);
/* Columns of the terminal that the stream is, or 80. */
int columns_of(FILE *file);

/* ends.c */

struct target {
    const char *name;
    const char *path;
    int fd;
    int error; /* the errno of a failed open */
    bool created;
    bool regular;
    bool device;
    dev_t dev; /* of a device: its own number, and ino 0 */
    ino_t ino;
};

/* Opens a source; "-" is standard input. Returns 0 or an exit code, after a message. */
int open_source(const char *path, struct target *source);
/*
 * Opens a target; "-" is standard output. It is made if it is not there; with `existing` its fd is then -1.
 * `readable`: it is to be read, too.
 */
int open_target(const char *path, bool existing, bool readable, struct target *target);
/* Closes a target, after which success may be told of. */
int close_target(struct target *target, bool sync);
/* Closes one after a failure. A file that was made and has got nothing is removed. */
void abandon_target(struct target *target);
/* Whether two are one file or device. */
bool same_file(const struct target *one, const struct target *other);
/* The bytes of the range, and those of them that will be read or written; -1 where it cannot be told. */
void measure(int fd, const struct settings *settings, int64_t *total, int64_t *work);
void fill_source_options(sparsestream_source_options *options, const struct settings *settings);
void fill_sink_options(sparsestream_sink_options *options, const struct settings *settings, int64_t offset,
                       bool truncate);

/* run.c */

/* The ends of a transfer, by the names that messages have for them. */
struct names {
    const char *source;
    const char *sink;
    const char *peer;  /* "sender", "receiver" or NULL */
    int32_t wire_side; /* SPARSESTREAM_SIDE_...: which end is the connection */
};

/*
 * Signals from now on end the program with 128 and their number; a transfer is cancelled before that, and
 * `path` is removed if it is not NULL.
 */
void signals_catch(void);
void signals_remove(const char *path);
/* Runs a transfer to its end, with progress. Frees neither end. Returns an exit code, after a message. */
int run_transfer(sparsestream_source *source, sparsestream_sink *sink, const struct settings *settings,
                 const struct names *names, struct progress *progress);

#endif
