/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations shared by the parts of the sparsestream command. */

#ifndef TOOL_H
#define TOOL_H

#include <sparsestream.h>
#include <stdio.h>
#include <sys/stat.h>
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
    EXIT_SKIPPED = 7,
    EXIT_DIFFERENT = 10,
    EXIT_OTHER_HOLES = 11,
};

enum direct_mode { DIRECT_NEVER, DIRECT_AUTO, DIRECT_ALWAYS };

enum progress_mode { PROGRESS_NONE, PROGRESS_BAR, PROGRESS_JSON };

/* How exports of NBD servers are reached. 0 and NULL: the default. */
struct export_settings {
    int64_t connections;
    int64_t requests;
    int64_t request_size;
    int64_t memory;
    const char *tls_certificates;
    const char *tls_psk;
    const char *tls_username;
    bool no_verify_peer;
};

/* The settings that the command line gives. Each command takes the options that mean something to it. */
struct settings {
    const char *command;

    int64_t offset; /* --range */
    int64_t length; /* 0: to the end */
    bool ranged;
    int64_t at; /* --at; -1: not given */

    int32_t sparse;
    bool detect_zeroes;
    uint32_t zero_block;
    int64_t min_hole;
    bool ignore_map;
    bool known_zero;
    bool sync;
    int truncate; /* -1: not given */
    int64_t rate;
    int64_t timeout_ms;
    int64_t idle_ms;
    enum progress_mode progress;
    bool quiet;
    bool verbose;
    bool explain;

    bool json;
    bool list;
    int64_t rows;
    bool holes;

    bool check_list; /* --check, and what goes with it */
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
    bool no_identity;
    int checksum;     /* -1: not given */
    const char *state;
    int64_t checkpoint;
    int64_t max_size; /* -1: not given, 0: none */

    bool device;
    bool shared;
    bool no_lock;
    bool force;
    int mode; /* -1: not given */
    unsigned int preserve; /* of PRESERVE_... */

    bool dry_run;
    bool preallocate;
    bool skip_errors; /* --on-read-error=skip */
    const char *error_map;
    bool read_back; /* --verify */
    bool only_changes;
    enum direct_mode direct;
    bool backing_chain;
    struct export_settings export;
};

enum preserve {
    PRESERVE_MODE = 1,
    PRESERVE_OWNERSHIP = 2,
    PRESERVE_TIMESTAMPS = 4,
    PRESERVE_XATTR = 8,
    PRESERVE_WHAT_CAN_BE = 16, /* attributes that the file system of the target cannot store are a warning */
};

typedef int command_function(struct settings *settings, int count, char **operands);

command_function command_map, command_copy, command_check, command_checksum, command_send, command_recv;

/* terminal.c */

/* Columns of the terminal that the stream is, or 80. */
int columns_of(FILE *file);
/* Puts an unfinished line on standard error, in place of the last one. */
void bar_draw(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Removes it, so that a message starts on a line of its own. */
void bar_clear(void);
bool bar_is_drawn(void);

/* report.c */

/* From here on failures are JSON lines. */
void report_as_json(void);
/* One line on standard error. Returns `code`. */
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The line that `fail` prints. The caller frees it. NULL if there is no memory. */
char *failure_line(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line that is not a failure; as JSON an event of this name with the text. */
void report_event(const char *event, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line about something that the user should know and that does not fail the command. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line on standard output. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
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

/* Reads the options of a command. Returns -1 to continue with argv[optind], or an exit code. */
int parse_options(struct settings *settings, int argc, char **argv, const char *allowed);

/* standard.c */

struct target;

/*
 * Makes sure that descriptors 0, 1 and 2 are taken, so that no file that is opened later becomes standard output or
 * standard error. One that was closed stays unusable: reading and writing it fails with EBADF.
 */
int standard_occupy(void);
/* Where standard input or output is now. Returns 0 or a negative errno. */
int standard_examine(struct target *end);
/* Moves the file position of standard input or output, as read(2) or write(2) of this many bytes would have. */
void standard_advance(const struct target *end, int64_t bytes);

/* wait.c */

int64_t now_ms(void);
void sleep_ms(int64_t ms);
/*
 * Waits for POLLIN or POLLOUT, for at most this many milliseconds. Returns 1, 0 when the time is over or a signal came,
 * or a negative errno where poll(2) cannot be used; then it has waited a little, and the descriptor may be ready.
 */
int wait_for_fd(int fd, int events, int64_t ms);

/* progress.c */

struct progress {
    enum progress_mode mode;
    const char *verb;
    int64_t total;  /* bytes of the stream, -1: not known */
    int64_t work;   /* of them, bytes that will be read or written; -1: not known */
    int64_t begun;  /* the first byte of a resumed stream */
    int map_fd;     /* whose map shows how much of `work` was before that; -1: none */
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
/* The message at the end, when all went well. */
void progress_end(struct progress *progress);

/* direct.c */

struct target;

/*
 * Opens an end again with O_DIRECT if --direct requests that; `other` is the other end of the copy, or NULL.
 * Returns an exit code.
 */
int open_direct(const struct settings *settings, struct target *end, const struct target *other, bool writes);
/* The descriptor that content is read from or written to. */
int content_fd(const struct target *end);
void close_direct(struct target *end);

/* ends.c */

struct target {
    const char *name;
    const char *path; /* NULL: standard input or output */
    int fd;
    int direct_fd;    /* the same with O_DIRECT; 0: none */
    int error; /* the errno of a failed open */
    bool created;
    bool regular;
    bool device;
    bool append;      /* standard output that was opened with O_APPEND */
    bool locked;
    struct stat st;   /* when it was opened */
    int64_t size;     /* of a regular file */
    int64_t position; /* of standard input or output: where the stream starts */
    dev_t dev; /* of a device: its own number, and ino 0 */
    ino_t ino;
};

/* How open_target opens. */
struct opening {
    bool existing; /* what is not there is not made: fd is then -1 */
    bool readable; /* it will be read, too */
    mode_t mode;   /* of a new file */
};

/* Opens a source; "-" is standard input. Returns 0 or an exit code, after a message. */
int open_source(const struct settings *settings, const char *path, struct target *source);
/* Opens a target; "-" is standard output. Returns 0 or an exit code, after a message. */
int open_target(const struct settings *settings, const char *path, const struct opening *opening,
                struct target *target);
/* Closes a target, after which success may be reported. */
int close_target(struct target *target, bool sync);
/* Closes one after a failure. A file that was made and is still empty is removed. */
void abandon_target(struct target *target);
/* Whether two are one file or device. */
bool same_file(const struct target *one, const struct target *other);

/* open.c */

/*
 * open(2) of what exists, of which a device is opened exclusively. A FIFO is waited for at most as long as --timeout
 * allows. Returns a descriptor or a negative errno.
 */
int open_existing(const struct settings *settings, const char *path, int flags);
/* Refuses a name of which no new file is to be made. Returns 0 or an exit code, after a message. */
int check_new(const struct settings *settings, const char *path);
/* Makes a new file. Returns a descriptor, or an exit code in `*code` after a message. */
int open_new(const struct settings *settings, const char *path, int flags, mode_t mode, int *error, int *code);
/* Removes `path` if it still is the file of this device and inode. */
void remove_same(const char *path, dev_t dev, ino_t ino);

/* place.c */

/* The bytes of a source, or -1 where it has no size. */
int64_t size_of(const struct target *end);
/* The bytes of the source that the stream will have, or -1 where that is not known. */
int64_t length_of(const struct settings *settings, const struct target *source);
/* Refuses an offset, given by this option, in what has none. Returns 0 or an exit code, after a message. */
int check_offset(const struct settings *settings, const char *option, const struct target *end, int64_t offset);
/* Refuses a --range that is not in the source. Returns 0 or an exit code, after a message. */
int check_range(const struct settings *settings, const struct target *source);
/* Refuses a target that has not this many bytes of room from `offset` on. Returns 0 or an exit code. */
int check_room(const struct target *target, int64_t offset, int64_t length);
/* Allocates what the data of the source will take in the target. Returns 0 or an exit code, after a message. */
int preallocate(const struct settings *settings, const struct target *from, const struct target *to, int64_t offset);
/* The bytes of the range, and those of them that will be read or written; -1 if it is not known. */
void measure(const struct target *source, const struct settings *settings, int64_t *total, int64_t *work);
void fill_source_options(sparsestream_source_options *options, const struct settings *settings,
                         const struct target *source);
void fill_sink_options(sparsestream_sink_options *options, const struct settings *settings,
                       const struct target *target, int64_t offset, bool truncate);

/* plan.c */

/* Prints what copy would do. `length`: -1 if not known. */
int show_plan(const struct settings *settings, const struct target *from, const struct target *to, int64_t length,
              bool truncate);

/* lock.c */

/* Locks `length` bytes of a target from `offset` on, to the end for 0. Returns 0 or an exit code, after a message. */
int lock_target(const struct settings *settings, struct target *target, int64_t offset, int64_t length);
void unlock_target(struct target *target);
/* Warns if another program writes the source. */
void warn_of_writers(const struct settings *settings, const struct target *source);

/* permissions.c */

/* The mode that a new file gets, less the umask. `source` is NULL for what comes over a connection. */
mode_t mode_of_new(const struct settings *settings, const struct target *source);
/* Refuses --preserve for ends that cannot have it. Returns 0 or an exit code, after a message. */
int check_preserve(const struct settings *settings, const struct target *from, const struct target *to);
/* Gives a written target what --preserve asks for. Returns 0 or an exit code, after a message. */
int preserve(const struct settings *settings, const struct target *from, const struct target *to);

/* explain.c */

/* A decision of a transfer, in a line on standard error. */
void show_event(const struct settings *settings, const sparsestream_event *event);
/* Which ways carried how many bytes to the target of this name, on standard error. */
void explain(const struct settings *settings, const char *name, const sparsestream_stats *stats);

/* deadline.c */

/*
 * The limit of --timeout for calls of other libraries that have none. When it is over, the program ends with the
 * message `name: words N ms`. `more_ms`: for a call that has its own limit too, which comes first.
 */
void deadline_set(const struct settings *settings, const char *name, const char *words, int64_t more_ms);
/* Starts the time again, if a limit is set. */
void deadline_extend(void);
void deadline_clear(void);
/* A target that was created, or NULL: it is removed at the end of the time if it is empty. */
void deadline_remove(const struct target *target);

/* signals.c */

/*
 * Signals from now on end the program with 128 and their number; a transfer is cancelled before that, and
 * the Unix socket at `path` is removed if it is not NULL.
 */
void signals_catch(void);
void signals_remove(const char *path, dev_t dev, ino_t ino);
/* The transfer that a signal cancels from now on; NULL if none runs. */
void signals_cancel(sparsestream_transfer *transfer);
/* Whether a signal has asked for the end, and which one: 0 if none has. */
bool is_cancelled(void);
int cancelled_by(void);
/* Ends the program at once, from a signal handler. */
_Noreturn void signals_leave(int code);
/* These two, unless they are -1, are put back in blocking mode before a signal ends the program. */
void signals_set_blocking(int input, int output);

/* run.c */

struct connection;

/* Instead of an exit code: a peer was dropped that did not introduce itself, and another has connected. */
enum { DROPPED = -1 };

/* The ends of a transfer, by the names that messages have for them. */
struct names {
    const char *source;
    const char *sink;
    const char *peer;  /* "sender", "receiver" or NULL */
    int32_t wire_side; /* SPARSESTREAM_SIDE_...: which end is the connection */
    struct connection *connection; /* of a sender that listens: until it is answered, the peer may be dropped */
};

/*
 * Runs a transfer to its end, with progress. Frees neither end. Returns an exit code, after a message, or DROPPED if
 * the connection has another peer now.
 */
int run_transfer(sparsestream_source *source, sparsestream_sink *sink, const struct settings *settings,
                 const struct names *names, struct progress *progress);

/* failure.c */

/* Reports the failure of a transfer between these ends. Returns its exit code. */
int fail_transfer(const sparsestream_error *error, const struct names *names);

#endif
