/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "watch.h"
#include "harness.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const long numbers[] = {
    SYS_lseek,   SYS_read,       SYS_write,     SYS_readv,    SYS_writev,
    SYS_pread64, SYS_pwrite64,   SYS_preadv,    SYS_pwritev,  SYS_preadv2,
    SYS_pwritev2, SYS_fallocate, SYS_ftruncate, SYS_fsync,    SYS_fdatasync,
    SYS_sendto,  SYS_sendmsg,    SYS_recvfrom,  SYS_recvmsg,  SYS_sync_file_range,
    SYS_copy_file_range, SYS_sendfile, SYS_fstatfs, SYS_ioctl,
};

_Static_assert(sizeof numbers / sizeof *numbers <= WATCHED_CALLS, "room for every count");

static int index_of(long number)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (numbers[i] == number)
            return (int) i;
    }
    return -1;
}

int watch_count(const struct watch *watch, long number)
{
    const int index = index_of(number);

    REQUIRE(index >= 0);
    return watch->counts[index];
}

struct watched {
    int fd;
    void (*run)(void *);
    void *argument;
    int listener;
    int error;
    sem_t listening;
    int ended;
};

/* Filters this thread only: returns the descriptor on which its calls are announced, or -1. */
static int listen_to(int fd)
{
    enum { CALLS = sizeof numbers / sizeof *numbers };
    const uint32_t low = offsetof(struct seccomp_data, args[0])
                         + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0);
    struct sock_filter filter[CALLS + 6];
    struct sock_fprog program = { .filter = filter };
    unsigned short at = 0;

    filter[at++] = (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                                 offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < CALLS; i++)
        filter[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                                     (uint32_t) numbers[i],
                                                     (uint8_t) (CALLS - i), 0);
    filter[at++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[at++] = (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low);
    filter[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t) fd, 1, 0);
    filter[at++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[at++] = (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    program.len = at;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return (int) syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                         &program);
}

static void *watched_thread(void *opaque)
{
    struct watched *watched = opaque;
    const uint64_t one = 1;

    watched->listener = listen_to(watched->fd);
    watched->error = errno;
    sem_post(&watched->listening);
    if (watched->listener < 0)
        return NULL;
    watched->run(watched->argument);
    if (write(watched->ended, &one, sizeof one) != sizeof one)
        harness_fail(__FILE__, __LINE__, "the end cannot be reported to the watcher");
    return NULL;
}

static void answer_one(struct watch *watch, int listener)
{
    struct seccomp_notif notice;
    struct seccomp_notif_resp reply;
    struct watched_call call;
    int64_t answer = 0;
    int index;

    memset(&notice, 0, sizeof notice);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice) != 0)
        return;
    index = index_of(notice.data.nr);
    call.number = notice.data.nr;
    for (int i = 0; i < 6; i++)
        call.arguments[i] = notice.data.args[i];
    call.count = index < 0 ? 0 : ++watch->counts[index];
    memset(&reply, 0, sizeof reply);
    reply.id = notice.id;
    if (watch->handler != NULL && watch->handler(watch->opaque, &call, &answer)) {
        if (answer < 0)
            reply.error = (int32_t) answer;
        else
            reply.val = answer;
    } else {
        reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    }
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply) != 0 && errno != ENOENT)
        harness_fail(__FILE__, __LINE__, "a watched call cannot be answered: %s", strerror(errno));
}

void watch_run(struct watch *watch, void (*run)(void *), void *argument)
{
    struct watched watched = {
        .fd = watch->fd, .run = run, .argument = argument, .listener = -1,
    };
    pthread_t thread;
    bool running = true;

    memset(watch->counts, 0, sizeof watch->counts);
    watched.ended = eventfd(0, EFD_CLOEXEC);
    REQUIRE(watched.ended >= 0 && sem_init(&watched.listening, 0, 0) == 0);
    REQUIRE((errno = pthread_create(&thread, NULL, watched_thread, &watched)) == 0);
    while (sem_wait(&watched.listening) != 0)
        ;
    if (watched.listener < 0) {
        pthread_join(thread, NULL);
        close(watched.ended);
        skip("no seccomp user notification: %s", strerror(watched.error));
    }
    while (running) {
        struct pollfd polled[2] = {
            { .fd = watched.listener, .events = POLLIN },
            { .fd = watched.ended, .events = POLLIN },
        };

        if (poll(polled, 2, -1) < 0)
            continue;
        if (polled[0].revents & POLLIN)
            answer_one(watch, watched.listener);
        else if (polled[1].revents != 0)
            running = false;
    }
    pthread_join(thread, NULL);
    close(watched.listener);
    close(watched.ended);
    sem_destroy(&watched.listening);
}
