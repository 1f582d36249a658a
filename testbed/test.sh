#!/bin/sh
# Runs every test and says how many were skipped, and why.
set -eu
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
go test -timeout 20m "$@" -json ./... >"$log" || status=$?
go run ./testbed/report <"$log"
exit $status
