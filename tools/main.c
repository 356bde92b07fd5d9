/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* sparsestream COMMAND: move disk images, holes included. */

#include "export.h"
#include "remote.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <string.h>

struct command {
    const char *name;
    command_function *run;
    const char *options; /* the letters of arguments.c */
    const char *help;
};

#define HELP_ENDS                                                                                                \
    "  --detect-zeroes[=BLOCK]     turn blocks of zeros into holes; default 64K, at most 4K for copy\n"               \
    "  --min-hole SIZE             write zeros for holes that are shorter\n"                                     \
    "  --direct=never|auto|always  bypass the page cache (O_DIRECT); default never\n"                                \
    "  --sparse=auto|required|never  keep holes if possible, or fail, or write zeros\n"

/* Exports of NBD servers and disk images, which every command takes. */
#define EXPORTS "Q12345678"
#define HELP_EXPORTS                                                                                             \
    "  --backing-chain             use the other files that an image, such as qcow2:FILE, names\n"               \
    "  --connections N             make at most N connections to an NBD server; default 4\n"                     \
    "  --requests N                keep at most N requests in flight on each; default 64\n"                      \
    "  --request-size BYTES        the most bytes of one request; default 512K\n"                                \
    "  --memory BYTES              the most bytes in flight; default 64M\n"                                      \
    "  --tls-certificates DIR      nbds: the directory of the certificates\n"                                    \
    "  --tls-psk FILE              nbds: the file of the pre-shared keys\n"                                      \
    "  --tls-username NAME         nbds: the name whose pre-shared key is used\n"                                \
    "  --no-verify-peer            nbds: do not verify the certificate of the server\n"

#define HELP_TRANSFER                                                                                            \
    "  --rate BYTES                move at most this many bytes of data a second\n"                              \
    "  --timeout SECONDS           fail if nothing moves for this long\n"                                        \
    "  --progress[=bar|json]       show the progress on standard error\n"                                       \
    "  --verbose, -v               print each decision on standard error\n"                                     \
    "  --explain                   print at the end how many bytes moved in which way\n"

#define HELP_SOURCE                                                                                              \
    "  --ignore-map                read everything, without asking for holes\n"

#define HELP_ERRORS                                                                                              \
    "  --on-read-error=fail|skip   stop at a part that cannot be read, or make it zeros\n"                      \
    "  --error-map FILE            with skip: write a map of the unreadable parts\n"

#define HELP_SINK                                                                                                \
    "  --known-zero                the target already reads as zeros: do nothing for holes\n"                    \
    "  --sync                      make the target durable before success\n"                                     \
    "  --truncate, --no-truncate   cut a file after the last byte written, or keep its tail\n"                   \
    "  --device                    fail unless the target is a block device\n"                                   \
    "  --shared                    open a device together with other writers of its ranges\n"                    \
    "  --no-lock                   do not lock the files, and ignore other locks\n"                              \
    "  --force                     write even to a terminal\n"

#define HELP_WIRE                                                                                                \
    "  --connect ADDRESS           connect to unix:PATH, tcp:HOST:PORT, vsock:CID:PORT\n"                       \
    "  --listen ADDRESS            wait for a connection there; tcp::PORT is loopback\n"                         \
    "  --idle-timeout SECONDS      fail if the peer sends only signs of life for this long\n"                    \
    "  --checksum, --no-checksum   send checksums and a digest, or neither; default\n"                           \
    "                              yes over TCP, vsock and with --resume\n"                                     \
    "  --resume                    resume an interrupted transfer\n"                                             \
    "  --restart                   with --resume: start again if resuming is refused\n"

static const struct command commands[] = {
    { "map", command_map, "rjlwo" EXPORTS,
      "usage: sparsestream map [OPTION]... FILE\n"
      "Shows the data and the holes of a file.\n"
      "\n"
      "  --json                      as `qemu-img map --output=json`\n"
      "  --list                      a line for each section: kind, offset, length\n"
      "  --range OFFSET:LENGTH       only these bytes\n"
      "  --rows N                    rows of the picture; default 1\n"
      "  --timeout SECONDS           fail if a server does not answer for this long\n"
      HELP_EXPORTS },
    { "copy", command_copy, "raszbikStTRopvdDBKFVngEeyOJ" EXPORTS,
      "usage: sparsestream copy [OPTION]... SRC DST\n"
      "       sparsestream copy [OPTION]... SRC... DIRECTORY\n"
      "Copies a file or a device to another, holes included. `-` is standard input or output.\n"
      "\n"
      "  --dry-run, -n               print what would be done, and change nothing\n"
      "  --verify                    read the target back, and compare it with the source\n"
      "  --only-changes              write only the blocks that differ\n"
      HELP_ERRORS
      "  --preallocate               allocate the blocks of the data before any is written\n"
      "  --range OFFSET:LENGTH       only these bytes of SRC\n"
      "  --at OFFSET                 write them at this offset of DST, and keep the rest\n"
      "  --preserve[=LIST]           keep mode, ownership, timestamps, xattr; default the first three\n"
      HELP_ENDS HELP_SOURCE HELP_SINK HELP_EXPORTS HELP_TRANSFER },
    { "check", command_check, "riHopq" EXPORTS,
      "usage: sparsestream check [OPTION]... A B\n"
      "Compares two files or devices. Exits with 0 if they are the same, with 10 if bytes differ.\n"
      "\n"
      "  --holes                     exit with 11 if the bytes are the same and the holes are not\n"
      "  --range OFFSET:LENGTH       only these bytes of both\n"
      HELP_SOURCE
      "  --timeout SECONDS           fail if a pipe delivers nothing for this long\n"
      "  --progress[=bar|json]       show the progress on standard error\n"
      "  --quiet                     report a difference by the exit status only\n"
      HELP_EXPORTS },
    { "checksum", command_checksum, "rijopNqXYWG" EXPORTS,
      "usage: sparsestream checksum [OPTION]... FILE...\n"
      "Prints the digest of each file or device, or of standard input for `-`. Holes are not read.\n"
      "\n"
      "  --range OFFSET:LENGTH       only these bytes of each\n"
      "  --json                      print a JSON array\n"
      HELP_SOURCE
      "  --timeout SECONDS           fail if a pipe delivers nothing for this long\n"
      "  --progress[=bar|json]       show the progress on standard error\n"
      "\n"
      "  --check                     read digests from each FILE and compare them; exit with 1 if one differs\n"
      "  --ignore-missing            with --check: skip files that do not exist\n"
      "  --quiet                     with --check: do not print OK\n"
      "  --status                    with --check: print nothing, only set the exit status\n"
      "  --strict                    with --check: fail if a line has a wrong format\n"
      "  --warn                      with --check: warn about each such line\n"
      HELP_EXPORTS },
    { "send", command_send, "rszbiRopvdcLxAuUCZI0KJEe" EXPORTS,
      "usage: sparsestream send [OPTION]... FILE\n"
      "Sends a file or a device, or standard input for `-`, to `sparsestream recv`: to standard output\n"
      "unless an address or a command is given.\n"
      "\n"
      "  --answers                   read the receiver's answers from standard input\n"
      "  --no-identity               send the receiver only the length in advance\n"
      "  --no-lock                   ignore other locks\n"
      "  --exec COMMAND              connect to the standard input and output of this command\n"
      HELP_WIRE
      "  --range OFFSET:LENGTH       only these bytes\n"
      HELP_ERRORS
      HELP_ENDS HELP_SOURCE HELP_EXPORTS HELP_TRANSFER },
    { "recv", command_recv, "rszbkStTRopvdcLxuUCZfPmIDBKFMJ" EXPORTS,
      "usage: sparsestream recv [OPTION]... FILE\n"
      "Receives a file or a device, or standard output for `-`, from `sparsestream send`: from standard\n"
      "input unless an address or a command is given.\n"
      "\n"
      "  --exec COMMAND              connect to the standard input and output of this command\n"
      HELP_WIRE
      "  --checkpoint BYTES          with --resume: sync after this many bytes; default 64M\n"
      "  --state STATE               with --resume: the record; default FILE.sparsestream\n"
      "  --max-size BYTES            refuse a longer stream, or `none`; needed to listen at tcp: or vsock:\n"
      "  --mode MODE                 the mode of a new file; default 600\n"
      "  --range OFFSET:LENGTH       write it there in FILE, and refuse a longer stream\n"
      HELP_ENDS HELP_SINK HELP_EXPORTS HELP_TRANSFER },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static const char help[] =
    "usage: sparsestream COMMAND [OPTION]...\n"
    "Moves disk images, holes included.\n"
    "\n"
    "  map FILE       show where data and holes are\n"
    "  copy SRC DST   copy a file or a device\n"
    "  check A B      compare two files or devices\n"
    "  checksum FILE  print the digest of a file or a device, or compare it\n"
    "  send FILE      send a file or a device to `sparsestream recv`\n"
    "  recv FILE      receive a stream of `sparsestream send`\n"
    "\n"
    "  help COMMAND   print the options of a command\n"
    "  --help         print this\n"
    "  --version      print the version of the command and of the library\n"
    "\n"
    "A FILE may also be an NBD URI (nbd://, nbds://, nbd+unix://, nbd+vsock://), a disk image (qcow2:FILE,\n"
    "vmdk:FILE, vdi:FILE, vhdx:FILE), or a volume of libvirt (libvirt+URI#POOL/VOLUME).\n"
    "\n"
    "Numbers of bytes are like 4096, 64K, 100M, 2G or 1T, in powers of 1024. See sparsestream(1).\n";

/* Runs a command; copy, send and recv of what is not a file are commands of their own. */
static int run(const struct command *command, struct settings *settings, int count, char **operands)
{
    bool reads = command->run == command_map || command->run == command_checksum || command->run == command_check;
    /* The operands of --check are lists of names. */
    int r = settings->check_list ? 0 : export_check_options(settings, count, operands);

    /* As a variable of a shell that was never set. */
    for (int i = 0; i < count && r == 0; i++)
        if (operands[i][0] == '\0')
            r = usage(settings, "%s: operand %d is an empty name", settings->command, i + 1);
    if (r != 0)
        return r;
    if (reads || !names_remote(count, operands))
        return command->run(settings, count, operands);
    return command_remote(settings, count, operands);
}

/* Success is reported only after all output was written. */
static int flushed(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    /* A code of its own would hide what the command found out. */
    return code == EXIT_OK ? fail_errno("standard output", NULL, errno) : code;
}

static int version(void)
{
    printf("sparsestream %s, library %s\n", SPARSESTREAM_VERSION, sparsestream_version());
    return flushed(EXIT_OK);
}

static const struct command *find(const char *name)
{
    int i;

    for (i = 0; i < COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0)
            return &commands[i];
    return NULL;
}

/* help [COMMAND] */
static int show_help(const struct settings *settings, const char *name)
{
    const struct command *command = name != NULL ? find(name) : NULL;

    if (name != NULL && command == NULL)
        return usage(settings, "unknown command '%s'", name);
    fputs(command != NULL ? command->help : help, stdout);
    return flushed(EXIT_OK);
}

int main(int argc, char **argv)
{
    struct settings settings = { .command = "" };
    const struct command *command;
    int r = standard_occupy();

    if (r != 0)
        return r;
    setlocale(LC_CTYPE, "");
    if (argc < 2)
        return usage(&settings, "a command is missing");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return show_help(&settings, NULL);
    if (strcmp(argv[1], "help") == 0)
        return argc > 3 ? usage(&settings, "help: extra operand '%s'", argv[3]) : show_help(&settings, argv[2]);
    if (strcmp(argv[1], "--version") == 0)
        return version();
    command = find(argv[1]);
    if (command == NULL)
        return usage(&settings, argv[1][0] == '-' ? "unknown option '%s'" : "unknown command '%s'", argv[1]);
    settings.command = command->name;
    r = parse_options(&settings, argc - 1, argv + 1, command->options);
    if (r == EXIT_OK)
        fputs(command->help, stdout);
    else if (r < 0)
        r = run(command, &settings, argc - 1 - optind, argv + 1 + optind);
    return flushed(r);
}
