/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The stress stand: one volume-daemon, many clients that mostly misbehave, and a probe.
 *
 *     soak [--seconds N] [--clients N] [--seed N] [--dir DIR] [--unhurried | --untimed] DAEMON [WORD...]
 *
 * DAEMON and the words are the command that starts the daemon, which may run under a tool; with --untimed nothing
 * that such a tool makes slower or larger is judged, with --unhurried all but latencies. Prints what was measured, and TAP. Takes the seconds
 * of load and about 15 more, at most three minutes more.
 */

#define _GNU_SOURCE
#include "daemon.h"
#include "probe.h"
#include "stand.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PROCESSES = 2,
    PROBE_MS = 50,
    DRAIN_MS = 70000,
    STALL_MS = 12000, /* far more than any client but the stalled ones needs, however slow the machine */
    GRACE_MS = 1500,
    EXIT_MS = 20000,
    SETTLE_MS = 10000,
    PEAK_RSS_MIB = 64,
    CLIENTS_FOR_RSS = 256,
    SHOWN = 4, /* wrong transfers of a kind, in all detail */
    P99_US = 20000,
    MAX_US = 100000,
};

static const double STALLED_CPU_PERCENT = 2.0;

struct options {
    int64_t seconds;
    int64_t clients;
    uint64_t seed;
    const char *parent;
    bool untimed;
    bool unhurried; /* latencies are not judged */
    char **command;
};

static volatile sig_atomic_t interrupted;
static int tests, failures;

static void on_signal(int number)
{
    interrupted = number;
}

__attribute__((format(printf, 2, 3))) static void result(bool right, const char *format, ...)
{
    va_list arguments;

    tests++;
    failures += !right;
    printf("%s %d - ", right ? "ok" : "not ok", tests);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

static void pause_ms(int64_t ms)
{
    if (ms > 0)
        usleep((useconds_t)(ms * 1000));
}

/* Waits until the number is what it should be. */
static bool reached(const _Atomic int *number, int wanted, int64_t ms)
{
    for (int64_t start = now_us(); now_us() - start < ms * 1000 && interrupted == 0; pause_ms(5)) {
        if (atomic_load(number) == wanted)
            return true;
    }
    return atomic_load(number) == wanted;
}

static int descriptors_settled(const struct daemon *daemon, int wanted)
{
    for (int64_t start = now_us(); now_us() - start < SETTLE_MS * 1000; pause_ms(20)) {
        if (daemon_descriptors(daemon) == wanted)
            break;
    }
    return daemon_descriptors(daemon);
}

/* The store. */

static int make_volumes(struct stand *stand)
{
    static const struct {
        int64_t mixed, hole;
    } shapes[DOWNLOADABLE] = { { 2 * MiB, 0 }, { MiB + 12345, 0 }, { MiB, 4 * GiB }, { 150 * KiB, 0 } };

    for (int i = 0; i < DOWNLOADABLE; i++) {
        char name[16];
        int fd, r;

        stand->volumes[i] = (struct content){
            .seed = stand->seed + 77 + (uint64_t)i,
            .mixed = shapes[i].mixed,
            .size = shapes[i].mixed + shapes[i].hole,
        };
        snprintf(name, sizeof(name), "base%d", i);
        fd = openat(stand->directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            return -errno;
        r = content_write(&stand->volumes[i], fd);
        close(fd);
        if (r < 0)
            return r;
    }
    return 0;
}

static void remove_tree(const char *path)
{
    char below[600];
    struct dirent *entry;
    DIR *directory = opendir(path);

    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
        if (unlink(below) < 0 && errno == EISDIR)
            remove_tree(below);
    }
    if (directory != NULL)
        closedir(directory);
    rmdir(path);
}

/* The results. */

struct findings {
    struct probe *probe;
    int64_t peak_rss;
    int64_t load_us, load_cpu_us, load_late_us;
    int64_t stall_us, stall_cpu_us;
    int stopped;
    int fds_before, fds_after_load, fds_after;
    bool drained;
    int exit_status;
    int64_t exit_us;
    bool ended;
};

/* The daemon's log of each transfer. */
static bool read_log(struct stand *stand, const struct daemon *daemon)
{
    char line[2048], what[16];
    FILE *log = fopen(daemon->log, "re");
    unsigned client;
    int id;

    if (log == NULL)
        return false;
    while (fgets(line, sizeof(line), log) != NULL) {
        const char *end = strrchr(line, ':');
        long long data, holes;

        if (end == NULL ||
            sscanf(line, "volume-daemon: client %u: %15s t%d: %lld bytes of data, %lld of holes:", &client, what, &id,
                   &data, &holes) != 5 ||
            id < 0 || id >= TRANSFERS_MAX)
            continue;
        stand->records[id].daemon = strcmp(end, ": done\n") == 0 ? RIGHT : FAILED;
        stand->records[id].cancelled = strcmp(end, ": Operation canceled\n") == 0;
        stand->records[id].moved = data + holes;
    }
    fclose(log);
    return true;
}

/*
 * A sender has its end from the receiver's answer. If a shutdown comes between the last byte and the answer, the
 * receiver has all, and the sender cannot know: the one end that the two sides may rightly see differently.
 */
static bool answer_not_awaited(const struct record *record, bool shut_down)
{
    return shut_down && !record->upload && record->outcome == RIGHT && record->daemon == FAILED && record->cancelled &&
           record->moved == record->length;
}

/* Both sides must have come to the same end. */
static void compare_sides(struct record *record, bool shut_down)
{
    if (answer_not_awaited(record, shut_down))
        return;
    if (record->outcome == RIGHT && record->daemon != RIGHT) {
        record->outcome = WRONG;
        snprintf(record->why, sizeof(record->why), "the client says done, the daemon does not");
    } else if (record->outcome == FAILED && record->named && record->daemon == RIGHT) {
        record->outcome = WRONG;
        snprintf(record->why, sizeof(record->why), "it was broken off, and the daemon says done");
    } else if (record->outcome == FAILED && record->named && record->daemon != FAILED && !shut_down) {
        record->outcome = WRONG;
        snprintf(record->why, sizeof(record->why), "the daemon never said that it failed");
    }
}

/* The daemon's log of it, by its name, which is followed by a colon or a space. */
static void show_log(const struct daemon *daemon, int id)
{
    char line[2048], name[24];
    FILE *log = fopen(daemon->log, "re");

    snprintf(name, sizeof(name), " t%d", id);
    while (log != NULL && fgets(line, sizeof(line), log) != NULL) {
        const char *found = strstr(line, name);

        if (found != NULL && strchr(": ", found[strlen(name)]) != NULL)
            printf("#   %s", line);
    }
    if (log != NULL)
        fclose(log);
}

static const char *const manner_names[] = { "fast", "slow", "stalled", "cut", "garbage", "cancelled", "paused" };

/* All that is known of a transfer that went wrong. */
static void show_wrong(const struct stand *stand, const struct daemon *daemon, int id)
{
    static const char *const phases[] = { "load", "drain", "standstill", "resume", "shutdown" };
    static const char *const expected[] = {
        "done on both sides", "done on both sides", "-ETIMEDOUT there, an error here", "an error on both sides",
        "-EPROTO there, an error here", "-ECANCELED here, an error there", "done on both sides, or an error at shutdown",
    };
    static const char *const kinds[] = {
        "connected in us", "reused the connection of t", "called, bytes sent", "sent garbage, bytes", "answered, status",
        "in its middle, at", "resumed at", "waited last at", "returned", "ended at",
    };
    static const char *const ends[] = { "nothing", "done", "failed" };
    const struct record *record = &stand->records[id];

    printf("# t%d, seed %llu: %s\n", id, (unsigned long long)stand->seed,
           record->outcome == PENDING ? "never ended" : record->why);
    printf("#   %s %s of the %s, offset %lld, length %lld of %lld, sparse %d, flags %d\n",
           manner_names[record->manner], record->upload ? "upload" : "download", phases[record->phase],
           (long long)record->offset, (long long)record->call_length, (long long)record->length, record->sparse,
           record->flags);
    printf("#   expected: %s; the daemon's log: %s\n", expected[record->manner], ends[record->daemon]);
    printf("#   begun at %.3f s; its process left it alone for at most %.0f ms\n",
           (double)(record->begun - stand->start) / 1e6, (double)record->absent / 1e3);
    for (int i = 0; i < record->moments; i++)
        printf("#   +%.1f ms: %s %lld\n", (double)(record->timeline[i].at - record->begun) / 1e3,
               kinds[record->timeline[i].kind], (long long)record->timeline[i].value);
    show_log(daemon, id);
}

static void judge_transfers(struct stand *stand, const struct daemon *daemon, int first_held)
{
    int counts[MANNERS][2][WRONG + 1] = { 0 }, sums[WRONG + 1] = { 0 };
    int begun = atomic_load(&stand->begun), shown[MANNERS][2] = { 0 }, not_awaited = 0;

    printf("# %-10s %-9s %8s %8s %8s\n", "manner", "way", "right", "failed", "wrong");
    for (int i = 0; i < begun; i++) {
        struct record *record = &stand->records[i];

        compare_sides(record, i >= first_held);
        not_awaited += answer_not_awaited(record, i >= first_held);
        counts[record->manner][record->upload][record->outcome]++;
        sums[record->outcome]++;
        if ((record->outcome == WRONG || record->outcome == PENDING) &&
            shown[record->manner][record->upload]++ < SHOWN)
            show_wrong(stand, daemon, i);
    }
    for (int i = 0; i < MANNERS; i++) {
        for (int way = 0; way < 2; way++)
            printf("# %-10s %-9s %8d %8d %8d\n", manner_names[i], way ? "upload" : "download", counts[i][way][RIGHT],
                   counts[i][way][FAILED], counts[i][way][WRONG] + counts[i][way][PENDING]);
    }
    printf("# of the failed ones, %d downloads ended in zeros that filled a packet up before ABORT\n",
           atomic_load(&stand->filled));
    if (not_awaited > 0)
        printf("# of the right ones, %d downloads had every byte when the daemon was shut down before it heard so\n",
               not_awaited);
    result(sums[RIGHT] > 0 && sums[WRONG] == 0 && sums[PENDING] == 0,
           "%d transfers: %d right, every byte compared, %d failed as they should, on both sides, %d wrong", begun,
           sums[RIGHT], sums[FAILED], sums[WRONG] + sums[PENDING]);
    for (int i = 0; i < PAUSED; i++) {
        int of_both = 0;

        for (int outcome = RIGHT; outcome <= WRONG; outcome++)
            of_both += counts[i][0][outcome] + counts[i][1][outcome];
        if (of_both == 0)
            result(false, "there were transfers that are %s", manner_names[i]);
    }
}

static void judge_probe(struct probe *probe, bool unhurried)
{
    int64_t p50 = times_percentile(&probe->listing, 50), p99 = times_percentile(&probe->listing, 99);
    int64_t most = times_percentile(&probe->listing, 100);
    int64_t base50 = times_percentile(&probe->baseline, 50), base99 = times_percentile(&probe->baseline, 99);
    int64_t base_most = times_percentile(&probe->baseline, 100);

    printf("# probe, %d listings:   p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", probe->listing.count,
           (double)p50 / 1e3, (double)p99 / 1e3, (double)most / 1e3);
    printf("# baseline, bare echo: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", (double)base50 / 1e3,
           (double)base99 / 1e3, (double)base_most / 1e3);
    result(probe->failures == 0 && probe->listing.count > 0, "no listing failed of %d", probe->listing.count);
    if (unhurried)
        return;
    result(p99 < P99_US + base99, "probe p99 %.2f ms, below %.0f ms and the baseline's %.2f ms", (double)p99 / 1e3,
           P99_US / 1e3, (double)base99 / 1e3);
    result(most < MAX_US + base_most, "probe max %.2f ms, below %.0f ms and the baseline's %.2f ms",
           (double)most / 1e3, MAX_US / 1e3, (double)base_most / 1e3);
}

static void judge(const struct options *options, struct findings *findings)
{
    double stalled = findings->stall_us > 0
                         ? (double)findings->stall_cpu_us * 100.0 / (double)findings->stall_us
                         : 100.0;

    printf("# daemon: peak RSS %.1f MiB; CPU %.1f %% under load, had to wait for a processor for %.1f %% of it\n",
           (double)findings->peak_rss / (double)MiB,
           (double)findings->load_cpu_us * 100.0 / (double)findings->load_us,
           (double)findings->load_late_us * 100.0 / (double)findings->load_us);
    judge_probe(findings->probe, options->unhurried);
    result(findings->stopped == options->clients, "%d of %lld clients stood still at once", findings->stopped,
           (long long)options->clients);
    if (!options->untimed) {
        result(findings->peak_rss >= 0 && findings->peak_rss < PEAK_RSS_MIB * MiB,
               "peak RSS %.1f MiB, below %d MiB", (double)findings->peak_rss / (double)MiB, PEAK_RSS_MIB);
        result(findings->stall_cpu_us >= 0 && stalled < STALLED_CPU_PERCENT,
               "CPU while all stand still: %.3f %% of one core, below %.0f %%", stalled, STALLED_CPU_PERCENT);
    }
    result(findings->drained, "all that was begun came to an end");
    result(findings->fds_after_load == findings->fds_before && findings->fds_after == findings->fds_before,
           "descriptors of the daemon: %d before, %d after the load, %d after the standstill",
           findings->fds_before, findings->fds_after_load, findings->fds_after);
    result(findings->exit_status == 0, "SIGTERM with all clients within a transfer: exit status %d",
           findings->exit_status);
    if (!options->unhurried)
        result(findings->exit_us < (GRACE_MS + 1000 + 2000) * 1000, "after %.2f s, %.1f s of them grace",
               (double)findings->exit_us / 1e6, GRACE_MS / 1e3);
    result(findings->ended, "and every client's transfer ended then");
}

/* The run. */

static void load(const struct options *options, const struct daemon *daemon, struct findings *findings)
{
    int64_t start = now_us(), next = start, cpu = daemon_cpu_us(daemon), late = daemon_late_us(daemon);

    while (now_us() - start < options->seconds * 1000000 && interrupted == 0) {
        probe_once(findings->probe);
        next += PROBE_MS * 1000;
        if (next < now_us())
            next = now_us(); /* a late answer is one measurement, not several */
        pause_ms((next - now_us()) / 1000);
    }
    findings->load_us = now_us() - start;
    findings->load_cpu_us = daemon_cpu_us(daemon) - cpu;
    findings->load_late_us = daemon_late_us(daemon) - late;
}

static void stand_still(struct stand *stand, const struct options *options, const struct daemon *daemon,
                        struct findings *findings, int64_t window_ms)
{
    int64_t start, cpu;

    atomic_store(&stand->phase, PHASE_STALL);
    (void)reached(&stand->stopped, (int)options->clients, SETTLE_MS);
    pause_ms(300);
    findings->stopped = atomic_load(&stand->stopped);
    start = now_us();
    cpu = daemon_cpu_us(daemon);
    pause_ms(window_ms);
    findings->stall_us = now_us() - start;
    findings->stall_cpu_us = daemon_cpu_us(daemon) - cpu;
    atomic_store(&stand->phase, PHASE_RESUME);
    findings->drained = reached(&stand->busy, 0, DRAIN_MS) && findings->drained;
}

static int run(struct stand *stand, const struct options *options, const char *place)
{
    const int64_t window_ms = options->seconds >= 30 ? 5000 : 2000;
    char log[300], store[300], limit[24], stall[24], grace[24];
    struct daemon daemon = { .pid = -1 };
    struct findings findings = { .exit_status = -1 };
    pid_t processes[PROCESSES];
    int first_held, status, r;

    snprintf(log, sizeof(log), "%s/log", place);
    snprintf(store, sizeof(store), "%s/store", place);
    /* A client that has disconnected counts until the daemon has read what it left: in a burst of cuts that is many. */
    snprintf(limit, sizeof(limit), "%lld", 2 * (long long)options->clients + 8);
    snprintf(stall, sizeof(stall), "%lld", (long long)STALL_MS);
    snprintf(grace, sizeof(grace), "%d", GRACE_MS);
    if (mkdir(store, 0700) < 0 ||
        (stand->directory = open(store, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return -errno;
    r = make_volumes(stand);
    if (r == 0)
        r = daemon_start(&daemon, log, options->command,
                         (const char *const[]){ "--dir", store, "--socket", stand->socket_path, "--max-clients",
                                                limit, "--max-user", limit, "--log-lines", "0", "--stall-ms", stall, "--grace-ms", grace, "--max-size",
                                                "64G", NULL });
    findings.probe = calloc(1, sizeof(*findings.probe));
    if (r < 0 || findings.probe == NULL) {
        daemon_wait(&daemon, 0);
        free(findings.probe);
        return r < 0 ? r : -ENOMEM;
    }
    findings.fds_before = daemon_descriptors(&daemon);
    findings.drained = true;

    stand->start = now_us();
    fflush(stdout);
    for (int i = 0; i < PROCESSES; i++) {
        int count = (int)options->clients / PROCESSES + (i < (int)options->clients % PROCESSES);

        processes[i] = fork();
        if (processes[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            /* The clients stand for other machines: they must not take the daemon's processor from it. */
            if (!options->unhurried)
                setpriority(PRIO_PROCESS, 0, 15);
            clients_run(stand, i, count);
        }
    }
    r = probe_open(findings.probe, stand->socket_path);
    if (r == 0)
        load(options, &daemon, &findings);
    else
        findings.probe->failures++;
    atomic_store(&stand->phase, PHASE_DRAIN);
    probe_close(findings.probe);
    findings.drained = reached(&stand->busy, 0, DRAIN_MS);
    findings.fds_after_load = descriptors_settled(&daemon, findings.fds_before);

    stand_still(stand, options, &daemon, &findings, window_ms);
    findings.fds_after = descriptors_settled(&daemon, findings.fds_before);
    findings.peak_rss = daemon_peak_rss(&daemon);

    first_held = atomic_load(&stand->begun);
    atomic_store(&stand->phase, PHASE_HOLD);
    (void)reached(&stand->stopped, (int)options->clients, SETTLE_MS);
    kill(daemon.pid, SIGTERM);
    atomic_store(&stand->phase, PHASE_SHUTDOWN);
    findings.exit_us = now_us();
    findings.exit_status = daemon_wait(&daemon, EXIT_MS);
    findings.exit_us = now_us() - findings.exit_us;
    atomic_store(&stand->phase, PHASE_GONE);
    findings.ended = reached(&stand->busy, 0, DRAIN_MS);
    atomic_store(&stand->phase, PHASE_END);
    for (int i = 0; i < PROCESSES; i++) {
        if (waitpid(processes[i], &status, 0) != processes[i] || status != 0)
            result(false, "a process of clients ended with status %d", status);
    }

    if (!read_log(stand, &daemon))
        result(false, "the daemon's log can be read");
    judge_transfers(stand, &daemon, first_held);
    judge(options, &findings);
    if (findings.exit_status != 0) {
        char line[512];
        FILE *words = fopen(log, "re");

        while (words != NULL && fgets(line, sizeof(line), words) != NULL) {
            if (strstr(line, "volume-daemon: client") == NULL)
                printf("# %s", line);
        }
        if (words != NULL)
            fclose(words);
    }
    free(findings.probe);
    close(stand->directory);
    return 0;
}

static _Noreturn void usage(int code)
{
    fputs("usage: soak [--seconds N] [--clients N] [--seed N] [--dir DIR] [--unhurried | --untimed] DAEMON [WORD...]\n",
          code == 0 ? stdout : stderr);
    exit(code);
}

static int64_t number(const char *text, int64_t least, int64_t most)
{
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < least || value > most) {
        fprintf(stderr, "soak: '%s' is not a number from %lld to %lld\n", text, (long long)least, (long long)most);
        usage(2);
    }
    return value;
}

static void parse(struct options *options, int argc, char **argv)
{
    static const struct option longs[] = {
        { "seconds", required_argument, NULL, 's' }, { "clients", required_argument, NULL, 'c' },
        { "seed", required_argument, NULL, 'e' },    { "dir", required_argument, NULL, 'd' },
        { "untimed", no_argument, NULL, 'u' },       { "unhurried", no_argument, NULL, 'l' },
        { "help", no_argument, NULL, 'h' },          { NULL, 0, NULL, 0 },
    };
    int option;

    while ((option = getopt_long(argc, argv, "+", longs, NULL)) != -1) {
        switch (option) {
        case 's':
            options->seconds = number(optarg, 1, 3600);
            break;
        case 'c':
            options->clients = number(optarg, PROCESSES, 2000);
            break;
        case 'e':
            options->seed = (uint64_t)number(optarg, 0, INT64_MAX);
            break;
        case 'd':
            options->parent = optarg;
            break;
        case 'u':
            options->untimed = options->unhurried = true;
            break;
        case 'l':
            options->unhurried = true;
            break;
        case 'h':
            usage(0);
        default:
            usage(2);
        }
    }
    if (optind >= argc)
        usage(2);
    options->command = argv + optind;
}

int main(int argc, char **argv)
{
    /* A file system in memory: what a disk makes the daemon wait for is not the stand's subject. */
    struct options options = { .seconds = 60, .clients = CLIENTS_FOR_RSS, .parent = "/dev/shm" };
    struct sigaction action = { .sa_handler = on_signal };
    const char *temporary = getenv("TMPDIR");
    struct rlimit limit;
    char place[200], socket_path[256];
    struct stand *stand;
    int r;

    options.seed = (uint64_t)now_us();
    if (access(options.parent, W_OK) < 0)
        options.parent = temporary != NULL ? temporary : "/tmp";
    parse(&options, argc, argv);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    stand = mmap(NULL, sizeof(*stand), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(place, sizeof(place), "%s/soak.XXXXXX", options.parent);
    if (stand == MAP_FAILED || mkdtemp(place) == NULL) {
        fprintf(stderr, "soak: %s: %s\n", place, strerror(errno));
        return 1;
    }
    snprintf(socket_path, sizeof(socket_path), "%s/socket", place);
    stand->socket_path = socket_path;
    stand->seed = options.seed;
    printf("# %lld clients, %lld s of load, seed %llu\n", (long long)options.clients, (long long)options.seconds,
           (unsigned long long)options.seed);
    r = run(stand, &options, place);
    if (r < 0)
        result(false, "the stand is set up: %s", strerror(-r));
    if (interrupted != 0)
        result(false, "it was interrupted");
    if (failures > 0 && getenv("SOAK_KEEP") != NULL)
        printf("# kept: %s\n", place);
    else
        remove_tree(place);
    printf("1..%d\n", tests);
    return failures > 0;
}
