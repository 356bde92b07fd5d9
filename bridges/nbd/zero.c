/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Zeros by policy: the server is asked to zero a range, and if it refuses, zeros are written. */

#include "internal.h"

#include <errno.h>
#include <stdlib.h>

/* The most writes in flight for one range. */
enum { MOST_WRITES = 16 };

/* A range that is written with zeros. */
struct job {
    struct zeroes *zeroes;
    struct sparsestream_request *request; /* NULL: not in use */
    int64_t next;
    unsigned in_flight;
    int error;
};

struct zeroes {
    struct end *end;
    uint32_t flags;
    bool refused;
    void *zeros; /* as many as one write has; made when they are needed */
    unsigned waiting; /* jobs in use */
    struct job jobs[MOST_DEPTH];
};

struct zeroes *zeroes_new(struct end *end)
{
    struct zeroes *zeroes = calloc(1, sizeof(*zeroes));

    if (zeroes == NULL)
        return NULL;
    zeroes->end = end;
    if ((end->options.flags & SPARSESTREAM_NBD_NO_HOLE) != 0)
        zeroes->flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    if (end->options.zeroes == SPARSESTREAM_NBD_ZEROES_FAST)
        zeroes->flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    return zeroes;
}

void zeroes_free(struct zeroes *zeroes)
{
    if (zeroes == NULL)
        return;
    free(zeroes->zeros);
    free(zeroes);
}

static void run(struct job *job);

static void on_written(struct op *op, int error)
{
    struct job *job = op->owner;

    job->in_flight--;
    if (error != 0) {
        end_note(job->zeroes->end, op);
        job->error = error;
    }
    end_give_op(job->zeroes->end, op);
    run(job);
}

/* Sends the next write. Returns 0, -EAGAIN or a negative errno. */
static int write_next(struct job *job, int64_t end)
{
    struct end *owner = job->zeroes->end;
    const int64_t left = end - job->next, most = owner->export->request_size;
    struct op *op = end_take_op(owner);
    int r;

    if (op == NULL)
        return -EAGAIN;
    op->kind = OP_WRITE;
    op->offset = job->next;
    op->length = left < most ? left : most;
    op->buffer = job->zeroes->zeros;
    op->flags = 0;
    op->done = on_written;
    op->owner = job;
    r = engine_submit(owner->export, op);
    if (r < 0) {
        end_give_op(owner, op);
        return r;
    }
    job->next += op->length;
    job->in_flight++;
    return 0;
}

/* Sends as much as can be sent now, and answers the request after its last write. */
static void run(struct job *job)
{
    const int64_t end = job->request->offset + job->request->length;
    int r = 0;

    while (job->error == 0 && job->next < end && job->in_flight < MOST_WRITES && r == 0)
        r = write_next(job, end);
    if (r < 0 && r != -EAGAIN)
        job->error = -r;
    if (job->in_flight == 0 && (job->error != 0 || job->next == end)) {
        struct sparsestream_request *request = job->request;

        job->request = NULL;
        job->zeroes->waiting--;
        sparsestream_request_done(request, job->error != 0 ? -job->error : request->length);
    }
}

static int write_zeros(struct zeroes *zeroes, struct sparsestream_request *request)
{
    struct job *job = zeroes->jobs;

    if (zeroes->zeros == NULL)
        zeroes->zeros = calloc(1, (size_t)zeroes->end->export->request_size);
    if (zeroes->zeros == NULL)
        return -ENOMEM;
    /* There are as many as requests. */
    while (job->request != NULL)
        job++;
    *job = (struct job){ .zeroes = zeroes, .request = request, .next = request->offset };
    zeroes->waiting++;
    run(job);
    return 0;
}

static bool is_refusal(int error)
{
    return error == ENOTSUP || error == EOPNOTSUPP || error == EINVAL || error == EOVERFLOW || error == ENOSYS;
}

static void on_zeroed(struct op *op, int error)
{
    struct sparsestream_request *request = op->owner;
    struct zeroes *zeroes = request->user;
    int r;

    end_give_op(zeroes->end, op);
    if (is_refusal(error) && request->kind == SPARSESTREAM_REQUEST_FAST_ZERO) {
        sparsestream_request_done(request, -EOPNOTSUPP);
        return;
    }
    if (is_refusal(error)) {
        zeroes->refused = true;
        r = write_zeros(zeroes, request);
        if (r < 0)
            sparsestream_request_done(request, r);
        return;
    }
    if (error != 0)
        end_note(zeroes->end, op);
    sparsestream_request_done(request, error != 0 ? -error : request->length);
}

int zeroes_submit(struct zeroes *zeroes, struct sparsestream_request *request)
{
    const int64_t room = zeroes->end->export->facts.export_size - request->offset;
    const bool fast = request->kind == SPARSESTREAM_REQUEST_FAST_ZERO;
    struct op *op;
    int r;

    request->user = zeroes;
    if (zeroes->refused)
        return fast ? -EOPNOTSUPP : write_zeros(zeroes, request);
    op = end_take_op(zeroes->end);
    if (op == NULL)
        return -EAGAIN;
    op->kind = OP_ZERO;
    op->offset = request->offset;
    op->length = request->length < room ? request->length : room;
    op->buffer = NULL;
    op->flags = zeroes->flags | (fast ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
    op->done = on_zeroed;
    op->owner = request;
    r = engine_submit(zeroes->end->export, op);
    if (r < 0)
        end_give_op(zeroes->end, op);
    if (r >= 0 || !is_refusal(-r))
        return r;
    if (fast)
        return -EOPNOTSUPP;
    zeroes->refused = true;
    return write_zeros(zeroes, request);
}

void zeroes_advance(struct zeroes *zeroes)
{
    for (struct job *job = zeroes->jobs; zeroes->waiting > 0 && job < zeroes->jobs + MOST_DEPTH; job++) {
        if (job->request != NULL && job->in_flight < MOST_WRITES)
            run(job);
    }
}
