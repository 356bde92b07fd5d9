# SPDX-License-Identifier: MIT OR Apache-2.0
# The gate runs a few of these.
N ?= 200

.PHONY: resume-trials
resume-trials: private ## kill the command's two ends N (200) times, resume, compare
	c-tests/tool/resume-trials $(private)/tools/sparsestream $(N)
