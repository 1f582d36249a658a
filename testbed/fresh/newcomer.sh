#!/bin/bash
# Runs, in a fresh root, what the README says.
set -euo pipefail
cd "$(dirname "$0")/../.."
update-ca-certificates >/dev/null 2>&1
out=$(mktemp)
sh testbed/fresh/readme.sh | while read -r command; do
	printf '\n#### %s\n' "$command"
	start=$SECONDS
	# The builds' cache is the machine's, which may have results of tests.
	TESTFLAGS=-count=1 sh -c "$command" </dev/null 2>&1 | tee "$out"
	printf '#### %s: %d s\n' "$command" $((SECONDS - start))
	# A test that needs a package and skips without is not a pass. What the
	# machine's kernel has not, no package brings.
	if grep '^skipped:' "$out" | grep -vE 'kernel|unified hierarchy'; then
		echo "these were skipped here: testbed/setup.sh should install what they need" >&2
		exit 1
	fi
done
apt-get autoclean -qq # of packages that a later version has replaced
