/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Measures the bridge beside a plain C adapter with the same message size and beside virsh: libvirt-bench [ROUNDS
 * [PART OF A CASE'S NAME [PART OF A CLIENT'S NAME]]]. bench/libvirt writes the table into docs/libvirt.md.
 *
 * Each contender takes its turn in each round, in a process of its own, against one private libvirtd with its pool
 * on a tmpfs; another one begins in each round. The table, in Markdown, has the median of the wall time and of the
 * client's CPU time, for each the median of its ratios to the plain adapter in the same round with the least and the
 * greatest of them, and the greatest peak of memory.
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
    /* KiB */
    double peak;
};

/* Those with an event thread are compared with the plain adapter that has one. */
static int base_of(int contender)
{
    return contender >= PLAIN_EVENTS ? PLAIN_EVENTS : PLAIN;
}

/* The clients with this in their names, and those that they are compared with. */
static bool is_wanted(const char *client, int contender)
{
    for (int c = 0; c < CONTENDERS; c++) {
        if (strstr(names[c], client) != NULL && (c == contender || base_of(c) == contender))
            return true;
    }
    return false;
}

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
                          seconds(&usage.ru_utime) + seconds(&usage.ru_stime), (double) usage.ru_maxrss };
}

static int compare(const void *left, const void *right)
{
    const double a = *(const double *) left, b = *(const double *) right;

    return a < b ? -1 : a > b;
}

struct spread {
    double least, median, greatest;
};

static struct spread spread(double *values, int count)
{
    qsort(values, (size_t) count, sizeof(*values), compare);
    return (struct spread){ values[0], values[count / 2], values[count - 1] };
}

static struct cost costs[MOST_ROUNDS][CONTENDERS];

static void report(const char *what, const char *client, int rounds)
{
    for (int c = 0; c < CONTENDERS; c++) {
        double wall[MOST_ROUNDS], cpu[MOST_ROUNDS], peak[MOST_ROUNDS], wall_ratios[MOST_ROUNDS], cpu_ratios[MOST_ROUNDS];
        struct spread by_wall, by_cpu;

        if (!is_wanted(client, c))
            continue;
        for (int i = 0; i < rounds; i++) {
            const struct cost *cost = &costs[i][c], *base = &costs[i][base_of(c)];

            wall[i] = cost->wall;
            cpu[i] = cost->cpu;
            peak[i] = cost->peak;
            wall_ratios[i] = cost->wall / base->wall;
            cpu_ratios[i] = cost->cpu / base->cpu;
        }
        by_wall = spread(wall_ratios, rounds);
        by_cpu = spread(cpu_ratios, rounds);
        printf("| %s | %s | %.0f ms | %.2f (%.2f-%.2f) | %.0f ms | %.2f (%.2f-%.2f) | %.0f MiB |\n", what, names[c],
               spread(wall, rounds).median * 1e3, by_wall.median, by_wall.least, by_wall.greatest,
               spread(cpu, rounds).median * 1e3, by_cpu.median, by_cpu.least, by_cpu.greatest,
               spread(peak, rounds).greatest / 1024);
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

/* The cases and the clients to measure. */
struct selection {
    int rounds;
    const char *part, *client;
};

static void bench(const struct selection *selection, const char *what, struct daemon *daemon, const char *image, bool up)
{
    struct job job = { .daemon = daemon, .image = image, .up = up };
    char target[160];
    int fd = open(image, O_RDONLY | O_CLOEXEC);

    if (strstr(what, selection->part) == NULL) {
        close(fd);
        return;
    }
    snprintf(target, sizeof(target), "%s/target", daemon->directory);
    job.size = file_size(fd);
    close(fd);
    for (int round = -1; round < selection->rounds; round++) {
        for (int turn = 0; turn < CONTENDERS; turn++) {
            const int c = (round + 1 + turn) % CONTENDERS;
            struct cost cost;

            if (!is_wanted(selection->client, c))
                continue;
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
    report(what, selection->client, selection->rounds);
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

static void run(const struct selection *selection)
{
    static struct daemon daemon;
    char image[160];

    daemon_start(&daemon);
    snprintf(image, sizeof(image), "%s/image", daemon.directory);
    puts("| case | client | wall, median | ratio | CPU of the client, median | ratio | peak of memory |\n"
         "|---|---|---:|---:|---:|---:|---:|");
    make_image(image, 1, 512 * MiB, 0);
    virStorageVolFree(volume_new(&daemon, "v", 512 * MiB));
    bench(selection, "upload, one section of 512 MiB", &daemon, image, true);
    fill_volume(&daemon, image);
    bench(selection, "download, one section of 512 MiB", &daemon, image, false);
    make_image(image, 32768, 4 * KiB, 4 * KiB);
    bench(selection, "upload, 32,768 sections of 4 KiB", &daemon, image, true);
    fill_volume(&daemon, image);
    bench(selection, "download, 32,768 sections of 4 KiB", &daemon, image, false);
    daemon_stop(&daemon);
}

int main(int argc, char **argv)
{
    struct selection selection;

    if (!daemon_prepare()) {
        fprintf(stderr, "libvirt cannot be initialised\n");
        return 1;
    }
    selection = (struct selection){
        .rounds = argc > 1 ? atoi(argv[1]) : 7,
        .part = argc > 2 ? argv[2] : "",
        .client = argc > 3 ? argv[3] : "",
    };
    if (selection.rounds < 1 || selection.rounds > MOST_ROUNDS) {
        fprintf(stderr, "the number of rounds must be from 1 to %d\n", MOST_ROUNDS);
        return 1;
    }
    run(&selection);
    return 0;
}
