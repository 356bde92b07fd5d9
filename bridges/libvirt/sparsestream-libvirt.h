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
 * SIGPIPE that they caused. The application itself should ignore or block SIGPIPE in the thread that runs libvirt's
 * event loop.
 *
 * Blocking: finish and abort of a libvirt stream are synchronous calls to the daemon, and return at the latest when
 * the connection ends. So run an event loop in a thread of its own, and call virConnectSetKeepAlive(), which closes
 * the connection to a peer that no longer answers.
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
 * For VIR_ERR_SYSTEM_ERROR, this is the errno that the error carries. EAGAIN and EINTR become EIO, because a caller
 * would otherwise retry an operation that has failed permanently. A number that is not an errno becomes EIO, too. For a
 * closed connection, the errno is ECONNRESET.
 */
int sparsestream_libvirt_errno(const virError *error);

/* (a) Callbacks for virStreamSparseSendAll(), virStreamSendAll(), virStreamSparseRecvAll() and virStreamRecvAll().
 *
 * `opaque` is the sparsestream_source or sparsestream_sink. On failure the functions return -1 and set errno, which
 * libvirt puts into its error; libvirt then aborts the stream. They do not finish the ends: call
 * sparsestream_sink_finish() after virStreamFinish() has succeeded. They wait for a descriptor that is not ready, in any
 * mode. If a function of the caller's own table returns -EAGAIN and reports no descriptor to wait for, they fail with
 * EAGAIN. */

/* A virStreamSourceFunc. A hole is read as zeros, for virStreamSendAll(). */
int sparsestream_libvirt_source_read(virStreamPtr stream, char *data, size_t length, void *source);
/* A virStreamSourceHoleFunc. */
int sparsestream_libvirt_source_section(virStreamPtr stream, int *in_data, long long *length, void *source);
/* A virStreamSourceSkipFunc. */
int sparsestream_libvirt_source_skip(virStreamPtr stream, long long length, void *source);
/* A virStreamSinkFunc. */
int sparsestream_libvirt_sink_write(virStreamPtr stream, const char *data, size_t length, void *sink);
/* A virStreamSinkHoleFunc. Writes zeros if the sink makes no holes. */
int sparsestream_libvirt_sink_hole(virStreamPtr stream, long long length, void *sink);

/* (b) A stream that virStorageVolUpload(), virStorageVolDownload() or another call of libvirt has opened.
 *
 * The stream must be in blocking mode (-EINVAL). When these functions return, it is finished or aborted, and the caller
 * frees it. `stats` and `failure` may be NULL.
 *
 * Holes are sent as holes. If the stream was opened without VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM, set `sparse` of the
 * transfer to SPARSESTREAM_SPARSE_NEVER. These functions do not correct the daemon's faults with holes and write
 * errors, as sparsestream_libvirt_upload() does.
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
 * Call virEventRegisterDefaultImpl() or virEventRegisterImpl() before you open the connection. A job is started, driven
 * and freed on the thread that runs the event loop; only cancel and wake may be called from other threads. */

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
 * Watches a connection, so that its jobs end when the connection is lost: libvirt itself sends a stream no event in this
 * case. One watch serves any number of jobs.
 *
 * If `own_callback` is 0, the watch registers a close callback (virConnectRegisterCloseCallback). libvirt allows only
 * one for each connection; if there is one already, the call fails with -EBUSY. If `own_callback` is 1, the watch
 * registers none: call sparsestream_libvirt_watch_lost() from your own callback. Registering the callback, and
 * unregistering it in sparsestream_libvirt_watch_free(), are calls to the daemon that wait for its answer.
 *
 * Returns 0 and a handle that the caller frees, or a negative errno with `*watch` NULL: -EINVAL, -EBUSY, -ENOMEM, or
 * that of sparsestream_libvirt_errno(). `failure` may be NULL.
 */
int sparsestream_libvirt_watch_new(virConnectPtr connection,
                                   int own_callback,
                                   struct sparsestream_libvirt_failure *failure,
                                   struct sparsestream_libvirt_watch **watch);
/* Reports that the connection is lost. `reason` is a virConnectCloseReason: each job of the watch ends with -ETIMEDOUT
 * for VIR_CONNECT_CLOSE_REASON_KEEPALIVE, otherwise with -ECONNRESET. Call it on the event loop's thread. */
void sparsestream_libvirt_watch_lost(struct sparsestream_libvirt_watch *watch, int reason);
/* Frees a watch. NULL is allowed. Its jobs continue without a watch. Call it on the event loop's thread. */
void sparsestream_libvirt_watch_free(struct sparsestream_libvirt_watch *watch);

/*
 * Start a job over a stream in non-blocking mode (VIR_STREAM_NONBLOCK) on which an upload or a download was opened.
 * The job holds a reference to the stream. The source or sink belongs to the caller and must live until the job is
 * freed. `watch` may be NULL: then nothing ends the job when the connection is lost.
 *
 * The event loop watches a source or sink over a descriptor in non-blocking mode. If the caller's own function returns
 * -EAGAIN, it is called again after sparsestream_libvirt_job_wake().
 *
 * libvirt's client queues without limit the data of a stream that is not read. So a job that receives delays the event
 * loop while its sink is not ready, for at most a second at a time. SPARSESTREAM_LIBVIRT_NO_PAUSE disables that.
 *
 * Return 0 and a handle in `*job` that the caller frees, or a negative errno with `*job` NULL: -EINVAL, -E2BIG, -ENOMEM,
 * -ENOSYS (there is no event loop), -ECONNRESET or -ETIMEDOUT (the watch's connection is lost), or that of
 * sparsestream_libvirt_errno(). After such a failure `done` is not called, and the stream is neither finished nor aborted.
 * `failure`, which may be NULL, is for this call alone; `done` is given that of the job.
 */
int sparsestream_libvirt_job_send(struct sparsestream_source *source,
                                  virStreamPtr stream,
                                  struct sparsestream_libvirt_watch *watch,
                                  const struct sparsestream_libvirt_options *options,
                                  sparsestream_libvirt_done done,
                                  void *opaque,
                                  struct sparsestream_libvirt_failure *failure,
                                  struct sparsestream_libvirt_job **job);
int sparsestream_libvirt_job_recv(virStreamPtr stream,
                                  struct sparsestream_sink *sink,
                                  struct sparsestream_libvirt_watch *watch,
                                  const struct sparsestream_libvirt_options *options,
                                  sparsestream_libvirt_done done,
                                  void *opaque,
                                  struct sparsestream_libvirt_failure *failure,
                                  struct sparsestream_libvirt_job **job);
/* Ends the job with -ECANCELED; `done` is called from the event loop. Any thread may call this. Returns 0 or -EINVAL. */
int sparsestream_libvirt_job_cancel(struct sparsestream_libvirt_job *job);
/* Reports that the caller's own source or sink is ready again. Any thread may call this. Returns 0 or -EINVAL. */
int sparsestream_libvirt_job_wake(struct sparsestream_libvirt_job *job);
/* Reports how much the job has moved so far. Call it on the event loop's thread. Returns 0 or a negative errno. */
int sparsestream_libvirt_job_stats(struct sparsestream_libvirt_job *job, struct sparsestream_stats *stats);
/* Frees a job. NULL is allowed. A job that has not ended is aborted, and `done` is not called. */
void sparsestream_libvirt_job_free(struct sparsestream_libvirt_job *job);

/* (d) A range of a storage volume, blocking. sparsestream-libvirt-name.h has the same for volumes by name. */

/*
 * Make a sink that writes, or a source that reads, a range of a volume. They open a stream of their own on the
 * volume's connection, to which they hold a reference, and start the upload or download. A `length` of 0 means to the
 * volume's end. They correct libvirt's faults as sparsestream_libvirt_upload() and sparsestream_libvirt_download() do;
 * the sink does so when it is finished. `transfer` of the options is not used.
 *
 * If a transfer with this end fails, the message of sparsestream_transfer_error() includes that of libvirt. `failure`,
 * which may be NULL, receives only the failure of this call.
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
 * Uploads `length` bytes of the source to `offset` of the volume; a length of 0 means up to the volume's end. The call
 * fails with -ENODATA if the source ends earlier, and with -EFBIG if it is longer.
 *
 * If the range ends before the end of a volume that is a file, holes are sent as zeros, because the daemon would
 * truncate the file at each hole. If the range reaches the end, `holes` selects how old bytes are treated. After the
 * daemon has reported success, the upload reads back the last 4 KiB that are not all zeros, and the size of the file,
 * unless SPARSESTREAM_LIBVIRT_NO_VERIFY is set. It fails with -EIO if they differ from the data that was sent.
 *
 * The upload has no other protection against write errors. The daemon itself reports an error in the middle, at once or
 * when the stream is finished.
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
 * Downloads `length` bytes from `offset` of the volume into the sink, with its holes; a length of 0 means to the
 * volume's end. If the volume becomes shorter during the download, the call fails with -ENODATA; libvirt itself would
 * report success.
 *
 * `total` of the statistics is known. If libvirt's event loop runs in another thread, the download delays it while the
 * sink is slower than the daemon, for at most a second at a time, unless SPARSESTREAM_LIBVIRT_NO_PAUSE is set. That does
 * not bound the memory if other calls use the connection at the same time, since they read the messages of all its
 * streams: give parallel downloads a connection each.
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
