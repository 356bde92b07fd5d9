# SPDX-License-Identifier: MIT OR Apache-2.0
# The gate runs a short form, `meson test --suite soak`; see docs/stress.md.
SOAK_SECONDS ?= 60

.PHONY: soak
soak: check-deps private ## SOAK_SECONDS (60) of 256 clients that misbehave against one daemon
	SOAK_SECONDS=$(SOAK_SECONDS) soak/run $(private)
