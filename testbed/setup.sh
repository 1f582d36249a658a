#!/bin/sh
# Installs what is missing from Debian's packages, and says what and why.
#   setup.sh demo   what the demonstration needs
#   setup.sh test   what the tests need as well
#   setup.sh fresh  what `make fresh` needs, which runs the others in a root of its own
set -eu

missing=""
need() { # need PROGRAM PACKAGE WHY
	for dir in /usr/bin /usr/sbin /usr/local/bin /usr/local/sbin; do
		[ -x "$dir/$1" ] && return 0
	done
	echo "missing: $1, from the package $2: $3" >&2
	case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}

if [ "${1:-demo}" = fresh ]; then
	need mmdebstrap mmdebstrap "makes the root of a fresh machine"
	need git git "clones this checkout into it"
else
	need containerd containerd "runs the sandboxes"
	need runc runc "makes their containers"
	need mosquitto_pub mosquitto-clients "an MQTT client that is not ours"
	need python3 python3 "the python runtime of the machine"
fi
if [ "${1:-demo}" = test ]; then
	need mosquitto mosquitto "a real broker that is not ours"
	need node nodejs "the node runtime of the machine"
	need npm npm "installs npm packages at build"
	need jq jq "reads what -o json prints"
	need ssh openssh-client "the way to a gateway"
	need sshd openssh-server "the gateway's end of that way"
	need qemu-system-aarch64 qemu-system-arm "the machine that the gateway is"
	need depmod kmod "the gateway's kernel modules"
	need mke2fs e2fsprogs "the gateway's disk"
	/usr/bin/python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
fi
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "run this as root, or install by hand:$missing" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "there is no apt-get here: install by hand:$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing:$missing" >&2
apt-get update -qq >&2
# A package's own daemon is not wanted: brokers and containerd are started by
# those who use them.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >&2
