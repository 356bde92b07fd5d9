// SPDX-License-Identifier: MIT OR Apache-2.0
// A C++ program: handles owned by std::unique_ptr, errors as exceptions.
#include <cerrno>
#include <cstdio>
#include <iostream>
#include <memory>
#include <sparsestream.h>
#include <system_error>
#include <unistd.h>

namespace {

struct Free {
    void operator()(sparsestream_source *source) const { sparsestream_source_free(source); }
    void operator()(sparsestream_sink *sink) const { sparsestream_sink_free(sink); }
    void operator()(sparsestream_transfer *transfer) const { sparsestream_transfer_free(transfer); }
};
template <typename Handle> using Owned = std::unique_ptr<Handle, Free>;

struct Close {
    void operator()(std::FILE *file) const { std::fclose(file); }
};

void check(int code)
{
    if (code < 0)
        throw std::system_error(-code, std::generic_category(), sparsestream_last_error());
}

void copy(int from, int to)
{
    sparsestream_source *made_source = nullptr;
    check(sparsestream_source_from_fd(from, nullptr, &made_source));
    const Owned<sparsestream_source> source(made_source);
    sparsestream_sink *made_sink = nullptr;
    check(sparsestream_sink_to_fd(to, nullptr, &made_sink));
    const Owned<sparsestream_sink> sink(made_sink);

    sparsestream_transfer_options options {};
    options.size = sizeof options;
    options.sparse = SPARSESTREAM_SPARSE_REQUIRED;
    options.progress = [](void *seen, const sparsestream_stats *stats) {
        *static_cast<long long *>(seen) = stats->position;
        return 0;
    };
    long long seen = 0;
    options.opaque = &seen;
    sparsestream_transfer *made_transfer = nullptr;
    check(sparsestream_transfer_new(source.get(), sink.get(), &options, &made_transfer));
    const Owned<sparsestream_transfer> transfer(made_transfer);
    check(sparsestream_transfer_run(transfer.get(), 0));
    if (seen != 1 << 20)
        throw std::runtime_error("progress was not reported to the end");
}

}

int main()
{
    static_assert(SPARSESTREAM_CHECK_VERSION(0, 1, 0));
    const std::unique_ptr<std::FILE, Close> from(std::tmpfile()), to(std::tmpfile());
    try {
        if (!from || !to || pwrite(fileno(from.get()), "data", 4, 0) != 4 || ftruncate(fileno(from.get()), 1 << 20) != 0)
            throw std::system_error(errno, std::generic_category(), "a temporary file");
        copy(fileno(from.get()), fileno(to.get()));
        check(sparsestream_version_number() == SPARSESTREAM_VERSION_NUMBER ? 0 : -1);
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
    std::cout << sparsestream_version() << '\n';
}
