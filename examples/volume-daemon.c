/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A small storage daemon: serves the files of one directory as volumes over a Unix socket.
 *
 *     volume-daemon --dir DIR --socket PATH [--max-size BYTES] [--max-zeroed BYTES] [--max-clients N]
 *                   [--stall-ms N] [--grace-ms N] [--sync]
 *
 *     cc -o volume-daemon volume-daemon.c volume-protocol.c $(pkg-config --cflags --libs sparsestream)
 *
 * One thread and one epoll serve all clients. A transfer is run for a budget at a time, in turn with
 * the others, and waits in epoll while its client is not ready: a slow client costs nothing, a huge
 * hole delays nobody, and the memory of a client is the same whatever it moves. What can still hold
 * all of them is the disk: a read, a write, or (with --sync) an fsync of one volume.
 *
 * A block device whose node lies in the directory is a volume too, which is neither made nor deleted here.
 *
 * Who may connect is the matter of the socket's mode, 0600. What they may ask for is limited: the size of a
 * volume, the number of clients, and the zeros that holes of one upload make the daemon write, since a
 * message of 28 bytes may ask for a terabyte of them.
 *
 * SIGTERM and SIGINT end the daemon in order, SIGUSR1 has it write its state to stderr.
 */

#define _GNU_SOURCE
#include "volume-arguments.h"
#include "volume-protocol.h"

#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "volume-daemon"

enum {
    BUFFER = 64 * 1024,     /* of one transfer */
    BUDGET = 128 * 1024,    /* of one turn of one client */
    TURNS = 8,              /* of each queue, between two looks at epoll ... */
    TURNS_MS = 10,          /* ... unless they take longer, as where a device is zeroed */
    FAREWELL_MS = 1000,     /* for cancelled clients to take the news */
    PAUSE_MS = 200,         /* of accepting, when there is no descriptor for it */
};

enum state {
    STATE_CALL,     /* waits for a call, or sends the answer to the last one */
    STATE_LIST,     /* sends the entries of a listing */
    STATE_READY,    /* sends the answer that a stream may begin */
    STATE_TRANSFER, /* runs a transfer */
    STATE_END,      /* brings a stream to its end on both sides */
};

/* What a turn left behind. */
enum turn {
    TURN_AGAIN, /* there is more to do: queue up again */
    TURN_WAIT,  /* for channel.wants, or for the deadline */
    TURN_DROP,  /* the client is done with */
};

TAILQ_HEAD(clients, client);

struct client {
    TAILQ_ENTRY(client) all;
    TAILQ_ENTRY(client) next; /* in `queue`: those that have something to do */
    struct clients *queue;
    unsigned number;
    enum state state;
    uint32_t watched; /* by epoll */
    int64_t deadline; /* milliseconds of the monotonic clock, -1 for none */
    uint64_t moved;   /* over the socket, when the deadline was set */
    struct volume_channel channel;

    /* The call under way. */
    struct volume_call call;
    uint32_t serial;
    DIR *listing;
    int volume;
    struct volume_stream stream;
    int64_t zeros_below; /* holes before this offset of the volume may have to be written as zeros, */
    int64_t zeros_left;  /* and no more than so many bytes of them */
    sparsestream_source *source;
    sparsestream_sink *sink;
    sparsestream_transfer *transfer;
    int result;
    char words[VOLUME_WORDS_MAX + 1];
};

struct server {
    const char *directory_path;
    const char *socket_path;
    int64_t max_size;
    int64_t max_zeroed;
    int64_t max_clients;
    int64_t stall_ms;
    int64_t grace_ms;
    bool sync;

    int directory;
    bool punches; /* its file system can make a hole in what is there */
    int listener;
    int signals;
    int epoll;
    struct stat socket_stat; /* to remove our socket and no other */
    struct clients clients;
    struct clients calls;     /* queue of short turns, which need not wait for ... */
    struct clients transfers; /* ... the long ones */
    int64_t count;
    int64_t most; /* clients at a time, so far */
    unsigned numbers;
    int64_t next_deadline; /* not later than the earliest of all, -1 for none */
    bool listening;        /* epoll watches the listener; else again at listen_at */
    int64_t listen_at;
    bool stopping;
    bool cancelled;
    int64_t stop_at;
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

__attribute__((format(printf, 2, 3))) static void client_log(const struct client *client,
                                                             const char *format, ...)
{
    char line[VOLUME_NAME_MAX + VOLUME_WORDS_MAX + 200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    fprintf(stderr, PROGRAM ": client %u: %s\n", client->number, line);
}

/* Keeps the words for the client and gives the error back. */
__attribute__((format(printf, 3, 4))) static int fail(struct client *client, int error,
                                                      const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(client->words, sizeof(client->words), format, arguments);
    va_end(arguments);
    return error;
}

static int fail_errno(struct client *client, const char *what)
{
    int error = errno;

    return fail(client, -error, "%s: %s", what, strerror(error));
}

static const char *call_name(uint32_t type)
{
    static const char *const names[] = { "call", "list", "info", "create", "delete", "upload", "download" };

    return names[type < sizeof(names) / sizeof(names[0]) ? type : 0];
}

/* Volumes. */

static bool is_volume(const struct stat *st)
{
    return S_ISREG(st->st_mode) || S_ISBLK(st->st_mode);
}

/* No symbolic link, and nothing but a file or a device; O_NONBLOCK keeps a FIFO from holding us. */
static int open_volume(struct server *server, struct client *client, int flags, struct stat *st)
{
    int fd = openat(server->directory, client->call.name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return fail_errno(client, "open");
    if (fstat(fd, st) < 0) {
        int r = fail_errno(client, "stat");

        close(fd);
        return r;
    }
    if (!is_volume(st)) {
        close(fd);
        return fail(client, -EINVAL, "not a volume");
    }
    if (S_ISBLK(st->st_mode)) {
        /* stat(2) knows no size of a device. */
        st->st_size = lseek(fd, 0, SEEK_END);
        if (st->st_size < 0) {
            int r = fail_errno(client, "size of the device");

            close(fd);
            return r;
        }
        st->st_blocks = st->st_size / 512;
    }
    return fd;
}

static struct volume_facts facts_of(const struct stat *st)
{
    return (struct volume_facts){ .size = st->st_size, .allocated = (int64_t)st->st_blocks * 512 };
}

/* Asked of a file without a name; one that cannot be made is an answer too. */
static bool can_punch(int directory)
{
    int fd = openat(directory, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
    bool can = fd >= 0 && pwrite(fd, "", 1, 0) == 1 &&
               fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1) == 0;

    if (fd >= 0)
        close(fd);
    return can;
}

static int call_info(struct server *server, struct client *client, struct volume_facts *facts)
{
    struct stat st;
    int fd = open_volume(server, client, O_RDONLY, &st);

    if (fd < 0)
        return fd;
    close(fd);
    *facts = facts_of(&st);
    return 0;
}

static int call_create(struct server *server, struct client *client)
{
    const char *name = client->call.name;
    int fd, r = 0;

    if (client->call.length > server->max_size)
        return fail(client, -EFBIG, "larger than the %lld bytes that a volume may have",
                    (long long)server->max_size);
    fd = openat(server->directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail_errno(client, "create");
    if (ftruncate(fd, client->call.length) < 0)
        r = fail_errno(client, "set the size");
    if (close(fd) < 0 && r == 0)
        r = fail_errno(client, "close");
    if (r < 0)
        unlinkat(server->directory, name, 0);
    return r;
}

static int call_delete(struct server *server, struct client *client)
{
    struct stat st;
    int fd = open_volume(server, client, O_RDONLY, &st);

    if (fd < 0)
        return fd;
    close(fd);
    if (S_ISBLK(st.st_mode))
        return fail(client, -EPERM, "a device is not deleted");
    return unlinkat(server->directory, client->call.name, 0) < 0 ? fail_errno(client, "delete") : 0;
}

static int call_list(struct server *server, struct client *client)
{
    int fd = openat(server->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return fail_errno(client, "open the directory");
    client->listing = fdopendir(fd);
    if (client->listing == NULL) {
        int r = fail_errno(client, "open the directory");

        close(fd);
        return r;
    }
    return 0;
}

/* Transfers. */

/* Returns what close(2) said of the volume: there a file system may report a write that failed late. */
static int release_transfer(struct client *client)
{
    int r = 0;

    sparsestream_transfer_free(client->transfer);
    sparsestream_source_free(client->source);
    sparsestream_sink_free(client->sink);
    client->transfer = NULL;
    client->source = NULL;
    client->sink = NULL;
    if (client->volume >= 0 && close(client->volume) < 0)
        r = -errno;
    client->volume = -1;
    return r;
}

static int new_transfer(struct server *server, struct client *client)
{
    const sparsestream_transfer_options options = {
        .size = sizeof(options),
        .flags = client->call.flags & VOLUME_DETECT_ZEROES ? SPARSESTREAM_DETECT_ZEROES : 0,
        .sparse = (int32_t)client->call.sparse,
        .buffer_size = BUFFER,
        .stall_ms = server->stall_ms,
    };

    return sparsestream_transfer_new(client->source, client->sink, &options, &client->transfer);
}

/*
 * The words of an end are sent when the transfer is over and the volume closed: then more is known
 * than an errno. So the library gets the drivers without what would speak earlier.
 */
static sparsestream_stream_ops quiet_ops(const sparsestream_stream_ops *ops, bool keep_finish)
{
    sparsestream_stream_ops quiet = *ops;

    quiet.abort = NULL;
    if (!keep_finish)
        quiet.finish = NULL;
    return quiet;
}

/* A hole that would have to be written as zeros is charged to the upload before it is begun. */
static int charged_recv_hole(void *opaque, int64_t *length)
{
    struct client *client = (struct client *)((char *)opaque - offsetof(struct client, stream));
    int64_t before = client->stream.position;
    int64_t written = client->zeros_below - client->call.offset;
    int r = volume_receiver_ops.recv_hole(opaque, length);

    if (r < 0)
        return r;
    written = written > before ? written - before : 0;
    if (written > *length)
        written = *length;
    if (written > client->zeros_left)
        return -EDQUOT;
    client->zeros_left -= written;
    return 0;
}

/*
 * Where a hole of an upload may cost writing: everywhere if the client wants none kept, and on a
 * device, which seldom says what zeroing costs it; else over old content that cannot be punched.
 */
static int64_t zeros_below(const struct server *server, const struct client *client, const struct stat *st)
{
    if (client->call.sparse == SPARSESTREAM_SPARSE_NEVER || S_ISBLK(st->st_mode))
        return INT64_MAX;
    return server->punches ? 0 : st->st_size;
}

static int call_upload(struct server *server, struct client *client)
{
    sparsestream_stream_ops ops = quiet_ops(&volume_receiver_ops, false);
    const struct volume_call *call = &client->call;
    sparsestream_sink_options options = { .size = sizeof(options), .offset = call->offset };
    struct stat st;
    int r;

    /* The sink holds the stream to this: what comes beyond fails, and is not written. */
    options.length = call->length > 0 ? call->length : server->max_size - call->offset;
    options.flags = server->sync ? SPARSESTREAM_SYNC : 0;
    if (options.length <= 0 || options.length > server->max_size - call->offset)
        return fail(client, -EFBIG, "beyond the %lld bytes that a volume may have",
                    (long long)server->max_size);
    client->volume = open_volume(server, client, O_WRONLY, &st);
    if (client->volume < 0)
        return client->volume;
    volume_stream_init(&client->stream, &client->channel, client->serial,
                       call->length > 0 ? call->length : -1);
    client->zeros_below = zeros_below(server, client, &st);
    client->zeros_left = server->max_zeroed;
    ops.recv_hole = charged_recv_hole;
    r = sparsestream_sink_to_fd(client->volume, &options, &client->sink);
    if (r == 0)
        r = sparsestream_source_from_stream(&ops, &client->stream, &client->source);
    if (r == 0)
        r = new_transfer(server, client);
    if (r < 0) {
        release_transfer(client);
        return fail(client, r, "%s", sparsestream_last_error());
    }
    return 0;
}

static int call_download(struct server *server, struct client *client, struct volume_facts *facts)
{
    const sparsestream_stream_ops ops = quiet_ops(&volume_sender_ops, true);
    const struct volume_call *call = &client->call;
    sparsestream_source_options options = { .size = sizeof(options), .offset = call->offset };
    struct stat st;
    int r;

    options.length = call->length;
    client->volume = open_volume(server, client, O_RDONLY, &st);
    if (client->volume < 0)
        return client->volume;
    volume_stream_init(&client->stream, &client->channel, client->serial, -1);
    r = sparsestream_source_from_fd(client->volume, &options, &client->source);
    if (r == 0)
        r = sparsestream_sink_to_stream(&ops, &client->stream, &client->sink);
    if (r == 0)
        r = new_transfer(server, client);
    if (r < 0) {
        release_transfer(client);
        return fail(client, r, "%s", sparsestream_last_error());
    }
    *facts = facts_of(&st);
    facts->size = call->length > 0 ? call->length : st.st_size - call->offset;
    return 0;
}

/* Turns. Each does a bounded piece of work. */

static enum turn drop(struct client *client, int r, const char *doing)
{
    client_log(client, "%s: %s", doing, strerror(-r));
    return TURN_DROP;
}

/* A client that does not speak the protocol is told so, as far as that goes at once, and dropped. */
static enum turn drop_stranger(struct client *client)
{
    struct volume_channel *channel = &client->channel;

    if (volume_queue_words(channel, VOLUME_REPLY, client->serial, EPROTO, "not the volume protocol") == 0)
        (void)volume_flush(channel);
    return drop(client, -EPROTO, "receive");
}

static enum turn answer(struct client *client, int r, const struct volume_facts *facts)
{
    struct volume_channel *channel = &client->channel;

    if (r == 0) {
        r = volume_queue_facts(channel, VOLUME_REPLY, client->serial, facts, "");
    } else {
        client_log(client, "%s %s refused: %s", call_name(client->call.type), client->call.name,
                   client->words);
        r = volume_queue_words(channel, VOLUME_REPLY, client->serial, -r, client->words);
    }
    return r < 0 ? drop(client, r, "answer") : TURN_AGAIN;
}

static enum turn turn_call(struct server *server, struct client *client)
{
    struct volume_channel *channel = &client->channel;
    struct volume_facts facts = { 0, 0 };
    enum state state = STATE_CALL;
    int r;

    /* The next call is read when the last answer is out: a client cannot make us store answers. */
    r = volume_flush(channel);
    if (r == 0 && server->stopping)
        return TURN_DROP;
    if (r == 0)
        r = volume_receive(channel, 0);
    if (r == -EAGAIN)
        return TURN_WAIT;
    if (r == -ECONNRESET && channel->in_have == 0)
        return TURN_DROP; /* it has left between two calls */
    if (r == -EPROTO)
        return drop_stranger(client);
    if (r < 0)
        return drop(client, r, "call");

    client->serial = channel->in.serial;
    r = volume_take_call(&channel->in, &client->call);
    if (r == -EPROTO)
        return drop_stranger(client);
    volume_consume(channel);
    if (r < 0) {
        strcpy(client->call.name, "?"); /* nor one for the log */
        return answer(client, fail(client, r, "that is not the name of a volume"), NULL);
    }

    switch (client->call.type) {
    case VOLUME_LIST:
        r = call_list(server, client);
        if (r == 0) {
            client->state = STATE_LIST;
            return TURN_AGAIN;
        }
        break;
    case VOLUME_INFO:
        r = call_info(server, client, &facts);
        break;
    case VOLUME_CREATE:
        r = call_create(server, client);
        break;
    case VOLUME_DELETE:
        r = call_delete(server, client);
        break;
    case VOLUME_UPLOAD:
        r = call_upload(server, client);
        state = STATE_READY;
        break;
    default:
        r = call_download(server, client, &facts);
        state = STATE_READY;
        break;
    }
    if (r == 0)
        client->state = state;
    return answer(client, r, &facts);
}

/* A directory of any length goes out entry by entry; what is not a volume is passed over. */
static enum turn turn_list(struct server *server, struct client *client)
{
    struct volume_channel *channel = &client->channel;
    const struct volume_facts none = { 0, 0 };

    for (int entries = 0; entries < 64; entries++) {
        const struct dirent *entry;
        struct volume_facts facts;
        struct stat st;
        int fd, r = volume_flush(channel);

        if (r == -EAGAIN)
            return TURN_WAIT;
        if (r < 0)
            return drop(client, r, "list");
        errno = 0;
        entry = readdir(client->listing);
        if (entry == NULL) {
            r = errno == 0 ? 0 : fail_errno(client, "read the directory");
            closedir(client->listing);
            client->listing = NULL;
            client->state = STATE_CALL;
            return answer(client, r, &none);
        }
        if (!volume_name_valid(entry->d_name) ||
            fstatat(dirfd(client->listing), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            !is_volume(&st))
            continue;
        facts = facts_of(&st);
        if (S_ISBLK(st.st_mode)) {
            strcpy(client->call.name, entry->d_name);
            fd = open_volume(server, client, O_RDONLY, &st);
            if (fd < 0)
                continue;
            close(fd);
            facts = facts_of(&st);
        }
        r = volume_queue_facts(channel, VOLUME_ENTRY, client->serial, &facts, entry->d_name);
        if (r < 0)
            return drop(client, r, "list");
    }
    return TURN_AGAIN;
}

/* Says our part of the end, hears the client's, and is ready for the next call. */
static enum turn turn_end(struct client *client)
{
    bool receiver = client->call.type == VOLUME_UPLOAD;
    int r;

    if (receiver)
        r = volume_receiver_end(&client->stream, -client->result, client->words);
    else
        r = client->stream.ended ? 0 : volume_sender_abort(&client->stream, -client->result, client->words);
    if (r == 0)
        r = receiver ? volume_receiver_drain(&client->stream) : volume_sender_drain(&client->stream);
    if (r == -EAGAIN)
        return TURN_WAIT;
    if (r < 0)
        return drop(client, r, call_name(client->call.type));
    client->state = STATE_CALL;
    return TURN_AGAIN;
}

static enum turn turn_ready(struct client *client)
{
    int r = volume_flush(&client->channel);

    if (r == -EAGAIN)
        return TURN_WAIT;
    if (r < 0)
        return drop(client, r, "answer");
    client->state = STATE_TRANSFER;
    return TURN_AGAIN;
}

static enum turn turn_transfer(struct client *client)
{
    sparsestream_stats stats = { .size = sizeof(stats) };
    int r = sparsestream_transfer_run(client->transfer, BUDGET), closed;

    if (r == 1)
        return TURN_AGAIN;
    if (r == -EAGAIN)
        return TURN_WAIT;

    client->words[0] = '\0';
    if (r < 0) {
        sparsestream_error error = { .size = sizeof(error) };

        if (client->stream.words[0] != '\0')
            fail(client, r, "the client says: %s", client->stream.words);
        else if (sparsestream_transfer_error(client->transfer, &error) < 0 || error.code == 0)
            fail(client, r, "%s", strerror(-r));
        else
            fail(client, r, "%s", error.message);
    }
    if (sparsestream_transfer_stats(client->transfer, &stats) < 0)
        memset(&stats, 0, sizeof(stats));
    closed = release_transfer(client);
    if (r == 0 && closed < 0 && client->call.type == VOLUME_UPLOAD)
        r = fail(client, closed, "close: %s", strerror(-closed));
    client->result = r;
    client_log(client, "%s %s: %lld bytes of data, %lld of holes: %s", call_name(client->call.type),
               client->call.name, (long long)stats.data_bytes, (long long)stats.hole_bytes,
               r == 0 ? "done" : client->words);

    client->state = STATE_END;
    if (r == -EPIPE || r == -ECONNRESET)
        return TURN_DROP;
    if (r == -EPROTO || r == -ETIMEDOUT) {
        /* Nothing more is to be expected of this client; the words go if they go at once. */
        (void)turn_end(client);
        return TURN_DROP;
    }
    return TURN_AGAIN;
}

static enum turn take_turn(struct server *server, struct client *client)
{
    switch (client->state) {
    case STATE_CALL:
        return turn_call(server, client);
    case STATE_LIST:
        return turn_list(server, client);
    case STATE_READY:
        return turn_ready(client);
    case STATE_TRANSFER:
        return turn_transfer(client);
    default:
        return turn_end(client);
    }
}

/* Clients. */

static void enqueue(struct server *server, struct client *client)
{
    if (client->queue == NULL) {
        client->queue = client->state == STATE_TRANSFER ? &server->transfers : &server->calls;
        TAILQ_INSERT_TAIL(client->queue, client, next);
    }
}

static int watch_listener(struct server *server, bool on)
{
    struct epoll_event event = { .events = on ? EPOLLIN : 0, .data.ptr = &server->listener };

    if (server->listening == on)
        return 0;
    if (epoll_ctl(server->epoll, EPOLL_CTL_MOD, server->listener, &event) < 0)
        return -errno;
    server->listening = on;
    return 0;
}

static void client_free(struct server *server, struct client *client)
{
    if (client->queue != NULL)
        TAILQ_REMOVE(client->queue, client, next);
    TAILQ_REMOVE(&server->clients, client, all);
    server->count--;
    release_transfer(client);
    if (client->listing != NULL)
        closedir(client->listing);
    close(client->channel.fd); /* epoll forgets it with that */
    free(client);
}

static void client_new(struct server *server, int fd)
{
    struct client *client = calloc(1, sizeof(*client));
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = client };

    if (client == NULL || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        fprintf(stderr, PROGRAM ": new client: %s\n", strerror(errno));
        free(client);
        close(fd);
        return;
    }
    client->number = ++server->numbers;
    client->volume = -1;
    client->deadline = -1;
    client->watched = EPOLLIN;
    volume_channel_init(&client->channel, fd);
    TAILQ_INSERT_TAIL(&server->clients, client, all);
    server->count++;
    if (server->count > server->most)
        server->most = server->count;
}

static void accept_clients(struct server *server)
{
    for (int i = 0; i < TURNS; i++) {
        int fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0 && server->count < server->max_clients) {
            client_new(server, fd);
        } else if (fd >= 0) {
            struct volume_channel channel;

            fprintf(stderr, PROGRAM ": a client is refused, there are %lld\n", (long long)server->count);
            volume_channel_init(&channel, fd);
            if (volume_queue_words(&channel, VOLUME_REPLY, 0, EUSERS, "too many clients") == 0)
                (void)volume_flush(&channel);
            close(fd);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            /* Out of descriptors or memory: epoll would call us for it without end. */
            fprintf(stderr, PROGRAM ": accept: %s\n", strerror(errno));
            server->listen_at = now_ms() + PAUSE_MS;
            (void)watch_listener(server, false);
            return;
        }
    }
}

/*
 * Sets what wakes a client that waits. In a transfer the library knows how long; elsewhere a client
 * may take its time between calls, but not in the middle of something.
 */
static int client_wait(struct server *server, struct client *client)
{
    struct volume_channel *channel = &client->channel;
    struct epoll_event event = { .data.ptr = client };
    int64_t now = now_ms();

    event.events = channel->wants == POLLOUT ? EPOLLOUT : EPOLLIN;
    if (client->state == STATE_TRANSFER) {
        sparsestream_wait wait = { .size = sizeof(wait) };
        int r = sparsestream_transfer_wait(client->transfer, &wait);

        if (r < 0)
            return r;
        client->deadline = wait.timeout_ms >= 0 ? now + wait.timeout_ms : -1;
        if (client->call.type == VOLUME_DOWNLOAD)
            event.events |= EPOLLIN; /* the receiver's failure */
    } else if (server->stall_ms == 0 ||
               (client->state == STATE_CALL && channel->in_have == 0 && channel->out_have == 0)) {
        client->deadline = -1;
    } else if (client->deadline < 0 || client->moved != channel->sent + channel->received) {
        client->deadline = now + server->stall_ms;
        client->moved = channel->sent + channel->received;
    }
    if (client->deadline >= 0 && (server->next_deadline < 0 || client->deadline < server->next_deadline))
        server->next_deadline = client->deadline;
    if (event.events != client->watched) {
        if (epoll_ctl(server->epoll, EPOLL_CTL_MOD, channel->fd, &event) < 0)
            return -errno;
        client->watched = event.events;
    }
    return 0;
}

static void run_queue(struct server *server, struct clients *queue)
{
    int64_t until = now_ms() + TURNS_MS;

    for (int i = 0; i < TURNS && !TAILQ_EMPTY(queue) && now_ms() < until; i++) {
        struct client *client = TAILQ_FIRST(queue);
        enum state before = client->state;
        enum turn turn;
        int r = 0;

        TAILQ_REMOVE(queue, client, next);
        client->queue = NULL;
        turn = take_turn(server, client);
        if (client->state != before)
            client->deadline = -1;
        if (turn == TURN_WAIT)
            r = client_wait(server, client);
        if (r < 0)
            turn = drop(client, r, "wait");
        if (turn == TURN_AGAIN)
            enqueue(server, client);
        else if (turn == TURN_DROP)
            client_free(server, client);
    }
}

static void check_deadlines(struct server *server)
{
    int64_t now = now_ms(), earliest = -1;
    struct client *client, *following;

    if (server->next_deadline < 0 || now < server->next_deadline)
        return;
    for (client = TAILQ_FIRST(&server->clients); client != NULL; client = following) {
        following = TAILQ_NEXT(client, all);
        if (client->deadline < 0 || client->queue != NULL)
            continue;
        if (client->deadline > now) {
            if (earliest < 0 || client->deadline < earliest)
                earliest = client->deadline;
        } else if (client->state == STATE_TRANSFER) {
            enqueue(server, client); /* the transfer itself says who was late */
        } else {
            drop(client, -ETIMEDOUT, "wait for the client");
            client_free(server, client);
        }
    }
    server->next_deadline = earliest;
}

/* The server. */

/* Takes no more clients, lets transfers go on for the grace period; the second signal ends that. */
static void stop(struct server *server)
{
    struct client *client;
    struct stat st;

    if (server->stopping) {
        server->stop_at = now_ms();
        return;
    }
    server->stopping = true;
    server->stop_at = now_ms() + server->grace_ms;
    close(server->listener);
    server->listener = -1;
    if (lstat(server->socket_path, &st) == 0 && st.st_dev == server->socket_stat.st_dev &&
        st.st_ino == server->socket_stat.st_ino)
        unlink(server->socket_path);
    fprintf(stderr, PROGRAM ": stopping, %lld clients\n", (long long)server->count);
    TAILQ_FOREACH(client, &server->clients, all)
        enqueue(server, client);
}

/* At the end of the grace period transfers are cancelled; a little later everybody is dropped. */
static void stop_late(struct server *server)
{
    struct client *client;

    if (!server->stopping || now_ms() < server->stop_at)
        return;
    if (server->cancelled) {
        while ((client = TAILQ_FIRST(&server->clients)) != NULL) {
            client_log(client, "dropped");
            client_free(server, client);
        }
        return;
    }
    server->cancelled = true;
    server->stop_at = now_ms() + FAREWELL_MS;
    TAILQ_FOREACH(client, &server->clients, all) {
        if (client->transfer != NULL) {
            (void)sparsestream_transfer_cancel(client->transfer);
            enqueue(server, client);
        }
    }
}

/* What it does now, and what it takes: asked for with SIGUSR1. */
static void status(const struct server *server)
{
    const struct client *client;
    int64_t transfers = 0;

    TAILQ_FOREACH(client, &server->clients, all)
        transfers += client->transfer != NULL;
    fprintf(stderr,
            PROGRAM ": status: clients %lld of %lld, at most %lld so far, transfers %lld; memory of a client %zu bytes, of a"
                    " transfer %d more; quotas: volume %lld bytes, zeros of an upload %lld bytes\n",
            (long long)server->count, (long long)server->max_clients, (long long)server->most,
            (long long)transfers, sizeof(struct client), BUFFER, (long long)server->max_size, (long long)server->max_zeroed);
    TAILQ_FOREACH(client, &server->clients, all) {
        sparsestream_stats stats = { .size = sizeof(stats) };

        if (client->transfer == NULL || sparsestream_transfer_stats(client->transfer, &stats) < 0)
            continue;
        client_log(client, "%s %s: %lld bytes of data, %lld of holes so far; zeros charged: %lld bytes",
                   call_name(client->call.type), client->call.name, (long long)stats.data_bytes,
                   (long long)stats.hole_bytes,
                   client->call.type == VOLUME_UPLOAD ? (long long)(server->max_zeroed - client->zeros_left)
                                                      : 0LL);
    }
}

static int wait_ms(const struct server *server)
{
    int64_t until = server->next_deadline, left;

    if (!TAILQ_EMPTY(&server->calls) || !TAILQ_EMPTY(&server->transfers))
        return 0;
    if (server->stopping && (until < 0 || server->stop_at < until))
        until = server->stop_at;
    if (!server->stopping && !server->listening && (until < 0 || server->listen_at < until))
        until = server->listen_at;
    if (until < 0)
        return -1;
    left = until - now_ms();
    return left < 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int)left;
}

static int serve(struct server *server)
{
    while (!server->stopping || server->count > 0) {
        struct epoll_event events[64];
        int n = epoll_wait(server->epoll, events, 64, wait_ms(server));

        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &server->listener) {
                if (!server->stopping)
                    accept_clients(server);
            } else if (events[i].data.ptr == &server->signals) {
                struct signalfd_siginfo info;

                if (read(server->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
                    continue;
                if (info.ssi_signo == SIGUSR1)
                    status(server);
                else
                    stop(server);
            } else {
                enqueue(server, events[i].data.ptr);
            }
        }
        if (!server->stopping && !server->listening && now_ms() >= server->listen_at)
            (void)watch_listener(server, true);
        check_deadlines(server);
        stop_late(server);
        run_queue(server, &server->calls);
        run_queue(server, &server->transfers);
    }
    return 0;
}

static int start_failed(const char *what, const char *path)
{
    fprintf(stderr, PROGRAM ": %s%s%s: %s\n", what, path[0] == '\0' ? "" : " ", path, strerror(errno));
    return -1;
}

/* Three descriptors a client (socket, volume, listing), and some of our own. */
static int raise_descriptor_limit(const struct server *server)
{
    rlim_t need = (rlim_t)server->max_clients * 3 + 32;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return start_failed("limit of descriptors", "");
    if (limit.rlim_cur >= need)
        return 0;
    limit.rlim_cur = need;
    if (limit.rlim_max < need || setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        fprintf(stderr, PROGRAM ": %lld clients need %llu descriptors, the limit is %llu\n",
                (long long)server->max_clients, (unsigned long long)need,
                (unsigned long long)limit.rlim_max);
        return -1;
    }
    return 0;
}

/* A socket that nobody answers on is left over from a daemon that was killed. */
static bool left_over(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool dead = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
                errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return dead;
}

static int open_listener(struct server *server)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const struct sockaddr *bound = (const struct sockaddr *)&address;
    struct stat st;
    mode_t mask;
    int r;

    if (strlen(server->socket_path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return start_failed("socket", server->socket_path);
    }
    strcpy(address.sun_path, server->socket_path);
    if (lstat(server->socket_path, &st) == 0 && S_ISSOCK(st.st_mode) && left_over(&address))
        unlink(server->socket_path);
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server->listener < 0)
        return start_failed("socket", server->socket_path);
    mask = umask(0177);
    r = bind(server->listener, bound, sizeof(address));
    umask(mask);
    if (r < 0)
        return start_failed("socket", server->socket_path);
    if (lstat(server->socket_path, &server->socket_stat) < 0 || listen(server->listener, 128) < 0)
        return start_failed("socket", server->socket_path);
    return 0;
}

static int open_server(struct server *server)
{
    struct epoll_event listener = { .events = EPOLLIN, .data.ptr = &server->listener };
    struct epoll_event signals = { .events = EPOLLIN, .data.ptr = &server->signals };
    sigset_t set;

    server->directory = open(server->directory_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (server->directory < 0)
        return start_failed("directory", server->directory_path);
    server->punches = can_punch(server->directory);
    if (raise_descriptor_limit(server) < 0)
        return -1;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return start_failed("signals", "");
    /* Sockets are written with MSG_NOSIGNAL; this is for a log that nobody reads any more. */
    signal(SIGPIPE, SIG_IGN);
    server->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (server->signals < 0)
        return start_failed("signalfd", "");
    if (open_listener(server) < 0)
        return -1;
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server->epoll < 0 ||
        epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->listener, &listener) < 0 ||
        epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->signals, &signals) < 0)
        return start_failed("epoll", "");
    server->listening = true;
    return 0;
}

static void close_server(struct server *server)
{
    const int fds[] = { server->directory, server->listener, server->signals, server->epoll };

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

static void usage(FILE *to)
{
    fputs("usage: " PROGRAM " --dir DIR --socket PATH [options]\n"
          "  --max-size BYTES   largest volume (1T)\n"
          "  --max-zeroed BYTES zeros to be written for the holes of one upload (64G)\n"
          "  --max-clients N    clients at a time (256)\n"
          "  --stall-ms N       end a transfer without progress for this long, 0 for never (30000)\n"
          "  --grace-ms N       time for transfers to end after SIGTERM (2000)\n"
          "  --sync             an upload is on the medium before it is called done\n",
          to);
}

static void parse_arguments(struct server *server, int argc, char **argv)
{
    static const struct option options[] = {
        { "dir", required_argument, NULL, 'd' },      { "socket", required_argument, NULL, 's' },
        { "max-size", required_argument, NULL, 'm' }, { "max-clients", required_argument, NULL, 'c' },
        { "max-zeroed", required_argument, NULL, 'z' },
        { "stall-ms", required_argument, NULL, 't' }, { "grace-ms", required_argument, NULL, 'g' },
        { "sync", no_argument, NULL, 'y' },           { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'd':
            server->directory_path = optarg;
            break;
        case 's':
            server->socket_path = optarg;
            break;
        case 'm':
            server->max_size = parse_size(PROGRAM, "--max-size", optarg);
            break;
        case 'z':
            server->max_zeroed = parse_size(PROGRAM, "--max-zeroed", optarg);
            break;
        case 'c':
            server->max_clients = parse_size(PROGRAM, "--max-clients", optarg);
            break;
        case 't':
            server->stall_ms = parse_size(PROGRAM, "--stall-ms", optarg);
            break;
        case 'g':
            server->grace_ms = parse_size(PROGRAM, "--grace-ms", optarg);
            break;
        case 'y':
            server->sync = true;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    }
    if (optind != argc || server->directory_path == NULL || server->socket_path == NULL ||
        server->max_clients < 1 || server->max_clients > 100000 || server->max_size < 1 ||
        server->stall_ms > INT32_MAX || server->grace_ms > INT32_MAX) {
        usage(stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct server server = {
        .max_size = (int64_t)1 << 40,
        .max_zeroed = (int64_t)64 << 30,
        .max_clients = 256,
        .stall_ms = 30000,
        .grace_ms = 2000,
        .directory = -1,
        .listener = -1,
        .signals = -1,
        .epoll = -1,
        .next_deadline = -1,
    };
    int r;

    TAILQ_INIT(&server.clients);
    TAILQ_INIT(&server.calls);
    TAILQ_INIT(&server.transfers);
    parse_arguments(&server, argc, argv);
    r = open_server(&server);
    if (r == 0) {
        fprintf(stderr, PROGRAM ": serving %s on %s: at most %lld clients of %zu KiB each\n",
                server.directory_path, server.socket_path, (long long)server.max_clients,
                (sizeof(struct client) + BUFFER + 1023) / 1024);
        r = serve(&server);
        if (r < 0)
            fprintf(stderr, PROGRAM ": epoll: %s\n", strerror(-r));
        else
            fprintf(stderr, PROGRAM ": stopped\n");
    }
    close_server(&server);
    return r < 0 ? 1 : 0;
}
