/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "loopdev.h"
#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int loop_device(int backing)
{
    const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    const struct loop_config config = {
        .fd = (unsigned) backing,
        .info = { .lo_flags = LO_FLAGS_AUTOCLEAR },
    };
    int error;

    if (control < 0)
        skip("no loop devices: /dev/loop-control: %s", strerror(errno));
    /* Another may take the free device first. */
    for (int tries = 0; tries < 20; tries++) {
        const int number = ioctl(control, LOOP_CTL_GET_FREE);
        char path[32];
        int fd;

        error = errno;
        if (number < 0)
            break;
        snprintf(path, sizeof path, "/dev/loop%d", number);
        fd = open(path, O_RDWR | O_CLOEXEC);
        error = errno;
        if (fd < 0)
            break;
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            close(control);
            return fd;
        }
        error = errno;
        close(fd);
        if (error != EBUSY)
            break;
    }
    close(control);
    skip("no loop device can be made: %s", strerror(error));
}
