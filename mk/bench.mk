# SPDX-License-Identifier: MIT OR Apache-2.0

BENCH_PACKAGES = $(BUILD_PACKAGES) e2fsprogs:mke2fs strace:strace

.PHONY: bench
bench: bench-deps build ## measure against the limit and the peers that are installed; writes docs/performance.md
	bench/run --library $(release) $(BENCH_OPTIONS)

.PHONY: bench-quick
bench-quick: bench-deps build ## a minute of it, that writes nothing to docs
	bench/run --quick --library $(release) $(BENCH_OPTIONS)

.PHONY: bench-guard
bench-guard: bench-deps build ## system calls, copies, instructions and memory against bench/guard.json
	bench/guard --library $(release)

.PHONY: bench-deps
bench-deps:
	@build-aux/install-deps $(BENCH_PACKAGES) --optional valgrind:valgrind

.PHONY: bench-digest
bench-digest: bench-deps build ## measure the digest beside b3sum, blksum and sha256sum; writes docs/digest.md
	bench/digest --library $(release) --write $(BENCH_OPTIONS)
