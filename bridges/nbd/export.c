/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* An export: its connections, and the properties that the server reported. */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t least(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

/* A block size of the server; `standard` if it advertised none. */
static int64_t block_size(struct nbd_handle *handle, int kind, int64_t standard)
{
    int64_t size = nbd_get_block_size(handle, kind);

    return size > 0 ? size : standard;
}

static int learn_blocks(struct nbd_handle *handle, struct sparsestream_nbd_facts *facts, struct failure *failure)
{
    int64_t minimum = block_size(handle, LIBNBD_SIZE_MINIMUM, 1);
    int64_t preferred = block_size(handle, LIBNBD_SIZE_PREFERRED, 4096);
    int64_t maximum = block_size(handle, LIBNBD_SIZE_MAXIMUM, 32 << 20);

    if (minimum > MOST_BLOCK || (minimum & (minimum - 1)) != 0 || maximum < minimum)
        return failure_set(failure, EPROTO,
                           "the server advertises a block size of %lld, which must be a power of two up to %d, and "
                           "requests of up to %lld bytes, which must be at least as many",
                           (long long)minimum, MOST_BLOCK, (long long)maximum);
    facts->block_minimum = (uint32_t)minimum;
    facts->block_preferred = (uint32_t)(preferred < minimum ? minimum : preferred);
    facts->block_maximum = (uint32_t)maximum;
    return 0;
}

static void learn_flags(struct nbd_handle *handle, struct sparsestream_nbd_facts *facts)
{
    const struct {
        int answer;
        uint64_t flag;
    } answers[] = {
        { nbd_is_read_only(handle), SPARSESTREAM_NBD_READ_ONLY },
        { nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION), SPARSESTREAM_NBD_REPORTS_HOLES },
        { nbd_can_zero(handle), SPARSESTREAM_NBD_CAN_ZERO },
        { nbd_can_fast_zero(handle), SPARSESTREAM_NBD_CAN_FAST_ZERO },
        { nbd_can_flush(handle), SPARSESTREAM_NBD_CAN_FLUSH },
        { nbd_can_multi_conn(handle), SPARSESTREAM_NBD_MULTI_CONN },
        { nbd_get_tls_negotiated(handle), SPARSESTREAM_NBD_ENCRYPTED },
    };

    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        if (answers[i].answer == 1)
            facts->flags |= answers[i].flag;
    }
}

/* Whether a further connection leads to the export of the first one: the server may offer another one now. */
static bool is_same(const export_t *export, struct nbd_handle *handle)
{
    /* Only the first connection asked for holes. */
    struct sparsestream_nbd_facts facts = { .flags = export->facts.flags & SPARSESTREAM_NBD_REPORTS_HOLES };
    struct failure failure = { 0 };

    learn_flags(handle, &facts);
    return nbd_get_size(handle) == export->facts.export_size && facts.flags == export->facts.flags &&
           learn_blocks(handle, &facts, &failure) == 0 && facts.block_minimum == export->facts.block_minimum &&
           facts.block_maximum == export->facts.block_maximum;
}

/* Sets the size of a request and how many of them the transfer may have in flight. */
static void plan_requests(export_t *export)
{
    const options_t *options = &export->options;
    int64_t size = least(options->request_size, export->facts.block_maximum);
    int64_t depth = (int64_t)export->wanted * options->requests;

    export->request_size = size - size % export->facts.block_minimum;
    if (export->request_size == 0)
        export->request_size = export->facts.block_minimum;
    depth = least(depth, options->memory / export->request_size);
    export->depth = (unsigned)least(depth < 1 ? 1 : depth, MOST_DEPTH);
}

/* The first connection is ready. Returns 0 or a negative errno, with the export's failure set. */
static int learn(export_t *export)
{
    struct nbd_handle *handle = export->connections[0].handle;
    int r;

    export->facts = (struct sparsestream_nbd_facts){ .size = sizeof(export->facts) };
    export->facts.export_size = nbd_get_size(handle);
    if (export->facts.export_size < 0)
        return failure_take(&export->failure);
    r = learn_blocks(handle, &export->facts, &export->failure);
    if (r < 0)
        return r;
    learn_flags(handle, &export->facts);
    if ((export->facts.flags & SPARSESTREAM_NBD_MULTI_CONN) != 0 && export->address.uri != NULL)
        export->wanted = (unsigned)export->options.connections;
    plan_requests(export);
    export->state = EXPORT_OPEN;
    /* Do not wait for the others: a server may leave them in its queue. */
    for (unsigned i = 1; i < export->wanted; i++)
        connection_start(&export->connections[i], CONNECTION_FOR_DATA, &export->address, &export->options);
    return 0;
}

/* The state of a connection may have changed: uses the connection, or does without it. */
static void review(export_t *export, struct connection *connection)
{
    if (connection->state == CONNECTION_CONNECTING)
        return;
    if (connection == &export->connections[0]) {
        if (connection->state == CONNECTION_CLOSED)
            failure_set(&export->failure, connection->failure.error, "%s", connection->failure.text);
        if (connection->state == CONNECTION_CLOSED || learn(export) < 0)
            export->state = EXPORT_FAILED;
    } else if (connection->state == CONNECTION_READY && !is_same(export, connection->handle)) {
        connection_close(connection);
    }
}

int export_connect(export_t *export)
{
    if (export->state == EXPORT_CONNECTING)
        engine_advance(export);
    switch (export->state) {
    case EXPORT_CONNECTING:
        return -EAGAIN;
    case EXPORT_OPEN:
        return 0;
    case EXPORT_FAILED:
        break;
    }
    return -export->failure.error;
}

void export_hold(export_t *export)
{
    export->references++;
}

void export_drop(export_t *export)
{
    if (--export->references > 0)
        return;
    for (unsigned i = 0; i < export->wanted; i++)
        connection_leave(&export->connections[i]);
    /* Requests that are no longer waited for are completed now. */
    engine_close(export, ECANCELED);
    if (export->address.socket >= 0)
        close(export->address.socket);
    free(export->address.uri);
    free((char *)export->options.export_name);
    free((char *)export->options.tls_certificates);
    free((char *)export->options.tls_psk_file);
    free((char *)export->options.tls_username);
    free(export);
}

int export_wait(export_t *export)
{
    int r;

    while ((r = export_connect(export)) == -EAGAIN) {
        struct sparsestream_wait wait = { .size = sizeof(wait) };
        struct pollfd fd;

        engine_wait(export, &wait);
        fd = (struct pollfd){ .fd = wait.fd, .events = (short)wait.events };
        if (poll(&fd, 1, wait.timeout_ms) < 0 && errno != EINTR && errno != EAGAIN)
            return failure_set(&export->failure, errno, "poll: %s", strerror(errno));
    }
    return r;
}

/* Copies the strings, which the export then owns. */
static int own_strings(options_t *options)
{
    const char **strings[] = { &options->export_name, &options->tls_certificates, &options->tls_psk_file,
                               &options->tls_username };
    int r = 0;

    for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
        if (*strings[i] == NULL)
            continue;
        *strings[i] = strdup(*strings[i]);
        if (*strings[i] == NULL)
            r = -ENOMEM;
    }
    return r;
}

static int open_address(struct address address, const options_t *given, export_t **out)
{
    export_t *export = NULL;
    options_t options;
    int r = options_read(given, &options);

    if (r == 0)
        export = calloc(1, sizeof(*export));
    if (export == NULL) {
        free(address.uri);
        if (address.socket >= 0)
            close(address.socket);
        return r < 0 ? r : refuse(-ENOMEM, "the memory for an export: %s", strerror(ENOMEM));
    }
    export->references = 1;
    export->wanted = 1;
    export->options = options;
    export->address = address;
    engine_init(&export->engine, review);
    r = own_strings(&export->options);
    if (r < 0) {
        failure_set(&export->failure, ENOMEM, "the memory for an export: %s", strerror(ENOMEM));
    } else {
        connection_start(&export->connections[0], CONNECTION_FOR_STATUS, &export->address, &export->options);
        review(export, &export->connections[0]);
        r = -export->failure.error;
    }
    if (r == 0 && (options.flags & SPARSESTREAM_NBD_NONBLOCK) == 0)
        r = export_wait(export);
    if (r < 0) {
        failure_report(&export->failure);
        export_drop(export);
        return r;
    }
    *out = export;
    return 0;
}

int sparsestream_nbd_open(const char *uri, const struct sparsestream_nbd_options *options,
                          struct sparsestream_nbd **export)
{
    struct address address = { .socket = -1 };

    if (export == NULL)
        return refuse(-EINVAL, "export: is NULL");
    *export = NULL;
    if (uri == NULL)
        return refuse(-EINVAL, "uri: is NULL");
    if (options != NULL && options->size >= sizeof(*options) && options->export_name != NULL)
        return refuse(-EINVAL, "options.export_name: a URI has its own");
    address.uri = strdup(uri);
    if (address.uri == NULL)
        return refuse(-ENOMEM, "the memory for an export: %s", strerror(ENOMEM));
    return open_address(address, options, export);
}

int sparsestream_nbd_open_socket(int socket, const struct sparsestream_nbd_options *options,
                                 struct sparsestream_nbd **export)
{
    const struct address address = { .socket = socket };

    if (socket < 0)
        return refuse(-EINVAL, "socket: %d is not a descriptor", socket);
    if (export == NULL) {
        close(socket);
        return refuse(-EINVAL, "export: is NULL");
    }
    *export = NULL;
    return open_address(address, options, export);
}

int sparsestream_nbd_info(struct sparsestream_nbd *export, struct sparsestream_nbd_facts *facts)
{
    int r;

    if (export == NULL)
        return refuse(-EINVAL, "export: is NULL");
    r = struct_check(facts, "facts");
    if (r < 0)
        return r;
    r = export_connect(export);
    if (r < 0)
        return r == -EAGAIN ? r : failure_report(&export->failure);
    export->facts.connections = 0;
    for (unsigned i = 0; i < export->wanted; i++)
        export->facts.connections += export->connections[i].state == CONNECTION_READY;
    struct_give(&export->facts, sizeof(export->facts), facts);
    return 0;
}

int sparsestream_nbd_wait(struct sparsestream_nbd *export, struct sparsestream_wait *wait)
{
    struct sparsestream_wait known = { .size = sizeof(known) };

    if (export == NULL)
        return refuse(-EINVAL, "export: is NULL");
    if (struct_check(wait, "wait") < 0)
        return -EINVAL;
    engine_wait(export, &known);
    struct_give(&known, sizeof(known), wait);
    return 0;
}

int sparsestream_nbd_tune(struct sparsestream_nbd *export, struct sparsestream_transfer_options *options)
{
    int64_t size, most = 16 << 20, depth;

    if (export == NULL)
        return refuse(-EINVAL, "export: is NULL");
    if (options == NULL || options->size < sizeof(*options))
        return refuse(-EINVAL, "options: is NULL, or its size is less than %zu", sizeof(*options));
    size = export->state == EXPORT_OPEN ? export->request_size : export->options.request_size;
    while (most > 4096 && most > size)
        most /= 2;
    if (options->request_size == 0)
        options->request_size = (uint64_t)most;
    depth = least((int64_t)export->wanted * export->options.requests,
                  export->options.memory / (int64_t)options->request_size);
    if (options->depth == 0)
        options->depth = (uint32_t)least(depth < 1 ? 1 : depth, MOST_DEPTH);
    return 0;
}

void sparsestream_nbd_free(struct sparsestream_nbd *export)
{
    if (export != NULL)
        export_drop(export);
}
