/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "daemon.h"

#include "fixtures.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where libvirt keeps its state. Those that may be absent are below a directory that every system has. */
static const char *const state_directories[] = { "/run", "/var", "/etc/libvirt" };

static void quiet(void *opaque, virErrorPtr error)
{
    (void) opaque;
    (void) error;
}

static void tick(int timer, void *opaque)
{
    bool *done = opaque;

    (void) timer;
    if (done != NULL)
        *done = true;
}

void events_run_for(unsigned milliseconds)
{
    bool done = false;
    const int timer = virEventAddTimeout((int) milliseconds, tick, &done, NULL);

    while (!done)
        virEventRunDefaultImpl();
    virEventRemoveTimeout(timer);
}

/* The event loop frees removed handles, such as that of a connection's socket, only when it is idle. */
static void drain_events(void)
{
    events_run_for(10);
}

bool daemon_prepare(void)
{
    if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0)
        return false;
    virSetErrorFunc(NULL, quiet);
    /* The event loop opens a descriptor of its own when it is first run, and keeps it. */
    drain_events();
    return true;
}

int daemon_tests(int argc, char **argv, const struct test_case *cases, size_t count)
{
    if (!daemon_prepare()) {
        printf("1..0 # SKIP libvirt cannot be initialised\n");
        return 0;
    }
    return harness_main(argc, argv, cases, count);
}

static const char *find_program(const char *name)
{
    static const char *const places[] = { "/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin" };
    static char path[64];

    for (size_t i = 0; i < COUNT(places); i++) {
        snprintf(path, sizeof(path), "%s/%s", places[i], name);
        if (access(path, X_OK) == 0)
            return path;
    }
    return NULL;
}

/* The storage driver alone: others want users, directories and a system bus. */
static const char *find_driver(void)
{
    static const char *const places[] = { "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64",
                                          "/usr/lib" };
    static char path[128];

    for (size_t i = 0; i < COUNT(places); i++) {
        snprintf(path, sizeof(path), "%s/libvirt/connection-driver/libvirt_driver_storage.so", places[i]);
        if (access(path, R_OK) == 0)
            return path;
    }
    return NULL;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    REQUIRE(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static _Noreturn void become_daemon(const char *program, const char *directory)
{
    char config[160], log[160], drivers[160];
    int fd;

    snprintf(config, sizeof(config), "%s/libvirtd.conf", directory);
    snprintf(log, sizeof(log), "%s/log", directory);
    snprintf(drivers, sizeof(drivers), "%s/drivers", directory);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        _exit(126);
    for (size_t i = 0; i < COUNT(state_directories); i++) {
        if (mount("libvirt-test", state_directories[i], "tmpfs", 0, "mode=0755") != 0)
            _exit(126);
    }
    mkdir("/var/lib", 0755);
    mkdir("/var/cache", 0755);
    setenv("LIBVIRT_DRIVER_DIR", drivers, 1);
    fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    close_range(3, ~0u, 0);
    signal(SIGPIPE, SIG_IGN);
    execl(program, "libvirtd", "-f", config, "-p", "/run/libvirtd.pid", NULL);
    _exit(127);
}

static void prepare_directory(struct daemon *daemon, const char *driver)
{
    char path[192], text[512];

    snprintf(daemon->directory, sizeof(daemon->directory), "%s/d", fixtures_directory());
    REQUIRE(mkdir(daemon->directory, 0755) == 0);
    snprintf(path, sizeof(path), "%s/drivers", daemon->directory);
    REQUIRE(mkdir(path, 0755) == 0);
    snprintf(path, sizeof(path), "%s/drivers/libvirt_driver_storage.so", daemon->directory);
    REQUIRE(symlink(driver, path) == 0);
    snprintf(path, sizeof(path), "%s/libvirtd.conf", daemon->directory);
    snprintf(text, sizeof(text),
             "unix_sock_dir = \"%s\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nmdns_adv = 0\n"
             "log_outputs = \"3:stderr\"\n",
             daemon->directory);
    write_text(path, text);
    snprintf(daemon->socket, sizeof(daemon->socket), "%s/libvirt-sock", daemon->directory);
    snprintf(daemon->pool_directory, sizeof(daemon->pool_directory), "%s/pool", daemon->directory);
    REQUIRE(mkdir(daemon->pool_directory, 0755) == 0);
}

/* The last line of the daemon's log. */
static const char *last_words(const struct daemon *daemon)
{
    static char text[400];
    char path[160];
    ssize_t count;
    int fd;

    snprintf(path, sizeof(path), "%s/log", daemon->directory);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    lseek(fd, -(off_t) (sizeof(text) - 1), SEEK_END) < 0 ? lseek(fd, 0, SEEK_SET) : 0;
    count = read(fd, text, sizeof(text) - 1);
    text[count < 0 ? 0 : count] = '\0';
    close(fd);
    return text;
}

static void launch(struct daemon *daemon, const char *program)
{
    int status;

    daemon->pid = fork();
    REQUIRE(daemon->pid >= 0);
    if (daemon->pid == 0)
        become_daemon(program, daemon->directory);
    for (int tries = 0; tries < 1000 && access(daemon->socket, F_OK) != 0; tries++) {
        if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
            if (WIFEXITED(status) && WEXITSTATUS(status) == 126)
                skip("no mount namespace to be had for a private libvirtd");
            harness_fail(__FILE__, __LINE__, "libvirtd ended with status %d: %s", status, last_words(daemon));
            exit(1);
        }
        usleep(10000);
    }
}

virConnectPtr daemon_connect(const char *socket)
{
    char uri[256];
    virConnectPtr connection = NULL;

    snprintf(uri, sizeof(uri), "storage:///system?socket=%s", socket);
    for (int tries = 0; tries < 100 && connection == NULL; tries++) {
        connection = virConnectOpen(uri);
        if (connection == NULL)
            usleep(20000);
    }
    if (connection == NULL) {
        harness_fail(__FILE__, __LINE__, "no connection to %s: %s", uri, virGetLastErrorMessage());
        exit(1);
    }
    return connection;
}

static void start(struct daemon *daemon, int64_t small)
{
    const char *program = find_program("libvirtd"), *driver = find_driver();
    char xml[512], options[64], reason[256];
    int r;

    memset(daemon, 0, sizeof(*daemon));
    if (program == NULL || driver == NULL)
        skip("there is no libvirtd with its storage driver (Debian: libvirt-daemon)");
    if (access("/etc/libvirt", F_OK) != 0)
        skip("there is no /etc/libvirt");
    r = fixtures_enter(reason, sizeof(reason));
    if (r == FIXTURE_ABSENT)
        skip("%s", reason);
    REQUIRE(r == 0);
    prepare_directory(daemon, driver);
    if (small > 0) {
        snprintf(options, sizeof(options), "size=%lld", (long long) small);
        REQUIRE(mount("libvirt-test", daemon->pool_directory, "tmpfs", 0, options) == 0);
    }
    launch(daemon, program);
    daemon->connection = daemon_connect(daemon->socket);
    snprintf(xml, sizeof(xml), "<pool type='dir'><name>pool</name><target><path>%s</path></target></pool>",
             daemon->pool_directory);
    daemon->pool = virStoragePoolCreateXML(daemon->connection, xml, 0);
    if (daemon->pool == NULL) {
        harness_fail(__FILE__, __LINE__, "no pool: %s", virGetLastErrorMessage());
        exit(1);
    }
}

void daemon_start(struct daemon *daemon)
{
    start(daemon, 0);
}

void daemon_start_small(struct daemon *daemon, int64_t size)
{
    start(daemon, size);
}

void daemon_kill(struct daemon *daemon)
{
    kill(daemon->pid, SIGKILL);
    while (waitpid(daemon->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    daemon->pid = 0;
}

void daemon_stop(struct daemon *daemon)
{
    /* A connection that is closed makes a call to the daemon, which may have ended. */
    void (*action)(int) = signal(SIGPIPE, SIG_IGN);

    if (daemon->pool != NULL)
        virStoragePoolFree(daemon->pool);
    if (daemon->connection != NULL)
        virConnectClose(daemon->connection);
    drain_events();
    signal(SIGPIPE, action);
    if (daemon->pid > 0)
        daemon_kill(daemon);
}

virStorageVolPtr volume_new(struct daemon *daemon, const char *name, int64_t capacity)
{
    char xml[512];
    virStorageVolPtr volume;

    snprintf(xml, sizeof(xml),
             "<volume><name>%s</name><capacity>%lld</capacity><allocation>0</allocation>"
             "<target><format type='raw'/></target></volume>",
             name, (long long) capacity);
    volume = virStorageVolCreateXML(daemon->pool, xml, 0);
    if (volume == NULL) {
        harness_fail(__FILE__, __LINE__, "no volume: %s", virGetLastErrorMessage());
        exit(1);
    }
    return volume;
}

int volume_file(struct daemon *daemon, const char *name)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", daemon->pool_directory, name);
    fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    return fd;
}

virStorageVolPtr volume_new_filled(struct daemon *daemon, const char *name, int64_t capacity, unsigned seed)
{
    virStorageVolPtr volume = volume_new(daemon, name, capacity);
    int fd = volume_file(daemon, name);

    file_fill(fd, 0, capacity, seed);
    close(fd);
    return volume;
}

/* The event loop. */

static pthread_t event_thread;
static atomic_bool event_stop;

static void *run_events(void *opaque)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    while (!atomic_load(&event_stop))
        virEventRunDefaultImpl();
    return opaque;
}

void events_start(void)
{
    atomic_store(&event_stop, false);
    REQUIRE(pthread_create(&event_thread, NULL, run_events, NULL) == 0);
}

void events_stop(void)
{
    const int timer = virEventAddTimeout(0, tick, NULL, NULL);

    atomic_store(&event_stop, true);
    REQUIRE(pthread_join(event_thread, NULL) == 0);
    virEventRemoveTimeout(timer);
    drain_events();
}

void events_run_until(const bool *done, unsigned seconds)
{
    const int64_t end = harness_now() + (int64_t) seconds * 1000 * harness_slowness();
    const int timer = virEventAddTimeout(20, tick, NULL, NULL);

    while (!*done && harness_now() < end)
        virEventRunDefaultImpl();
    virEventRemoveTimeout(timer);
    CHECK(*done);
}

/* The relay. */

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, path, strlen(path) + 1);
    if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
        _exit(1);
    return fd;
}

static bool forward(int from, int to)
{
    static char buffer[262144];
    ssize_t count = read(from, buffer, sizeof(buffer)), at = 0;

    while (at < count) {
        const ssize_t written = write(to, buffer + at, (size_t) (count - at));

        if (written <= 0)
            return false;
        at += written;
    }
    return count > 0;
}

static _Noreturn void run_relay(int listener, const char *daemon)
{
    int client = accept(listener, NULL, NULL), server = connect_to(daemon);
    struct pollfd pollfds[] = { { .fd = client, .events = POLLIN }, { .fd = server, .events = POLLIN } };

    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (poll(pollfds, 2, -1) > 0) {
        if (pollfds[0].revents != 0 && !forward(client, server))
            break;
        if (pollfds[1].revents != 0 && !forward(server, client))
            break;
    }
    _exit(0);
}

void relay_start(struct relay *relay, const struct daemon *daemon)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(relay->socket, sizeof(relay->socket), "%s/relay", daemon->directory);
    memcpy(address.sun_path, relay->socket, strlen(relay->socket) + 1);
    REQUIRE(bind(listener, (struct sockaddr *) &address, sizeof(address)) == 0 && listen(listener, 1) == 0);
    relay->pid = fork();
    REQUIRE(relay->pid >= 0);
    if (relay->pid == 0)
        run_relay(listener, daemon->socket);
    close(listener);
}

void relay_freeze(struct relay *relay)
{
    int status;

    kill(relay->pid, SIGSTOP);
    waitpid(relay->pid, &status, WUNTRACED);
}

void relay_cut(struct relay *relay)
{
    kill(relay->pid, SIGKILL);
    waitpid(relay->pid, NULL, 0);
    relay->pid = 0;
}

void relay_stop(struct relay *relay)
{
    if (relay->pid > 0)
        relay_cut(relay);
    unlink(relay->socket);
}

void memory_reset(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

    REQUIRE(fd >= 0 && write(fd, "5", 1) == 1);
    close(fd);
}

int64_t memory_peak(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    long long kib = -1;

    REQUIRE(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL)
        sscanf(line, "VmHWM: %lld", &kib);
    fclose(file);
    REQUIRE(kib >= 0);
    return kib;
}
