# SPDX-License-Identifier: MIT OR Apache-2.0
# The gate runs a few of these.
N ?= 200

.PHONY: resume-trials
resume-trials: private ## kill the command's two ends N (200) times, resume, compare
	c-tests/tool/resume-trials $(private)/tools/sparsestream $(N)

.PHONY: tls-valgrind
tls-valgrind: private ## run the two programs of the TLS example under valgrind, with all that their test has
	examples/test-tls $(private)/examples/tls-daemon $(private)/examples/tls-client valgrind
