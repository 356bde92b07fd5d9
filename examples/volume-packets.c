/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * For the tests of volume-daemon: sends it any packets, valid or invalid, and prints its answers.
 *
 *     volume-packets SOCKET ITEM...
 *
 *     call=TYPE,OFFSET,LENGTH,NAME  a call; TYPE as in volume-protocol.h
 *     data=N hole=N finish abort=N status=N     a stream's packets
 *     half=N         the header of a DATA of N bytes, and half of the bytes
 *     header=LENGTH,TYPE,SERIAL,STATUS          a header and nothing else
 *     bytes=N        N bytes of 0xa5
 *     serial=N       the serial from here on (1)
 *     sparse=N       the sparse request of the calls from here on (0)
 *     read           prints the next packet, or "closed"
 *     end            discards DATA and HOLE, and prints what comes after them
 *     flood=N        DATA packets until the daemon answers or closes the connection, at most N MiB
 *     sleep=MS
 *
 *     cc -o volume-packets volume-packets.c volume-protocol.c $(pkg-config --cflags --libs sparsestream)
 */

#define _GNU_SOURCE
#include "volume-protocol.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int connection;
static bool cut; /* the daemon takes no more */
static uint32_t serial = 1;
static uint32_t sparse;
static struct volume_channel channel;

static void put(uint8_t *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

static void send_bytes(const void *bytes, size_t length)
{
    const uint8_t *from = bytes;

    while (length > 0 && !cut) {
        ssize_t n = send(connection, from, length, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            cut = true;
        if (n > 0) {
            from += n;
            length -= (size_t)n;
        }
    }
}

static void send_header(uint64_t length, uint64_t type, uint64_t number, uint64_t status)
{
    uint8_t header[VOLUME_HEADER];

    put(header, length, 4);
    put(header + 4, VOLUME_MAGIC, 4);
    put(header + 8, type, 4);
    put(header + 12, number, 4);
    put(header + 16, status, 4);
    send_bytes(header, sizeof(header));
}

static void send_packet(uint32_t type, uint32_t status, const void *payload, size_t length)
{
    send_header(VOLUME_HEADER + length, type, serial, status);
    send_bytes(payload, length);
}

static void send_fill(uint8_t byte, uint64_t length)
{
    uint8_t bytes[4096];

    memset(bytes, byte, sizeof(bytes));
    for (; length > 0 && !cut; length -= length < sizeof(bytes) ? length : sizeof(bytes))
        send_bytes(bytes, length < sizeof(bytes) ? (size_t)length : sizeof(bytes));
}

static void send_call(const char *text)
{
    unsigned long long type, offset, length;
    uint8_t payload[VOLUME_SMALL_MAX] = { 0 };
    int at = 0;

    if (sscanf(text, "%llu,%llu,%llu,%n", &type, &offset, &length, &at) != 3 || at == 0 ||
        strlen(text + at) > sizeof(payload) - VOLUME_CALL_FIXED) {
        fprintf(stderr, "volume-packets: bad call '%s'\n", text);
        exit(2);
    }
    put(payload, offset, 8);
    put(payload + 8, length, 8);
    put(payload + 16, sparse, 4);
    memcpy(payload + VOLUME_CALL_FIXED, text + at, strlen(text + at));
    send_packet((uint32_t)type, 0, payload, VOLUME_CALL_FIXED + strlen(text + at));
}

static void discard(uint32_t length)
{
    uint8_t bytes[4096];

    while (length > 0) {
        ssize_t n = recv(connection, bytes, length < sizeof(bytes) ? length : sizeof(bytes), 0);

        if (n <= 0)
            return;
        length -= (uint32_t)n;
    }
}

/* Returns whether it was a piece of a stream, which is printed only if asked for. */
static bool read_packet(bool print)
{
    static const char *const names[] = { "data", "hole", "finish", "abort", "status" };
    const struct volume_packet *in = &channel.in;
    char words[VOLUME_WORDS_MAX + 1] = "";
    int r = volume_receive(&channel, 0);

    if (r < 0) {
        printf("%s\n", r == -ECONNRESET ? "closed" : strerror(-r));
        return false;
    }
    if (in->type == VOLUME_DATA)
        discard(in->length);
    volume_consume(&channel);
    if (!print && (in->type == VOLUME_DATA || in->type == VOLUME_HOLE))
        return true;
    if (in->status != 0)
        volume_take_words(in, words);
    if (in->type >= VOLUME_DATA)
        printf("%s", names[in->type - VOLUME_DATA]);
    else
        printf("%s", in->type == VOLUME_REPLY ? "reply" : "entry");
    printf(" %s %s\n", in->status == 0 ? "0" : strerrorname_np((int)in->status), words);
    return false;
}

static void flood(uint64_t mib)
{
    struct pollfd watch = { .fd = connection, .events = POLLIN };
    uint64_t packets = mib * 16;

    for (; packets > 0 && !cut && poll(&watch, 1, 0) == 0; packets--) {
        send_header(VOLUME_HEADER + 65536, VOLUME_DATA, serial, 0);
        send_fill('x', 65536);
    }
    printf("%s\n", packets == 0 ? "never stopped" : "stopped");
}

static void item(const char *text)
{
    const char *equals = strchr(text, '=');
    const char *value = equals == NULL ? "" : equals + 1;
    size_t length = equals == NULL ? strlen(text) : (size_t)(equals - text);
    uint64_t number = strtoull(value, NULL, 0);
    unsigned long long fields[4];
    uint8_t payload[8];

#define IS(word) (length == strlen(word) && strncmp(text, word, length) == 0)
    if (IS("call")) {
        send_call(value);
    } else if (IS("data")) {
        send_header(VOLUME_HEADER + number, VOLUME_DATA, serial, 0);
        send_fill('x', number);
    } else if (IS("half")) {
        send_header(VOLUME_HEADER + number, VOLUME_DATA, serial, 0);
        send_fill('x', number / 2);
    } else if (IS("hole")) {
        put(payload, number, 8);
        send_packet(VOLUME_HOLE, 0, payload, sizeof(payload));
    } else if (IS("finish")) {
        send_packet(VOLUME_FINISH, 0, NULL, 0);
    } else if (IS("abort")) {
        send_packet(VOLUME_ABORT, (uint32_t)number, NULL, 0);
    } else if (IS("status")) {
        send_packet(VOLUME_STATUS, (uint32_t)number, NULL, 0);
    } else if (IS("bytes")) {
        send_fill(0xa5, number);
    } else if (IS("header") &&
               sscanf(value, "%llu,%llu,%llu,%llu", fields, fields + 1, fields + 2, fields + 3) == 4) {
        send_header(fields[0], fields[1], fields[2], fields[3]);
    } else if (IS("serial")) {
        serial = (uint32_t)number;
    } else if (IS("sparse")) {
        sparse = (uint32_t)number;
    } else if (IS("read")) {
        read_packet(true);
    } else if (IS("end")) {
        while (read_packet(false))
            ;
    } else if (IS("flood")) {
        flood(number);
    } else if (IS("sleep")) {
        usleep((useconds_t)number * 1000);
    } else {
        fprintf(stderr, "volume-packets: bad item '%s'\n", text);
        exit(2);
    }
#undef IS
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: volume-packets SOCKET ITEM...\n");
        return 2;
    }
    connection = volume_connect(argv[1]);
    if (connection < 0) {
        fprintf(stderr, "volume-packets: %s: %s\n", argv[1], strerror(-connection));
        return 1;
    }
    volume_channel_init(&channel, connection);
    for (int i = 2; i < argc; i++)
        item(argv[i]);
    close(connection);
    return 0;
}
