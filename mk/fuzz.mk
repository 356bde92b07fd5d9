# SPDX-License-Identifier: MIT OR Apache-2.0
# The gate runs the short form, a few seconds a target.
FUZZ_SECONDS ?= 600

.PHONY: fuzz
fuzz: ## fuzz each target for FUZZ_SECONDS (600)
	build-aux/install-deps g++:c++
	-! command -v rustup >/dev/null || rustup component add llvm-tools
	fuzz/run $(FUZZ_SECONDS)
