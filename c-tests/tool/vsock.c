/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* To be preloaded: vsock sockets become Unix sockets, for a kernel that has no vsock loopback. The CID is ignored. */

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

/* In some kernel headers it needs <sys/socket.h> before it. */
#include <linux/vm_sockets.h>

typedef int socket_function(int, int, int);
typedef int address_function(int, const struct sockaddr *, socklen_t);

int socket(int domain, int type, int protocol)
{
    socket_function *next = (socket_function *)dlsym(RTLD_NEXT, "socket");

    return next(domain == AF_VSOCK ? AF_UNIX : domain, type, protocol);
}

/* The same call of the C library, with the abstract name that stands for a port. */
static int call(const char *name, int fd, const struct sockaddr *address, socklen_t length)
{
    address_function *next = (address_function *)dlsym(RTLD_NEXT, name);
    struct sockaddr_un local = { .sun_family = AF_UNIX };

    if (address->sa_family != AF_VSOCK)
        return next(fd, address, length);
    length = (socklen_t)snprintf(local.sun_path + 1, sizeof(local.sun_path) - 1, "sparsestream-vsock-%u",
                                 ((const struct sockaddr_vm *)address)->svm_port);
    return next(fd, (struct sockaddr *)&local, (socklen_t)offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    return call("bind", fd, address, length);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return call("connect", fd, address, length);
}
