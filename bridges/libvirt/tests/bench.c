/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Measures the bridge beside a plain C adapter with the same message size and beside virsh: libvirt-bench [ROUNDS
 * [PART OF A CASE'S NAME]].
 *
 * Each contender takes its turn in each round, in a process of its own, against one private libvirtd with its pool
 * on a tmpfs; another one begins in each round. The table, in Markdown, has the median of the wall time and of the
 * client's CPU time, and for each the median of its ratios to the plain adapter in the same round.
 */

#include "daemon.h"
#include "ends.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_ROUNDS 51

/* Where a child finds what to move. */
struct job {
    const struct daemon *daemon;
    const char *image;
    int64_t size;
    bool up;
};

/* ---- The plain adapter ---- */

static char buffer[SPARSESTREAM_LIBVIRT_MESSAGE];

static void plain_send(int fd, virStreamPtr stream)
{
    off_t at = 0, end = lseek(fd, 0, SEEK_END);

    while (at < end) {
        off_t data = lseek(fd, at, SEEK_DATA), hole;

        if (data < 0)
            data = end;
        if (data > at && virStreamSendHole(stream, data - at, 0) < 0)
            _exit(1);
        hole = data < end ? lseek(fd, data, SEEK_HOLE) : end;
        for (at = data; at < hole;) {
            const size_t want = hole - at < (off_t) sizeof(buffer) ? (size_t) (hole - at) : sizeof(buffer);
            const ssize_t got = pread(fd, buffer, want, at);

            if (got <= 0 || virStreamSend(stream, buffer, (size_t) got) != (int) got)
                _exit(1);
            at += got;
        }
    }
}

static void plain_recv(int fd, virStreamPtr stream)
{
    off_t at = 0;

    for (;;) {
        const int got = virStreamRecvFlags(stream, buffer, sizeof(buffer), VIR_STREAM_RECV_STOP_AT_HOLE);
        long long hole;

        if (got == 0)
            break;
        if (got == -3) {
            if (virStreamRecvHole(stream, &hole, 0) < 0)
                _exit(1);
            at += hole;
            continue;
        }
        if (got < 0 || pwrite(fd, buffer, (size_t) got, at) != got)
            _exit(1);
        at += got;
    }
    if (ftruncate(fd, at) < 0)
        _exit(1);
}

static void move_plainly(const struct job *job, virConnectPtr connection, virStorageVolPtr volume, int fd)
{
    virStreamPtr stream = virStreamNew(connection, 0);
    int r = job->up ? virStorageVolUpload(volume, stream, 0, 0, VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
                    : virStorageVolDownload(volume, stream, 0, 0, VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM);

    if (r < 0)
        _exit(1);
    if (job->up)
        plain_send(fd, stream);
    else
        plain_recv(fd, stream);
    if (virStreamFinish(stream) < 0)
        _exit(1);
    virStreamFree(stream);
}

/* ---- The bridge ---- */

static void move_with_bridge(const struct job *job, virStorageVolPtr volume, int fd, uint64_t flags)
{
    struct sparsestream_libvirt_failure failure = FAILURE;
    int r;

    if (job->up) {
        struct sparsestream_source *source = fd_source(fd);

        r = sparsestream_libvirt_upload(volume, 0, job->size, source, NULL, NULL, &failure);
        sparsestream_source_free(source);
    } else {
        struct sparsestream_sink *sink = fd_sink(fd);

        r = sparsestream_libvirt_download(volume, 0, 0, sink, LIBVIRT_OPTIONS(.flags = flags), NULL, &failure);
        sparsestream_sink_free(sink);
    }
    if (r < 0)
        _exit(1);
}

/* ---- Contenders ---- */

enum contender { PLAIN, BRIDGE, PLAIN_EVENTS, BRIDGE_EVENTS, BRIDGE_UNBOUNDED, VIRSH, CONTENDERS };

static const char *const names[] = { "plain C adapter", "bridge", "plain C adapter, event thread",
                                     "bridge, event thread", "bridge, event thread, NO_PAUSE",
                                     "virsh (has an event thread)" };

static _Noreturn void become_virsh(const struct job *job, const char *target)
{
    char uri[320];

    snprintf(uri, sizeof(uri), "storage:///system?socket=%s", job->daemon->socket);
    execlp("virsh", "virsh", "-q", "-c", uri, job->up ? "vol-upload" : "vol-download", "--sparse", "--pool", "pool",
           "v", job->up ? job->image : target, NULL);
    _exit(127);
}

static _Noreturn void run_contender(enum contender contender, const struct job *job, const char *target)
{
    const bool events = contender >= PLAIN_EVENTS;
    virConnectPtr connection;
    virStoragePoolPtr pool;
    virStorageVolPtr volume;
    int fd;

    if (contender == VIRSH)
        become_virsh(job, target);
    if (events)
        events_start();
    connection = daemon_connect(job->daemon->socket);
    pool = virStoragePoolLookupByName(connection, "pool");
    volume = virStorageVolLookupByName(pool, "v");
    fd = job->up ? open(job->image, O_RDONLY | O_CLOEXEC) : open(target, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || volume == NULL)
        _exit(1);
    if (contender == PLAIN || contender == PLAIN_EVENTS)
        move_plainly(job, connection, volume, fd);
    else
        move_with_bridge(job, volume, fd, contender == BRIDGE_UNBOUNDED ? SPARSESTREAM_LIBVIRT_NO_PAUSE : 0);
    _exit(0);
}

struct cost {
    double wall, cpu;
};

static double seconds(const struct timeval *time)
{
    return (double) time->tv_sec + (double) time->tv_usec / 1e6;
}

static struct cost measure(enum contender contender, const struct job *job, const char *target)
{
    struct timespec begun, ended;
    struct rusage usage;
    int status;
    pid_t pid;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    pid = fork();
    if (pid == 0)
        run_contender(contender, job, target);
    REQUIRE(wait4(pid, &status, 0, &usage) == pid);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    if (status != 0) {
        fprintf(stderr, "%s failed\n", names[contender]);
        exit(1);
    }
    return (struct cost){ (double) (ended.tv_sec - begun.tv_sec) + (double) (ended.tv_nsec - begun.tv_nsec) / 1e9,
                          seconds(&usage.ru_utime) + seconds(&usage.ru_stime) };
}

static int compare(const void *left, const void *right)
{
    const double a = *(const double *) left, b = *(const double *) right;

    return a < b ? -1 : a > b;
}

static double median(double *values, int count)
{
    qsort(values, (size_t) count, sizeof(*values), compare);
    return values[count / 2];
}

/* The medians of a contender's times, and of their ratios to those of `base` in the same rounds. */
static void sum_up(struct cost costs[MOST_ROUNDS][CONTENDERS], int rounds, int contender, int base,
                   struct cost *medians, struct cost *ratios)
{
    double wall[MOST_ROUNDS], cpu[MOST_ROUNDS], wall_ratio[MOST_ROUNDS], cpu_ratio[MOST_ROUNDS];

    for (int i = 0; i < rounds; i++) {
        wall[i] = costs[i][contender].wall;
        cpu[i] = costs[i][contender].cpu;
        wall_ratio[i] = wall[i] / costs[i][base].wall;
        cpu_ratio[i] = cpu[i] / costs[i][base].cpu;
    }
    *medians = (struct cost){ median(wall, rounds), median(cpu, rounds) };
    *ratios = (struct cost){ median(wall_ratio, rounds), median(cpu_ratio, rounds) };
}

static void report(const char *what, struct cost costs[MOST_ROUNDS][CONTENDERS], int rounds)
{
    for (int c = 0; c < CONTENDERS; c++) {
        struct cost medians, ratios;

        /* Those with an event thread are compared with the plain adapter that has one. */
        sum_up(costs, rounds, c, c >= PLAIN_EVENTS ? PLAIN_EVENTS : PLAIN, &medians, &ratios);
        printf("| %s | %s | %.0f ms | %.2f | %.0f ms | %.2f |\n", what, names[c], medians.wall * 1e3, ratios.wall,
               medians.cpu * 1e3, ratios.cpu);
    }
    fflush(stdout);
}

/*
 * Takes as much memory as a run needs and frees it. A virtual machine may have given free memory back to its host, and
 * then the run that gets it back takes several times as long.
 */
static void touch_memory(int64_t size)
{
    const size_t length = (size_t) (3 * size / 2);
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    REQUIRE(memory != MAP_FAILED);
    munmap(memory, length);
}

static void bench(const char *only, const char *what, struct daemon *daemon, const char *image, bool up, int rounds)
{
    static struct cost costs[MOST_ROUNDS][CONTENDERS];
    struct job job = { .daemon = daemon, .image = image, .up = up };
    char target[160];
    int fd = open(image, O_RDONLY | O_CLOEXEC);

    if (strstr(what, only) == NULL) {
        close(fd);
        return;
    }
    snprintf(target, sizeof(target), "%s/target", daemon->directory);
    job.size = file_size(fd);
    close(fd);
    for (int round = -1; round < rounds; round++) {
        for (int turn = 0; turn < CONTENDERS; turn++) {
            const int c = (round + 1 + turn) % CONTENDERS;
            struct cost cost;

            if (up) {
                fd = volume_file(daemon, "v");
                file_resize(fd, 0);
                file_resize(fd, job.size);
                close(fd);
            }
            fd = open(target, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            close(fd);
            touch_memory(job.size);
            cost = measure((enum contender) c, &job, target);
            if (round >= 0)
                costs[round][c] = cost;
        }
    }
    unlink(target);
    report(what, costs, rounds);
}

static void make_image(const char *path, int64_t sections, int64_t data, int64_t hole)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    file_resize(fd, sections * (data + hole));
    for (int64_t i = 0; i < sections; i++)
        file_fill(fd, i * (data + hole), data, 1);
    close(fd);
}

static void fill_volume(struct daemon *daemon, const char *image)
{
    char command[512];

    snprintf(command, sizeof(command), "cp --sparse=always %s %s/v", image, daemon->pool_directory);
    REQUIRE(system(command) == 0);
}

static void run(int rounds, const char *only)
{
    static struct daemon daemon;
    char image[160];

    rounds = rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    daemon_start(&daemon);
    snprintf(image, sizeof(image), "%s/image", daemon.directory);
    puts("| case | client | wall, median | ratio | CPU of the client, median | ratio |\n"
         "|---|---|---:|---:|---:|---:|");
    make_image(image, 1, 512 * MiB, 0);
    virStorageVolFree(volume_new(&daemon, "v", 512 * MiB));
    bench(only, "upload, one section of 512 MiB", &daemon, image, true, rounds);
    fill_volume(&daemon, image);
    bench(only, "download, one section of 512 MiB", &daemon, image, false, rounds);
    make_image(image, 32768, 4 * KiB, 4 * KiB);
    bench(only, "upload, 32,768 sections of 4 KiB", &daemon, image, true, rounds);
    fill_volume(&daemon, image);
    bench(only, "download, 32,768 sections of 4 KiB", &daemon, image, false, rounds);
    daemon_stop(&daemon);
}

int main(int argc, char **argv)
{
    if (!daemon_prepare()) {
        fprintf(stderr, "libvirt cannot be initialised\n");
        return 1;
    }
    run(argc > 1 ? atoi(argv[1]) : 7, argc > 2 ? argv[2] : "");
    return 0;
}
