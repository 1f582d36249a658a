#!/bin/sh
# Prints the commands of the README that begin with make, each once: those of
# its console blocks, and `make build`, which stands in a sentence. Sorted, they
# come in the order of what they need: build and deb with no package installed,
# then demo, then test.
set -eu
cd "$(dirname "$0")/../.."
commands=$(sed -nE -e '/^```console/,/^```$/s/^# (make( .*)?)$/\1/p' -e 's/.*`(make build)`.*/\1/p' README.md | sort -u)
for target in build deb demo test; do
	case "$commands" in
	*"make $target"*) ;;
	*)
		echo "README.md has no \`make $target\` any more: see what testbed/fresh/readme.sh looks for" >&2
		exit 1
		;;
	esac
done
echo "$commands"
