#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a test program and shows its output only if it fails.
# Usage: scripts/quietly.sh PROGRAM [ARGUMENT...]
output=$("$@" 2>&1) && status=0 || status=$?
if ((status != 0)); then printf '%s\n' "$output" | tail -n 80; fi
printf '%s: %s\n' "$1" "$( ((status == 0)) && echo passed || echo "failed ($status)")"
# 255 would stop xargs at once; the others finish.
exit $((status != 0))
