/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* See bridge.h. */

#include "bridge.h"

#include "tool.h"

#include <dlfcn.h>

void *bridge_load(const char *name, const struct bridge_file *file)
{
    /* The bridge was linked with -z now, so all its own symbols are bound here. Those between the libraries that it needs,
     * thousands of which are never used, are not. */
    void *loaded = dlopen(file->library, RTLD_LAZY | RTLD_LOCAL);

    /* The reason may be about another file, which the bridge needs. */
    if (loaded == NULL)
        fail(EXIT_LOCAL, "%s: the bridge to %s, %s, cannot be loaded: %s (install %s on Debian, %s on Fedora)", name,
             file->kind, file->library, dlerror(), file->debian, file->fedora);
    return loaded;
}
