/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * without io_uring[=ERRNO]|memlock COMMAND [ARGUMENT]...: runs a command that the kernel refuses every call of
 * io_uring(7) with an errno, EPERM by default as container engines do; or that may lock no memory. Exit status 77: this
 * system cannot refuse it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refuse_io_uring(unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_register, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
    };
    struct sock_fprog program = { .len = sizeof filter / sizeof *filter, .filter = filter };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* The limit does not hold for who has CAP_IPC_LOCK, as root does unless the bounding set lacks it. */
static int lock_no_memory(void)
{
    const struct rlimit none = { 0, 0 };

    if (geteuid() == 0 && prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) != 0)
        return -1;
    return setrlimit(RLIMIT_MEMLOCK, &none);
}

int main(int argc, char **argv)
{
    int result;

    if (argc < 3) {
        fputs("usage: without io_uring[=ERRNO]|memlock COMMAND [ARGUMENT]...\n", stderr);
        return 2;
    }
    if (strncmp(argv[1], "io_uring=", 9) == 0)
        result = refuse_io_uring((unsigned)atoi(argv[1] + 9));
    else if (strcmp(argv[1], "io_uring") == 0)
        result = refuse_io_uring(EPERM);
    else
        result = lock_no_memory();
    if (result != 0) {
        perror(argv[1]);
        return 77;
    }
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
