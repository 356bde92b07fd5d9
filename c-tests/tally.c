/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "tally.h"
#include "harness.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* In an argument that lseek does not have: the filter lets such a call through. */
#define LET_THROUGH 0x5eec0de5L

struct tallied {
    void (*run)(void *);
    void *argument;
    int error;
};

#if defined __x86_64__ || defined __aarch64__
static struct tally *current;

static void on_call(int number, siginfo_t *info, void *opaque)
{
    ucontext_t *state = opaque;
    const int saved = errno;
    long arguments[3], result;

    (void) number;
    (void) info;
#ifdef __x86_64__
    arguments[0] = (long) state->uc_mcontext.gregs[REG_RDI];
    arguments[1] = (long) state->uc_mcontext.gregs[REG_RSI];
    arguments[2] = (long) state->uc_mcontext.gregs[REG_RDX];
#else
    for (int i = 0; i < 3; i++)
        arguments[i] = (long) state->uc_mcontext.regs[i];
#endif
    if (arguments[2] == SEEK_DATA || arguments[2] == SEEK_HOLE)
        current->probes++;
    else
        current->others++;
    result = syscall(SYS_lseek, arguments[0], arguments[1], arguments[2], LET_THROUGH);
    if (result < 0)
        result = -errno;
#ifdef __x86_64__
    state->uc_mcontext.gregs[REG_RAX] = result;
#else
    state->uc_mcontext.regs[0] = (unsigned long) result;
#endif
    errno = saved;
}

static int trap_lseek(int fd)
{
    const int big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_lseek, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t) (offsetof(struct seccomp_data, args[0]) + big)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t) fd, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t) (offsetof(struct seccomp_data, args[3]) + big)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, LET_THROUGH, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = { .len = sizeof filter / sizeof *filter, .filter = filter };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
        return errno;
    return 0;
}

static void *tallied_thread(void *opaque)
{
    struct tallied *tallied = opaque;

    tallied->error = trap_lseek(current->fd);
    if (tallied->error == 0)
        tallied->run(tallied->argument);
    return NULL;
}

void tally_run(struct tally *tally, void (*run)(void *), void *argument)
{
    struct tallied tallied = { .run = run, .argument = argument };
    struct sigaction action = { .sa_sigaction = on_call, .sa_flags = SA_SIGINFO }, before;
    pthread_t thread;

    tally->probes = tally->others = 0;
    current = tally;
    REQUIRE(sigaction(SIGSYS, &action, &before) == 0);
    REQUIRE((errno = pthread_create(&thread, NULL, tallied_thread, &tallied)) == 0);
    pthread_join(thread, NULL);
    REQUIRE(sigaction(SIGSYS, &before, NULL) == 0);
    if (tallied.error != 0)
        skip("no seccomp filter: %s", strerror(tallied.error));
}
#else
void tally_run(struct tally *tally, void (*run)(void *), void *argument)
{
    (void) tally;
    (void) run;
    (void) argument;
    skip("counting in the thread is not written for this processor");
}
#endif
