#!/bin/sh
# Runs every test, tells of each package when it is done, and in the end how
# many were skipped, and why. The faults of TestSettled and what runs on the
# emulated gateway come last, each by itself: they need both hands of a small
# machine. TestGateway runs there what needs its kernel, TestKernelLines.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go build -o "$dir/report" ./testbed/report
{
	go test -timeout 30m "$@" -json -skip '^(TestGateway|TestKernelLines|TestSettled)$' ./... || touch "$dir/failed"
	go test -timeout 30m "$@" -json -run '^TestSettled$' ./testbed/settled || touch "$dir/failed"
	go test -timeout 30m "$@" -json -run '^TestGateway$' ./testbed || touch "$dir/failed"
} | "$dir/report"
[ ! -e "$dir/failed" ]
