/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library loaded at run time, used and unloaded, in threads that end before
 * and after. The program is not linked with it; its path is the first argument.
 */
#include "files.h"
#include "harness.h"

#include <sparsestream.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct library {
    void *handle;
    __typeof__(&sparsestream_version) version;
    __typeof__(&sparsestream_last_error) last_error;
    __typeof__(&sparsestream_in_data) in_data;
    __typeof__(&sparsestream_source_from_fd) source_from_fd;
    __typeof__(&sparsestream_source_free) source_free;
    __typeof__(&sparsestream_sink_to_fd) sink_to_fd;
    __typeof__(&sparsestream_sink_free) sink_free;
    __typeof__(&sparsestream_transfer_new) transfer_new;
    __typeof__(&sparsestream_transfer_run) transfer_run;
    __typeof__(&sparsestream_transfer_free) transfer_free;
};

static void load(struct library *library)
{
    const char *path = harness_argument(0);

    if (path == NULL)
        skip("the library's path is not given");
    library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library->handle == NULL) {
        harness_fail(__FILE__, __LINE__, "dlopen: %s", dlerror());
        exit(1);
    }
#define FIND(name)                                                              \
    do {                                                                        \
        void *symbol_ = dlsym(library->handle, "sparsestream_" #name);          \
        REQUIRE(symbol_ != NULL);                                               \
        memcpy(&library->name, &symbol_, sizeof symbol_);                       \
    } while (0)
    FIND(version);
    FIND(last_error);
    FIND(in_data);
    FIND(source_from_fd);
    FIND(source_free);
    FIND(sink_to_fd);
    FIND(sink_free);
    FIND(transfer_new);
    FIND(transfer_run);
    FIND(transfer_free);
#undef FIND
}

/* A whole transfer and a failure, so that whatever a thread has of its own is there. */
static void use(const struct library *library, int in, int out)
{
    struct sparsestream_source *source = NULL;
    struct sparsestream_sink *sink = NULL;
    struct sparsestream_transfer *transfer = NULL;
    int64_t length;
    bool in_data;

    CHECK_STR(library->version(), SPARSESTREAM_VERSION);
    CHECK_INT(library->in_data(-1, &in_data, &length), ==, -EBADF);
    CHECK_CONTAINS(library->last_error(), strerror(EBADF));
    CHECK_INT(library->source_from_fd(in, NULL, &source), ==, 0);
    CHECK_INT(library->sink_to_fd(out, NULL, &sink), ==, 0);
    CHECK_INT(library->transfer_new(source, sink, NULL, &transfer), ==, 0);
    CHECK_INT(library->transfer_run(transfer, 0), ==, 0);
    library->transfer_free(transfer);
    library->source_free(source);
    library->sink_free(sink);
}

static int in, out;

static void open_files(void)
{
    in = file_new("in");
    out = file_new("out");
    file_fill(in, 0, 100000, 1);
    file_resize(in, 1000000);
}

static void close_files(void)
{
    CHECK_INT(file_differs(in, 0, out, 0, 1000000), ==, -1);
    close(in);
    close(out);
}

static void loaded_used_and_unloaded_again_and_again(void)
{
    struct library loaded;

    open_files();
    for (int i = 0; i < 10; i++) {
        load(&loaded);
        use(&loaded, in, out);
        CHECK_INT(dlclose(loaded.handle), ==, 0);
    }
    close_files();
}

static void *load_use_unload(void *opaque)
{
    struct library loaded;

    (void) opaque;
    load(&loaded);
    use(&loaded, in, out);
    CHECK_INT(dlclose(loaded.handle), ==, 0);
    return NULL;
}

/* The thread ends after the library was unloaded in it. */
static void a_thread_that_outlives_the_library(void)
{
    open_files();
    for (int i = 0; i < 20; i++) {
        pthread_t thread;

        REQUIRE((errno = pthread_create(&thread, NULL, load_use_unload, NULL)) == 0);
        REQUIRE((errno = pthread_join(thread, NULL)) == 0);
    }
    close_files();
}

struct user {
    struct library loaded;
    sem_t used, unloaded;
};

static void *use_and_wait(void *opaque)
{
    struct user *user = opaque;

    use(&user->loaded, in, out);
    sem_post(&user->used);
    while (sem_wait(&user->unloaded) != 0)
        ;
    return NULL;
}

/* Another thread unloads it while this one, which has used it, still lives. */
static void unloaded_by_another_thread(void)
{
    open_files();
    for (int i = 0; i < 20; i++) {
        struct user user;
        pthread_t thread;

        REQUIRE(sem_init(&user.used, 0, 0) == 0 && sem_init(&user.unloaded, 0, 0) == 0);
        load(&user.loaded);
        REQUIRE((errno = pthread_create(&thread, NULL, use_and_wait, &user)) == 0);
        while (sem_wait(&user.used) != 0)
            ;
        CHECK_INT(dlclose(user.loaded.handle), ==, 0);
        sem_post(&user.unloaded);
        REQUIRE((errno = pthread_join(thread, NULL)) == 0);
        sem_destroy(&user.used);
        sem_destroy(&user.unloaded);
    }
    close_files();
}

TESTS(
    CASE(loaded_used_and_unloaded_again_and_again),
    CASE(a_thread_that_outlives_the_library),
    CASE(unloaded_by_another_thread),
)
