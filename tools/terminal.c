/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The width of a terminal, and the line on it that the next line replaces. */

#include "tool.h"

#include <stdarg.h>
#include <sys/ioctl.h>

static bool bar_drawn;

int columns_of(FILE *file)
{
    struct winsize size;

    if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

void bar_draw(const char *format, ...)
{
    va_list arguments;

    fputs("\r\033[K", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    bar_drawn = true;
}

void bar_clear(void)
{
    if (bar_drawn)
        fputs("\r\033[K", stderr);
    bar_drawn = false;
}

bool bar_is_drawn(void)
{
    return bar_drawn;
}
