/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libsparsestream-libvirt: libvirt's streams as ends of a sparsestream transfer.
 *
 *     sparsestream_source_from_fd(fd, NULL, &source);
 *     r = sparsestream_libvirt_upload(volume, 0, size, source, NULL, NULL, &failure);
 *     if (r < 0)
 *         fprintf(stderr, "%s\n", failure.message);
 *     sparsestream_source_free(source);
 *
 * Functions return 0 or a negative errno. For a failure of libvirt, that is the errno of
 * sparsestream_libvirt_errno(), and `sparsestream_libvirt_failure` has libvirt's message.
 *
 * Signals: libvirt writes to its socket with write(2), which raises SIGPIPE if the daemon has closed the
 * connection. The functions below block SIGPIPE in the calling thread while they are inside libvirt, and remove a
 * SIGPIPE that they caused. The thread that runs libvirt's event loop is the application's: it should ignore or
 * block SIGPIPE.
 *
 * Blocking: finish and abort of a libvirt stream are synchronous calls to the daemon. They end when the connection
 * ends. So run an event loop in a thread of its own, and call virConnectSetKeepAlive(), which closes the
 * connection to a peer that no longer answers.
 *
 * libvirt prints each error to standard error unless virSetErrorFunc() was called.
 */
#ifndef SPARSESTREAM_LIBVIRT_H
#define SPARSESTREAM_LIBVIRT_H

#include <sparsestream-libvirt-name.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The errno, positive, for an error of libvirt; 0 for NULL and VIR_ERR_OK.
 *
 * VIR_ERR_SYSTEM_ERROR gives the errno that it carries. EAGAIN and EINTR become EIO, since a caller would
 * otherwise retry an operation that has failed for good. So does a number that is not an errno. A connection that
 * is closed gives ECONNRESET.
 */
int sparsestream_libvirt_errno(const virError *error);

/* (a) Callbacks for virStreamSparseSendAll(), virStreamSendAll(), virStreamSparseRecvAll() and virStreamRecvAll().
 *
 * `opaque` is the sparsestream_source or sparsestream_sink. They return -1 with errno set, which libvirt puts into
 * its error; libvirt then aborts the stream. The ends are not finished: call sparsestream_sink_finish() after
 * virStreamFinish() has succeeded. They wait for a descriptor that is not ready, in any mode. If a function of the
 * caller's own returns -EAGAIN and names no descriptor, they fail with EAGAIN. */

/* A virStreamSourceFunc. A hole is read as zeros, for virStreamSendAll(). */
int sparsestream_libvirt_source_read(virStreamPtr stream, char *data, size_t length, void *source);
/* A virStreamSourceHoleFunc. */
int sparsestream_libvirt_source_section(virStreamPtr stream, int *in_data, long long *length, void *source);
/* A virStreamSourceSkipFunc. */
int sparsestream_libvirt_source_skip(virStreamPtr stream, long long length, void *source);
/* A virStreamSinkFunc. */
int sparsestream_libvirt_sink_write(virStreamPtr stream, const char *data, size_t length, void *sink);
/* A virStreamSinkHoleFunc. Writes zeros where the sink makes no holes. */
int sparsestream_libvirt_sink_hole(virStreamPtr stream, long long length, void *sink);

/* (b) A stream that virStorageVolUpload(), virStorageVolDownload() or another call of libvirt has opened.
 *
 * The stream must be in blocking mode (-EINVAL). It is finished or aborted when they return, and the caller frees
 * it. `stats` and `failure` may be NULL.
 *
 * Holes are sent if the stream was opened with VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM; otherwise set `sparse` of the
 * transfer to SPARSESTREAM_SPARSE_NEVER. These functions do not correct the daemon's faults with holes and write
 * errors: see sparsestream_libvirt_upload().
 *
 * Return 0 or a negative errno: -EINVAL, -E2BIG, -ENOMEM, those of sparsestream_send_all() and
 * sparsestream_recv_all(), and those of sparsestream_libvirt_errno(). */
int sparsestream_libvirt_send(struct sparsestream_source *source,
                              virStreamPtr stream,
                              const struct sparsestream_libvirt_options *options,
                              struct sparsestream_stats *stats,
                              struct sparsestream_libvirt_failure *failure);
int sparsestream_libvirt_recv(virStreamPtr stream,
                              struct sparsestream_sink *sink,
                              const struct sparsestream_libvirt_options *options,
                              struct sparsestream_stats *stats,
                              struct sparsestream_libvirt_failure *failure);

/* (c) Jobs: transfers that libvirt's event loop drives.
 *
 * virEventRegisterDefaultImpl() or virEventRegisterImpl() must have been called before the connection was opened. A
 * job is started, driven and freed on the thread that runs the event loop; only cancel and wake may be called from
 * others. */

typedef struct sparsestream_libvirt_watch sparsestream_libvirt_watch;
typedef struct sparsestream_libvirt_job sparsestream_libvirt_job;

/*
 * Called once, on the event loop's thread, when the job has ended: `result` is 0 or a negative errno. The job may be
 * freed here. `failure` is zeroed on success and is valid during the call only.
 */
typedef void (*sparsestream_libvirt_done)(struct sparsestream_libvirt_job *job,
                                          int result,
                                          const struct sparsestream_libvirt_failure *failure,
                                          void *opaque);

/*
 * Watches a connection, so that its jobs end when it is lost: libvirt itself sends a stream no event then. One
 * watch serves any number of jobs.
 *
 * If `own_callback` is 0, it registers a close callback (virConnectRegisterCloseCallback). libvirt has only one
 * for each connection; if there is one already, the call fails with -EBUSY. If `own_callback` is 1, it registers
 * none: call sparsestream_libvirt_watch_lost() from your own callback. Registering makes a call to the daemon and
 * waits for its answer, as unregistering in sparsestream_libvirt_watch_free() does.
 *
 * Returns 0 and a handle that the caller frees, or a negative errno: -EINVAL, -EBUSY, -ENOMEM.
 */
int sparsestream_libvirt_watch_new(virConnectPtr connection, int own_callback,
                                   struct sparsestream_libvirt_watch **watch);
/* The connection is lost, for a virConnectCloseReason: each job of the watch ends with -ECONNRESET, or -ETIMEDOUT
 * for VIR_CONNECT_CLOSE_REASON_KEEPALIVE. On the event loop's thread. */
void sparsestream_libvirt_watch_lost(struct sparsestream_libvirt_watch *watch, int reason);
/* Frees a watch. NULL is allowed. Its jobs continue without one. On the event loop's thread. */
void sparsestream_libvirt_watch_free(struct sparsestream_libvirt_watch *watch);

/*
 * Start a job over a stream in non-blocking mode (VIR_STREAM_NONBLOCK) on which an upload or a download was opened.
 * The job holds a reference to the stream; the caller keeps the end of the other side, which must live until the job
 * is freed. `watch` may be NULL: nothing then ends the job when the connection is lost.
 *
 * A source or sink over a descriptor in non-blocking mode is watched by the event loop. One made of the
 * caller's functions that returns -EAGAIN is tried again after sparsestream_libvirt_job_wake().
 *
 * libvirt's client has no limit on what it queues for a stream that is not read. So a job that receives holds up
 * the event loop while its sink is not ready, for at most a second at a time. SPARSESTREAM_LIBVIRT_NO_PAUSE forbids
 * that.
 *
 * Returns 0 and a handle in `*job` that the caller frees, or a negative errno with `*job` NULL, `done` not called and
 * the stream neither finished nor aborted: -EINVAL, -E2BIG, -ENOMEM, -ENOSYS (there is no event loop), or that of
 * sparsestream_libvirt_errno().
 */
int sparsestream_libvirt_job_send(struct sparsestream_source *source,
                                  virStreamPtr stream,
                                  struct sparsestream_libvirt_watch *watch,
                                  const struct sparsestream_libvirt_options *options,
                                  sparsestream_libvirt_done done,
                                  void *opaque,
                                  struct sparsestream_libvirt_job **job);
int sparsestream_libvirt_job_recv(virStreamPtr stream,
                                  struct sparsestream_sink *sink,
                                  struct sparsestream_libvirt_watch *watch,
                                  const struct sparsestream_libvirt_options *options,
                                  sparsestream_libvirt_done done,
                                  void *opaque,
                                  struct sparsestream_libvirt_job **job);
/* Ends the job with -ECANCELED; `done` is called from the event loop. From any thread. Returns 0 or -EINVAL. */
int sparsestream_libvirt_job_cancel(struct sparsestream_libvirt_job *job);
/* The caller's own source or sink is ready again. From any thread. Returns 0 or -EINVAL. */
int sparsestream_libvirt_job_wake(struct sparsestream_libvirt_job *job);
/* Reports how much the job has moved so far. Call it on the event loop's thread. Returns 0 or a negative errno. */
int sparsestream_libvirt_job_stats(struct sparsestream_libvirt_job *job, struct sparsestream_stats *stats);
/* Frees a job. NULL is allowed. One that has not ended is aborted, and `done` is not called. */
void sparsestream_libvirt_job_free(struct sparsestream_libvirt_job *job);

/* (d) A range of a storage volume, blocking. sparsestream-libvirt-name.h has the same for volumes by name. */

/*
 * Make a sink that writes, or a source that reads, a range of a volume. They open a stream of their own on the
 * volume's connection, of which they hold a reference, and start the upload or download. `length` 0 means to the
 * volume's end. They correct libvirt's faults as sparsestream_libvirt_upload() and sparsestream_libvirt_download()
 * do, when the sink is finished. `transfer` of the options is not used.
 *
 * A failure of the transfer has libvirt's words in sparsestream_transfer_error(). `failure`, which may be NULL, is
 * for this call alone.
 *
 * Return 0 and a handle that the caller frees, or a negative errno with the handle NULL: -EINVAL, -E2BIG, -ENOMEM,
 * -ENOSPC, and those of sparsestream_libvirt_errno().
 */
int sparsestream_libvirt_sink_to_volume(virStorageVolPtr volume,
                                        int64_t offset,
                                        int64_t length,
                                        const struct sparsestream_libvirt_options *options,
                                        struct sparsestream_libvirt_failure *failure,
                                        struct sparsestream_sink **sink);
int sparsestream_libvirt_source_from_volume(virStorageVolPtr volume,
                                            int64_t offset,
                                            int64_t length,
                                            const struct sparsestream_libvirt_options *options,
                                            struct sparsestream_libvirt_failure *failure,
                                            struct sparsestream_source **source);

/*
 * Uploads `length` bytes of the source to `offset` of the volume; 0 means up to the volume's end. The call fails
 * with -ENODATA if the source ends earlier, and with -EFBIG if it is longer.
 *
 * If the range ends before the end of a volume that is a file, holes are sent as zeros, because the daemon would
 * cut the file at each hole. If the range reaches the end, `holes` decides how old bytes are treated. After the
 * daemon has reported success the end of the range is read back, unless SPARSESTREAM_LIBVIRT_NO_VERIFY is set: the
 * last 4 KiB that are not all zeros, and the size of the file. -EIO if they are not as sent.
 *
 * The upload has no other protection against write errors: one that the daemon meets in the middle is reported by
 * it, in time or when the stream is finished.
 *
 * Returns 0 or a negative errno: -EINVAL, -E2BIG, -ENOMEM, -ENOSPC (the range goes beyond the volume's end),
 * -ENODATA, -EFBIG, -EIO, -EOPNOTSUPP, those of sparsestream_send_all(), and those of sparsestream_libvirt_errno().
 */
int sparsestream_libvirt_upload(virStorageVolPtr volume,
                                int64_t offset,
                                int64_t length,
                                struct sparsestream_source *source,
                                const struct sparsestream_libvirt_options *options,
                                struct sparsestream_stats *stats,
                                struct sparsestream_libvirt_failure *failure);

/*
 * Downloads `length` bytes from `offset` of the volume into the sink, with its holes; 0 means to the volume's end.
 * If the volume becomes shorter during the download, the call fails with -ENODATA; libvirt itself would report
 * success.
 *
 * `total` of the progress is known. Where libvirt's event loop runs in another thread, it is held up while the sink
 * is slower than the daemon, for at most a second at a time, unless SPARSESTREAM_LIBVIRT_NO_PAUSE is set.
 *
 * Returns as sparsestream_libvirt_upload().
 */
int sparsestream_libvirt_download(virStorageVolPtr volume,
                                  int64_t offset,
                                  int64_t length,
                                  struct sparsestream_sink *sink,
                                  const struct sparsestream_libvirt_options *options,
                                  struct sparsestream_stats *stats,
                                  struct sparsestream_libvirt_failure *failure);

#ifdef __cplusplus
}
#endif

#endif
