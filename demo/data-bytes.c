/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Prints how many bytes of a file its file system calls data: lseek(2) alone, to check others by. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    long long bytes = 0;
    off_t data, hole = 0;
    int fd;

    if (argc != 2) {
        fprintf(stderr, "usage: data-bytes FILE\n");
        return 2;
    }
    fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    while ((data = lseek(fd, hole, SEEK_DATA)) >= 0 && (hole = lseek(fd, data, SEEK_HOLE)) > data)
        bytes += hole - data;
    if (data >= 0 || errno != ENXIO) { /* ENXIO: no more data */
        perror(argv[1]);
        return 1;
    }
    printf("%lld\n", bytes);
    return 0;
}
