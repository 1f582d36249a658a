#!/bin/sh
# Runs every test, tells of each package when it is done, and in the end how
# many were skipped, and why. What runs on the emulated gateway comes last, by
# itself: it needs both hands of a small machine. TestGateway runs there what
# needs its kernel, TestKernelLines.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -o "$dir/report" ./testbed/report
{
	go test -timeout 30m "$@" -json -skip '^(TestGateway|TestKernelLines)$' ./... || touch "$dir/failed"
	go test -timeout 30m "$@" -json -run '^TestGateway$' ./testbed || touch "$dir/failed"
} | "$dir/report"
[ ! -e "$dir/failed" ]
