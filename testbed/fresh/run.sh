#!/bin/bash
# Runs the README's commands in a minimal Debian 12 that has Go, git and make:
# what they need beyond that and do not install themselves is missing there.
#
# The root is made by mmdebstrap, once, and unpacked anew for each run. It has
# namespaces and control groups of its own (enter.sh); the network is this
# machine's, and so are Go and the caches of modules and builds. The gateway's
# image is made anew in it. What is kept is in the folder "fresh" of the
# testbed's cache: the root, downloaded packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
	echo "A root of its own takes root to make. Run: sudo make fresh" >&2
	exit 1
fi
sh testbed/setup.sh fresh
inputs=$(sh testbed/fresh/inputs.sh)
testbed_cache=${EDGEFN_TESTBED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgefn-testbed}
cache=$testbed_cache/fresh
mkdir -p "$cache/debs/partial" "$cache/gateway"
exec 9>"$cache/lock"
flock 9

work=$cache/work group=edgefn-fresh inside=""
# groups prints the folders of the run's control groups, the deepest first.
groups() {
	for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
		[ ! -d "$hierarchy/$group" ] || find "$hierarchy/$group" -depth -type d
	done
}
# remove removes what a run leaves behind, this one or one that was killed. A
# control group can be removed when the last process in it is gone.
remove() {
	for _ in $(seq 100); do
		groups | xargs -r rmdir 2>/dev/null && break
		sleep 0.1
	done
	rm -rf --one-file-system "$work"
}
cleanup() {
	status=$?
	trap '' INT TERM
	trap - EXIT
	# All processes of the root end with the one that made its namespaces.
	if [ -n "$inside" ]; then
		kill -KILL "$inside" 2>/dev/null || true
		wait "$inside" 2>/dev/null || true
	fi
	remove
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
remove
rm -rf "$cache"/gateway/image-*

# apt in the root gets Debian from where this machine gets it, in the same way.
# What is about the index of a software centre is not wanted.
mkdir -p "$work/root"
apt-config dump Acquire | grep -v IndexTargets >"$work/apt.conf"
apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sort -u | while read -r label uri; do
	case "$label" in
	Debian) printf 'deb %s bookworm main\ndeb %s bookworm-updates main\n' "$uri" "$uri" ;;
	Debian-Security) echo "deb $uri bookworm-security main" ;;
	esac
done >"$work/sources.list"
if [ ! -s "$work/sources.list" ]; then
	echo "apt on this machine knows no Debian archive: its sources name none, or \`apt-get update\` was never run" >&2
	exit 1
fi
# ca-certificates is how git and Go reach anything.
packages=git,make,ca-certificates
base=$cache/root-$(cat "$work/sources.list" "$work/apt.conf" - <<<"$packages" | sha256sum | cut -c1-12).tar
if [ ! -e "$base" ]; then
	echo "making the root, once: $base"
	rm -f "$cache"/root-*.tar
	mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt="$work/apt.conf" \
		bookworm "$work/base.tar" "$work/sources.list"
	mv "$work/base.tar" "$base"
fi
tar -xf "$base" -C "$work/root"

# The machine's way out: names, authorities, and the files that settings name.
cp /etc/resolv.conf /etc/hosts "$work/root/etc/"
mkdir -p "$work/root/usr/local/share/ca-certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$work/root/usr/local/share/ca-certificates/" \; 2>/dev/null || true
settings=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
	GOPROXY GONOPROXY GOSUMDB GONOSUMDB GOPRIVATE GOINSECURE \
	PIP_INDEX_URL npm_config_registry \
	SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS; do
	[ -z "${!name:-}" ] || settings+=("$name=${!name}")
done
for file in $(printf '%s\n' "${settings[@]#*=}"; grep -o '"/[^"]*"' "$work/apt.conf" | tr -d '"'); do
	[ ! -f "$file" ] || [ -e "$work/root$file" ] || cp -L --parents "$file" "$work/root"
done

# A clone, with what is not committed yet.
git clone -q --no-checkout . "$work/root/root/edgefn"
git ls-files -z --cached --others --exclude-standard |
	tar --create --null --ignore-failed-read --files-from=- 2>/dev/null |
	tar --extract --no-same-owner -C "$work/root/root/edgefn"
git -C "$work/root/root/edgefn" reset -q

# share DIR AT: a folder of this machine that the root has as well.
binds=()
share() { mkdir -p "$1" "$work/root$2" && binds+=("$1:$2"); }
share "$(go env GOROOT)" /usr/local/go
share "$(go env GOMODCACHE)" /root/go/pkg/mod
share "$(go env GOCACHE)" /root/.cache/go-build
share "$cache/debs" /var/cache/apt/archives
share "$cache/gateway" /root/.cache/edgefn-testbed

(
	for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
		[ -e "$hierarchy/cgroup.procs" ] || continue
		mkdir "$hierarchy/$group"
		for file in cpuset.cpus cpuset.mems; do # version 1 has them empty at first
			[ ! -e "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$hierarchy/$group/$file"
		done
		echo "$BASHPID" >"$hierarchy/$group/cgroup.procs"
	done
	exec 9>&- setpriv --pdeathsig KILL unshare --mount --pid --ipc --uts --cgroup --kill-child \
		bash testbed/fresh/enter.sh "$work/root" "${binds[@]}" -- "${settings[@]}"
) &
inside=$!
wait "$inside"
inside=""

# This machine is spared making the same image.
for image in "$cache"/gateway/image-*; do
	to=$testbed_cache/${image##*/}
	flock "$testbed_cache/lock" sh -c '[ -e "$2" ] || mv "$1" "$2"' sh "$image" "$to"
done
echo "$inputs" >.ci/fresh-passed
echo "passed, which .ci/fresh-passed says: commit it"
