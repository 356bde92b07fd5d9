/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A client of volume-daemon: lists, creates and deletes volumes, and sends or receives them, whole or by range.
 *
 *     volume-client --socket PATH upload disk0 disk0.img
 *
 *     cc -o volume-client volume-client.c volume-protocol.c $(pkg-config --cflags --libs sparsestream)
 *
 * The client blocks: each transfer is one call of sparsestream_send_all or sparsestream_recv_all. Answers and
 * the report of a transfer go to stdout (to stderr if the volume itself goes to stdout), and progress and
 * failures to stderr. The exit code is 0, 1 for a failure, or 2 for a wrong command line.
 */

#define _GNU_SOURCE
#include "volume-arguments.h"
#include "volume-protocol.h"

#include <fcntl.h>
#include <getopt.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "volume-client"

struct client {
    const char *socket_path;
    bool quiet;
    struct volume_channel channel;
    struct volume_call call;
    const char *verb;
    char shown_name[VOLUME_NAME_MAX + 1];
    bool listed; /* the head of a listing is printed */

    /* For the progress line. */
    bool terminal;
    struct timespec start;
    int64_t total; /* -1 if not known */
};

/* Prints one line: the request and its failure. */
static int failed(const struct client *client, const char *words)
{
    fprintf(stderr, PROGRAM ": %s%s%s: %s\n", client->verb, client->shown_name[0] == '\0' ? "" : " ",
            client->shown_name, words);
    return 1;
}

static int failed_path(const struct client *client, const char *path)
{
    char words[512];

    snprintf(words, sizeof(words), "%s: %s", path, strerror(errno));
    return failed(client, words);
}

static int failed_remote(const struct client *client, const char *words)
{
    char line[VOLUME_WORDS_MAX + 32];

    snprintf(line, sizeof(line), "daemon: %s", words);
    return failed(client, line);
}

/* Calls. */

static int open_socket(struct client *client)
{
    int fd = volume_connect(client->socket_path);

    if (fd < 0) {
        errno = -fd;
        return failed_path(client, client->socket_path);
    }
    volume_channel_init(&client->channel, fd);
    return 0;
}

static void print_list_head(struct client *client)
{
    if (!client->listed)
        printf("%16s %16s  %s\n", "size", "allocated", "name");
    client->listed = true;
}

/* Makes the call and takes its REPLY; the entries of a listing are printed as they come. */
static int make_call(struct client *client, struct volume_facts *facts)
{
    struct volume_channel *channel = &client->channel;
    const struct volume_packet *in = &channel->in;
    const uint32_t serial = 1;
    char name[VOLUME_NAME_MAX + 1], words[VOLUME_WORDS_MAX + 1];
    int r = volume_queue_call(channel, serial, &client->call);

    if (r == 0)
        r = volume_flush(channel);
    /* Even if that failed: a daemon that refuses a request sends its reason before it closes. */
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        return failed(client, strerror(-r));
    for (;;) {
        r = volume_receive(channel, 0);
        if (r == 0 && in->type == VOLUME_REPLY && in->status != 0) {
            volume_take_words(in, words);
            return failed_remote(client, words);
        }
        if (r == 0 && in->serial != serial)
            r = -EPROTO;
        if (r == 0 && in->type != VOLUME_REPLY &&
            (in->type != VOLUME_ENTRY || client->call.type != VOLUME_LIST))
            r = -EPROTO;
        if (r == 0)
            r = volume_take_facts(in, facts, name);
        if (r < 0) {
            snprintf(words, sizeof(words), "the daemon's answer: %s", strerror(-r));
            return failed(client, words);
        }
        volume_consume(channel);
        if (in->type == VOLUME_REPLY)
            return 0;
        print_list_head(client);
        printf("%16lld %16lld  %s\n", (long long)facts->size, (long long)facts->allocated, name);
    }
}

static int do_list(struct client *client)
{
    struct volume_facts facts;
    int r = make_call(client, &facts);

    if (r == 0)
        print_list_head(client);
    return r;
}

static int do_info(struct client *client)
{
    struct volume_facts facts;
    int r = make_call(client, &facts);

    if (r == 0)
        printf("name       %s\nsize       %lld\nallocated  %lld\n", client->shown_name,
               (long long)facts.size, (long long)facts.allocated);
    return r;
}

static int do_plain(struct client *client)
{
    struct volume_facts facts;

    return make_call(client, &facts);
}

/* Progress. */

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static int show_progress(void *opaque, const sparsestream_stats *stats)
{
    const double mib = 1024 * 1024;
    const struct client *client = opaque;
    int64_t total = stats->total >= 0 ? stats->total : client->total;
    double seconds = seconds_since(&client->start);
    char share[16] = "";

    if (total >= 0)
        snprintf(share, sizeof(share), " %3d %%",
                 total == 0 ? 100 : (int)((double)stats->position * 100.0 / (double)total));
    fprintf(stderr, "%s%s %s%s  data %9.1f MiB  holes %9.1f MiB  %8.1f MiB/s%s",
            client->terminal ? "\r" : "", client->verb, client->shown_name, share,
            (double)stats->data_bytes / mib, (double)stats->hole_bytes / mib,
            seconds > 0 ? (double)stats->data_bytes / mib / seconds : 0.0,
            client->terminal ? "\033[K" : "\n");
    return 0;
}

static sparsestream_transfer_options transfer_options(struct client *client)
{
    sparsestream_transfer_options options = { .size = sizeof(options) };

    options.sparse = (int32_t)client->call.sparse;
    if (client->call.flags & VOLUME_DETECT_ZEROES)
        options.flags = SPARSESTREAM_DETECT_ZEROES;
    if (!client->quiet) {
        options.progress = show_progress;
        options.progress_ms = client->terminal ? 100 : 5000;
        options.opaque = client;
    }
    clock_gettime(CLOCK_MONOTONIC, &client->start);
    return options;
}

/* Prints the last line: the bytes that were moved, and the bytes that were sent over the socket. */
static int report(const struct client *client, const sparsestream_stats *stats, FILE *to)
{
    double seconds = seconds_since(&client->start);

    if (client->quiet)
        return 0;
    if (client->terminal)
        fputc('\n', stderr);
    fprintf(to, "%s %s: %lld bytes: %lld data, %lld holes; socket: %llu sent, %llu received; %.2f s\n",
            client->verb, client->shown_name, (long long)stats->position, (long long)stats->data_bytes,
            (long long)stats->hole_bytes, (unsigned long long)client->channel.sent,
            (unsigned long long)client->channel.received, seconds);
    return 0;
}

static int transfer_failed(const struct client *client, const struct volume_stream *stream, const char *words)
{
    if (client->terminal && !client->quiet)
        fputc('\n', stderr);
    /* If the daemon failed, its message explains more than ours. */
    return stream->words[0] != '\0' ? failed_remote(client, stream->words) : failed(client, words);
}

/* Transfers. A range is one of the volume; the file is used from its start. */

static int do_upload(struct client *client, const char *path)
{
    const sparsestream_source_options options = { .size = sizeof(options), .length = client->call.length };
    sparsestream_transfer_options how;
    sparsestream_stats stats = { .size = sizeof(stats) };
    sparsestream_source *source = NULL;
    struct volume_facts facts;
    struct volume_stream stream;
    int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    int r;

    if (fd < 0)
        return failed_path(client, path);
    r = sparsestream_source_from_fd(fd, &options, &source);
    r = r < 0 ? failed(client, sparsestream_last_error()) : make_call(client, &facts);
    if (r == 0) {
        how = transfer_options(client);
        volume_stream_init(&stream, &client->channel, 1, -1);
        r = sparsestream_send_all(source, &volume_sender_ops, &stream, &how, &stats);
        r = r < 0 ? transfer_failed(client, &stream, sparsestream_last_error())
                  : report(client, &stats, stdout);
    }
    sparsestream_source_free(source);
    if (fd != STDIN_FILENO)
        close(fd);
    return r;
}

static int do_download(struct client *client, const char *path)
{
    sparsestream_transfer_options how;
    sparsestream_stats stats = { .size = sizeof(stats) };
    sparsestream_sink *sink = NULL;
    struct volume_facts facts;
    struct volume_stream stream;
    int fd, r;

    /* The call comes first: if the volume is not available, the file is not changed. */
    r = make_call(client, &facts);
    if (r != 0)
        return r;
    fd = strcmp(path, "-") == 0 ? STDOUT_FILENO : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return failed_path(client, path);
    client->total = facts.size;
    how = transfer_options(client);
    volume_stream_init(&stream, &client->channel, 1, facts.size);
    r = sparsestream_sink_to_fd(fd, NULL, &sink);
    if (r < 0) {
        r = failed(client, sparsestream_last_error());
    } else {
        r = sparsestream_recv_all(&volume_receiver_ops, &stream, sink, &how, &stats);
        r = r < 0 ? transfer_failed(client, &stream, sparsestream_last_error())
                  : report(client, &stats, fd == STDOUT_FILENO ? stderr : stdout);
    }
    sparsestream_sink_free(sink);
    if (close(fd) < 0 && r == 0)
        r = failed_path(client, path);
    return r;
}

/* The command line. */

struct command {
    const char *name;
    uint32_t type;
    int arguments;
    int (*run)(struct client *client);
    int (*run_file)(struct client *client, const char *path);
};

static const struct command commands[] = {
    { "list", VOLUME_LIST, 0, do_list, NULL },
    { "info", VOLUME_INFO, 1, do_info, NULL },
    { "create", VOLUME_CREATE, 2, do_plain, NULL },
    { "delete", VOLUME_DELETE, 1, do_plain, NULL },
    { "upload", VOLUME_UPLOAD, 2, NULL, do_upload },
    { "download", VOLUME_DOWNLOAD, 2, NULL, do_download },
};

static void usage(FILE *to)
{
    fputs("usage: " PROGRAM " --socket PATH [options] COMMAND\n"
          "  list\n"
          "  info NAME\n"
          "  create NAME SIZE\n"
          "  delete NAME\n"
          "  upload NAME FILE      into a volume that exists; '-' is stdin\n"
          "  download NAME FILE    '-' is stdout\n"
          "options:\n"
          "  --offset BYTES        where in the volume (0)\n"
          "  --length BYTES        how much, 0 for all\n"
          "  --sparse=auto         keep holes where both ends can (the default)\n"
          "  --sparse=required     or fail before a byte moves\n"
          "  --sparse=never        send holes as zeros\n"
          "  --detect-zeroes       turn blocks of zeros into holes\n"
          "  --quiet               no progress and no report\n",
          to);
}

static uint32_t parse_sparse(const char *text)
{
    static const struct {
        const char *name;
        uint32_t sparse;
    } words[] = {
        { "auto", SPARSESTREAM_SPARSE_AUTO },
        { "required", SPARSESTREAM_SPARSE_REQUIRED },
        { "never", SPARSESTREAM_SPARSE_NEVER },
    };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(text, words[i].name) == 0)
            return words[i].sparse;
    }
    fprintf(stderr, PROGRAM ": --sparse: '%s' is not auto, required or never\n", text);
    exit(2);
}

static void parse_options(struct client *client, int argc, char **argv)
{
    static const struct option options[] = {
        { "socket", required_argument, NULL, 's' },  { "offset", required_argument, NULL, 'o' },
        { "length", required_argument, NULL, 'l' },  { "sparse", required_argument, NULL, 'p' },
        { "detect-zeroes", no_argument, NULL, 'z' }, { "quiet", no_argument, NULL, 'q' },
        { "help", no_argument, NULL, 'h' },          { NULL, 0, NULL, 0 },
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            client->socket_path = optarg;
            break;
        case 'o':
            client->call.offset = parse_size(PROGRAM, "--offset", optarg);
            break;
        case 'l':
            client->call.length = parse_size(PROGRAM, "--length", optarg);
            break;
        case 'p':
            client->call.sparse = parse_sparse(optarg);
            break;
        case 'z':
            client->call.flags |= VOLUME_DETECT_ZEROES;
            break;
        case 'q':
            client->quiet = true;
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    }
}

static const struct command *parse_command(struct client *client, int count, char **arguments)
{
    const struct command *command = NULL;

    for (size_t i = 0; count > 0 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(arguments[0], commands[i].name) == 0)
            command = &commands[i];
    }
    if (command == NULL || client->socket_path == NULL || count != command->arguments + 1) {
        usage(stderr);
        exit(2);
    }
    client->verb = command->name;
    client->call.type = command->type;
    if (command->arguments > 0) {
        if (strlen(arguments[1]) > VOLUME_NAME_MAX) {
            fprintf(stderr, PROGRAM ": a name has at most %d bytes\n", VOLUME_NAME_MAX);
            exit(2);
        }
        strcpy(client->call.name, arguments[1]);
        strcpy(client->shown_name, arguments[1]);
        for (char *byte = client->shown_name; *byte != '\0'; byte++) {
            if ((unsigned char)*byte < ' ' || *byte == 0x7f)
                *byte = '?'; /* a message is one line */
        }
    }
    if (command->type == VOLUME_CREATE)
        client->call.length = parse_size(PROGRAM, "create", arguments[2]);
    return command;
}

int main(int argc, char **argv)
{
    struct client client = { .terminal = isatty(STDERR_FILENO) == 1, .total = -1 };
    const struct command *command;
    int r;

    parse_options(&client, argc, argv);
    command = parse_command(&client, argc - optind, argv + optind);
    r = open_socket(&client);
    if (r != 0)
        return r;
    r = command->run_file != NULL ? command->run_file(&client, argv[optind + 2]) : command->run(&client);
    close(client.channel.fd);
    if (fflush(stdout) != 0 && r == 0)
        r = failed_path(&client, "stdout");
    return r;
}
