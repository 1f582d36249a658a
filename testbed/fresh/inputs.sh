#!/bin/sh
# Prints the hash of what decides whether a fresh machine can run the README's
# commands, to be compared with the one that .ci/fresh-passed has of the last
# run that passed.
set -eu
export LC_ALL=C
cd "$(dirname "$0")/../.."
{
	git ls-files --cached --others --exclude-standard -- Makefile go.mod \
		testbed/setup.sh testbed/demo.sh testbed/test.sh testbed/gateway testbed/fresh |
		sort -u | xargs sha256sum
	sh testbed/fresh/readme.sh
} | sha256sum | cut -d' ' -f1
