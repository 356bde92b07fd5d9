/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A block device for a test: a loop device, which the kernel detaches at its last close. */
#ifndef LOOPDEV_H
#define LOOPDEV_H

/*
 * A descriptor, open for reading and writing, of a block device over the whole
 * of `backing`. Skips the case where there may be none.
 */
int loop_device(int backing);

#endif
