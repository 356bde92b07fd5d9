/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Code shared by the source and the sink of an export. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int end_init(struct end *end, export_t *export, const end_options_t *given, uint64_t flags)
{
    int r;

    if (export == NULL)
        return refuse(-EINVAL, "export: is NULL");
    r = end_options_read(given, flags, &end->options);
    if (r < 0)
        return r;
    if (export->has_end)
        return refuse(-EBUSY, "the export has an end already");
    end->export = export;
    export->has_end = true;
    export_hold(export);
    return 0;
}

void end_release(struct end *end)
{
    free(end->ops);
    end->export->has_end = false;
    export_drop(end->export);
}

static int fail_with_words(const struct failure *failure)
{
    sparsestream_set_error(failure->error, SPARSESTREAM_OPERATION_OPEN, -1, failure->text);
    return -failure->error;
}

/* Room for the requests of the transfer. */
static int make_ops(struct end *end)
{
    if (end->ops != NULL)
        return 0;
    end->ops = calloc(end->export->depth, sizeof(*end->ops));
    if (end->ops == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < end->export->depth; i++)
        end_give_op(end, &end->ops[i]);
    return 0;
}

int end_describe(struct end *end, struct sparsestream_async_info *info)
{
    export_t *export = end->export;
    int r = export_connect(export);

    if (r < 0)
        return r == -EAGAIN ? r : fail_with_words(&export->failure);
    r = make_ops(end);
    if (r < 0)
        return r;
    info->total = export->facts.export_size;
    info->request_size = export->request_size;
    info->zero_size = MOST_LENGTH;
    info->block = export->facts.block_minimum;
    info->memory = 1;
    info->depth = export->depth;
    info->begin_depth =
        (export->facts.flags & SPARSESTREAM_NBD_ENCRYPTED) != 0 ? BEGIN_ENCRYPTED : BEGIN_DEPTH;
    return 0;
}

struct op *end_take_op(struct end *end)
{
    struct op *op = end->idle;

    if (op != NULL)
        end->idle = op->next;
    return op;
}

void end_give_op(struct end *end, struct op *op)
{
    op->next = end->idle;
    end->idle = op;
}

void end_note(struct end *end, const struct op *op)
{
    if (end->export->failure.error == 0 || (end->lost && end->lost_offset <= op->offset))
        return;
    end->lost = true;
    end->lost_kind = op->kind;
    end->lost_offset = op->offset;
}

static void answer(struct op *op, int error)
{
    struct sparsestream_request *request = op->owner;
    struct end *end = request->user;
    /* Bytes of a write beyond the end of the export only fill its last block. */
    const int64_t count = op->kind == OP_READ ? op->length : request->length;

    if (error != 0)
        end_note(end, op);
    end_give_op(end, op);
    sparsestream_request_done(request, error != 0 ? -error : count);
}

static enum op_kind kind_of(const struct sparsestream_request *request)
{
    switch (request->kind) {
    case SPARSESTREAM_REQUEST_READ:
        return OP_READ;
    case SPARSESTREAM_REQUEST_WRITE:
        return OP_WRITE;
    default:
        return OP_FLUSH;
    }
}

int end_submit(struct end *end, struct sparsestream_request *request)
{
    const struct sparsestream_nbd_facts *facts = &end->export->facts;
    const int64_t room = facts->export_size - request->offset;
    struct op *op;
    int r;

    if (request->kind == SPARSESTREAM_REQUEST_FLUSH && (facts->flags & SPARSESTREAM_NBD_CAN_FLUSH) == 0)
        return sparsestream_request_done(request, 0);
    op = end_take_op(end);
    if (op == NULL)
        return -EAGAIN;
    request->user = end;
    op->kind = kind_of(request);
    op->offset = request->offset;
    op->length = request->length < room ? request->length : room;
    op->buffer = request->buffer;
    op->flags = 0;
    op->done = answer;
    op->owner = request;
    r = engine_submit(end->export, op);
    if (r < 0)
        end_give_op(end, op);
    if (r < 0 && r != -EAGAIN)
        end_note(end, op);
    return r;
}

static int operation_of(enum op_kind kind)
{
    switch (kind) {
    case OP_READ:
        return SPARSESTREAM_OPERATION_READ;
    case OP_WRITE:
        return SPARSESTREAM_OPERATION_WRITE;
    case OP_ZERO:
        return SPARSESTREAM_OPERATION_HOLE;
    case OP_FLUSH:
        return SPARSESTREAM_OPERATION_SYNC;
    case OP_STATUS:
        return SPARSESTREAM_OPERATION_MAP;
    }
    return SPARSESTREAM_OPERATION_NONE;
}

int end_report(const struct end *end)
{
    const struct failure *failure = &end->export->failure;

    if (failure->error == 0)
        return 0;
    /* A FLUSH has no offset of its own. */
    sparsestream_set_error(failure->error, end->lost ? operation_of(end->lost_kind) : 0,
                           end->lost && end->lost_kind != OP_FLUSH ? end->lost_offset : -1, failure->text);
    return -failure->error;
}

int end_advance(void *opaque)
{
    struct end *end = opaque;

    engine_advance(end->export);
    return end_report(end);
}

int end_wait(void *opaque, struct sparsestream_wait *wait)
{
    struct end *end = opaque;

    engine_wait(end->export, wait);
    return 0;
}

int end_finish(void *opaque)
{
    (void)opaque;
    return 0;
}

void end_abort(void *opaque, int error)
{
    struct end *end = opaque;

    engine_close(end->export, error);
}
