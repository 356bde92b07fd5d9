/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Options of every command. */

#include "values.h"

#include <getopt.h>
#include <string.h>

/* Each option has a letter, with which a command lists the options that it accepts. They are not short
 * options. */
static const struct option options[] = {
    { "range", required_argument, NULL, 'r' },
    { "at", required_argument, NULL, 'a' },
    { "sparse", required_argument, NULL, 's' },
    { "detect-zeroes", optional_argument, NULL, 'z' },
    { "min-hole", required_argument, NULL, 'b' },
    { "ignore-map", no_argument, NULL, 'i' },
    { "known-zero", no_argument, NULL, 'k' },
    { "sync", no_argument, NULL, 'S' },
    { "truncate", no_argument, NULL, 't' },
    { "no-truncate", no_argument, NULL, 'T' },
    { "rate", required_argument, NULL, 'R' },
    { "timeout", required_argument, NULL, 'o' },
    { "progress", optional_argument, NULL, 'p' },
    { "quiet", no_argument, NULL, 'q' },
    { "verbose", no_argument, NULL, 'v' },
    { "explain", no_argument, NULL, 'd' },
    { "json", no_argument, NULL, 'j' },
    { "list", no_argument, NULL, 'l' },
    { "rows", required_argument, NULL, 'w' },
    { "holes", no_argument, NULL, 'H' },
    { "check", no_argument, NULL, 'N' },
    { "status", no_argument, NULL, 'X' },
    { "strict", no_argument, NULL, 'Y' },
    { "warn", no_argument, NULL, 'W' },
    { "ignore-missing", no_argument, NULL, 'G' },
    { "connect", required_argument, NULL, 'c' },
    { "listen", required_argument, NULL, 'L' },
    { "exec", required_argument, NULL, 'x' },
    { "answers", no_argument, NULL, 'A' },
    { "resume", no_argument, NULL, 'u' },
    { "restart", no_argument, NULL, 'U' },
    { "checksum", no_argument, NULL, 'C' },
    { "no-checksum", no_argument, NULL, 'Z' },
    { "no-identity", no_argument, NULL, '0' },
    { "state", required_argument, NULL, 'f' },
    { "checkpoint", required_argument, NULL, 'P' },
    { "max-size", required_argument, NULL, 'm' },
    { "idle-timeout", required_argument, NULL, 'I' },
    { "device", no_argument, NULL, 'D' },
    { "shared", no_argument, NULL, 'B' },
    { "no-lock", no_argument, NULL, 'K' },
    { "force", no_argument, NULL, 'F' },
    { "mode", required_argument, NULL, 'M' },
    { "preserve", optional_argument, NULL, 'V' },
    { "dry-run", no_argument, NULL, 'n' },
    { "preallocate", no_argument, NULL, 'g' },
    { "on-read-error", required_argument, NULL, 'E' },
    { "error-map", required_argument, NULL, 'e' },
    { "verify", no_argument, NULL, 'y' },
    { "only-changes", no_argument, NULL, 'O' },
    { "direct", required_argument, NULL, 'J' },
    { "backing-chain", no_argument, NULL, 'Q' },
    { "connections", required_argument, NULL, '1' },
    { "requests", required_argument, NULL, '2' },
    { "request-size", required_argument, NULL, '3' },
    { "memory", required_argument, NULL, '4' },
    { "tls-certificates", required_argument, NULL, '5' },
    { "tls-psk", required_argument, NULL, '6' },
    { "tls-username", required_argument, NULL, '7' },
    { "no-verify-peer", no_argument, NULL, '8' },
    { "help", no_argument, NULL, 'h' },
};

enum { OPTIONS = sizeof(options) / sizeof(options[0]), LONG = 256 };

static int take_export(struct settings *settings, int option, const char *text)
{
    struct export_settings *export = &settings->export;

    switch (option) {
    case '1':
        return take_number(settings, "connections", text, 1, 4, &export->connections);
    case '2':
        return take_number(settings, "requests", text, 1, 256, &export->requests);
    case '3':
        return take_request_size(settings, text);
    case '4':
        return take_size(settings, "memory", text, 4096, &export->memory);
    case '5':
        export->tls_certificates = text;
        return -1;
    case '6':
        export->tls_psk = text;
        return -1;
    case '7':
        export->tls_username = text;
        return -1;
    case '8':
        export->no_verify_peer = true;
        return -1;
    default:
        return usage(settings, "option %d is not handled", option);
    }
}

static int take(struct settings *settings, int option, const char *text)
{
    switch (option) {
    case 'r':
        return take_range(settings, text);
    case 'a':
        return take_size(settings, "at", text, 0, &settings->at);
    case 's':
        return take_sparse(settings, text);
    case 'z':
        return take_zero_block(settings, text);
    case 'b':
        return take_size(settings, "min-hole", text, 1, &settings->min_hole);
    case 'R':
        return take_size(settings, "rate", text, 1, &settings->rate);
    case 'o':
        return take_seconds(settings, "timeout", text, &settings->timeout_ms);
    case 'I':
        return take_seconds(settings, "idle-timeout", text, &settings->idle_ms);
    case 'M':
        return take_mode(settings, text);
    case 'V':
        return take_preserve(settings, text);
    case 'D':
        settings->device = true;
        return -1;
    case 'B':
        settings->shared = true;
        return -1;
    case 'K':
        settings->no_lock = true;
        return -1;
    case 'n':
        settings->dry_run = true;
        return -1;
    case 'g':
        settings->preallocate = true;
        return -1;
    case 'E':
        settings->skip_errors = strcmp(text, "skip") == 0;
        if (!settings->skip_errors && strcmp(text, "fail") != 0)
            return usage(settings, "--on-read-error: '%s' is neither fail nor skip", text);
        return -1;
    case 'e':
        settings->error_map = text;
        return -1;
    case 'y':
        settings->read_back = true;
        return -1;
    case 'J':
        return take_direct(settings, text);
    case 'Q':
        settings->backing_chain = true;
        return -1;
    case 'O':
        settings->only_changes = true;
        return -1;
    case 'F':
        settings->force = true;
        return -1;
    case 'p':
        return take_progress(settings, text);
    case 'P':
        return take_size(settings, "checkpoint", text, 65536, &settings->checkpoint);
    case 'm':
        if (strcmp(text, "none") == 0) {
            settings->max_size = 0;
            return -1;
        }
        return take_size(settings, "max-size", text, 1, &settings->max_size);
    case 'w':
        return take_number(settings, "rows", text, 1, 1000, &settings->rows);
    case 'i':
        settings->ignore_map = true;
        return -1;
    case 'k':
        settings->known_zero = true;
        return -1;
    case 'S':
        settings->sync = true;
        return -1;
    case 't':
    case 'T':
        settings->truncate = option == 't';
        return -1;
    case 'q':
        settings->quiet = true;
        return -1;
    case 'v':
        settings->verbose = true;
        return -1;
    case 'd':
        settings->explain = true;
        return -1;
    case 'j':
        settings->json = true;
        return -1;
    case 'l':
        settings->list = true;
        return -1;
    case 'H':
        settings->holes = true;
        return -1;
    case 'N':
        settings->check_list = true;
        return -1;
    case 'X':
        settings->status = true;
        return -1;
    case 'Y':
        settings->strict = true;
        return -1;
    case 'W':
        settings->warn = true;
        return -1;
    case 'G':
        settings->ignore_missing = true;
        return -1;
    case 'c':
        settings->connect = text;
        return -1;
    case 'L':
        settings->listen = text;
        return -1;
    case 'x':
        settings->command_line = text;
        return -1;
    case 'A':
        settings->answers = true;
        return -1;
    case 'u':
        settings->resume = true;
        return -1;
    case 'U':
        settings->restart = true;
        return -1;
    case 'C':
    case 'Z':
        settings->checksum = option == 'C';
        return -1;
    case '0':
        settings->no_identity = true;
        return -1;
    case 'f':
        settings->state = text;
        return -1;
    default:
        return take_export(settings, option, text);
    }
}

static const char *name_of(int letter)
{
    int i;

    for (i = 0; i < OPTIONS; i++)
        if (options[i].val == letter)
            return options[i].name;
    return "?";
}

int parse_options(struct settings *settings, int argc, char **argv, const char *allowed)
{
    struct option taken[OPTIONS + 1] = { 0 };
    char letters[8] = ":h";
    int option, count = 0, i;

    *settings = (struct settings){
        .command = settings->command,
        .at = -1,
        .truncate = -1,
        .rows = 1,
        .max_size = -1,
        .checksum = -1,
        .mode = -1,
    };
    for (i = 0; i < OPTIONS; i++)
        if (options[i].val == 'h' || strchr(allowed, options[i].val) != NULL) {
            taken[count] = options[i];
            taken[count++].val += LONG;
        }
    if (strchr(allowed, 'n') != NULL)
        strcat(letters, "n");
    if (strchr(allowed, 'v') != NULL)
        strcat(letters, "v");
    opterr = 0;
    while ((option = getopt_long(argc, argv, letters, taken, NULL)) != -1) {
        int r;

        if (option == 'h' || option == 'h' + LONG)
            return EXIT_OK;
        if (option == ':')
            return usage(settings, "--%s needs a value", name_of(optopt - LONG));
        if (option == '?' && optopt > LONG)
            return usage(settings, "--%s takes no value", name_of(optopt - LONG));
        if (option == '?' && optopt != 0)
            return usage(settings, "unknown option '-%c'", optopt);
        if (option == '?')
            return usage(settings, "unknown option '%s'", argv[optind - 1]);
        r = take(settings, option > LONG ? option - LONG : option, optarg);
        if (r >= 0)
            return r;
    }
    if (settings->progress == PROGRESS_JSON)
        report_as_json();
    if (settings->quiet && settings->progress == PROGRESS_BAR)
        settings->progress = PROGRESS_NONE;
    return -1;
}
