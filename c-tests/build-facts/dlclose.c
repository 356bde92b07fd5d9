/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * dlclose LIBRARY: threads load the library, use it, unload it, and end.
 * What Rust keeps for a thread is destroyed at the thread's end, when the
 * library's code must still be there: it stays loaded after its last dlclose.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 16 };

static const char *library;

/* What went wrong, or NULL. */
static void *load_use_unload(void *unused)
{
    (void)unused;
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return "dlopen failed";

    int (*holes_supported)(int) = NULL;
    const char *(*last_error)(void) = NULL;
    *(void **)&holes_supported = dlsym(handle, "sparsestream_holes_supported");
    *(void **)&last_error = dlsym(handle, "sparsestream_last_error");
    if (holes_supported == NULL || last_error == NULL)
        return "a symbol is missing";
    if (dlsym(handle, "rust_eh_personality") != NULL)
        return "Rust's runtime is exported";

    /* A failure makes a message, which is the thread's own. */
    if (holes_supported(-1) != -EBADF)
        return "a bad descriptor was not refused";
    if (strlen(last_error()) == 0)
        return "no message";
    if (dlclose(handle) != 0)
        return "dlclose failed";
    return NULL;
}

static const char *round_of_threads(void)
{
    pthread_t threads[THREADS];
    const char *failure = NULL;
    int started = 0;
    while (started < THREADS && pthread_create(&threads[started], NULL, load_use_unload, NULL) == 0)
        started++;
    if (started < THREADS)
        failure = "pthread_create failed";
    for (int i = 0; i < started; i++) {
        void *said = NULL;
        if (pthread_join(threads[i], &said) != 0)
            failure = "pthread_join failed";
        else if (said != NULL)
            failure = said;
    }
    return failure;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: dlclose LIBRARY\n");
        return 2;
    }
    library = argv[1];

    const char *failure = NULL;
    for (int round = 0; round < ROUNDS && failure == NULL; round++)
        failure = round_of_threads();
    printf("1..2\n%s 1 - threads load, use and unload the library, and end\n",
           failure == NULL ? "ok" : "not ok");
    if (failure != NULL)
        printf("# %s\n", failure);

    const bool loaded = dlopen(library, RTLD_NOW | RTLD_NOLOAD) != NULL;
    printf("%s 2 - the library is still loaded\n", loaded ? "ok" : "not ok");
    return failure != NULL || !loaded;
}
