#!/bin/sh
# The first boot of a new image, as its init: configures what was unpacked, and
# makes of it a gateway as it comes out of its box. Powers off at the end.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
off() {
	sync
	echo o >/proc/sysrq-trigger
	sleep 60
}
trap off EXIT

mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/lock /dev/pts
mount -t devpts devpts /dev/pts

# Services start when a real init is there.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# The one host key is the run's own: three would take a minute to make.
mkdir -p /etc/ssh/sshd_config.d
echo "HostKey /etc/ssh/ssh_host_ed25519_key" >/etc/ssh/sshd_config.d/gateway.conf

# What packages do before they are unpacked, first installations all; the
# helper looks after the files of older versions.
mkdir /tmp/bin
ln -s /bin/true /tmp/bin/dpkg-maintscript-helper
for script in /install/preinst/*; do
	name=${script##*/}
	DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$name PATH=/tmp/bin:$PATH "$script" install
done
dpkg --force-unsafe-io --force-depends --configure -a
dpkg --audit

echo gateway >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 gateway\n::1 localhost\n' >/etc/hosts
echo '/dev/vda / ext4 noatime 0 0' >/etc/fstab
cat >/etc/systemd/network/gateway.network <<-'NETWORK'
	[Match]
	Type=ether
	[Network]
	Address=10.0.2.15/24
NETWORK
systemctl enable systemd-networkd ssh
systemctl disable systemd-networkd-wait-online
systemctl set-default multi-user

# Every program that starts is translated anew, which makes a boot long. What
# nobody here waits for is left out: what a gateway does in the night, for
# people at its screen, once in a system's life, or for hardware that this one
# does not have. Of the hardware that was there before udev, only disks and
# networks are made known again; what comes later is as usual.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap fstrim.timer \
	systemd-tmpfiles-clean.timer getty.target systemd-logind systemd-update-utmp systemd-update-utmp-runlevel \
	systemd-hwdb-update ldconfig systemd-journal-catalog-update systemd-sysusers systemd-firstboot \
	systemd-machine-id-commit systemd-update-done systemd-boot-system-token systemd-pstore systemd-pcrphase \
	systemd-pcrphase-sysinit systemd-random-seed systemd-binfmt proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
	sys-fs-fuse-connections.mount kmod-static-nodes modprobe@drm modprobe@efi_pstore modprobe@dm_mod modprobe@loop
mkdir -p /etc/systemd/system/systemd-udev-trigger.service.d
cat >/etc/systemd/system/systemd-udev-trigger.service.d/gateway.conf <<-'TRIGGER'
	[Service]
	ExecStart=
	ExecStart=udevadm trigger --action=add --subsystem-match=block --subsystem-match=net
TRIGGER
# A search of the 1-wire bus is some thousand messages of the emulated adapter.
echo 'options wire timeout=60' >/etc/modprobe.d/gateway.conf

echo 'deb [trusted=yes] file:/srv/debian ./' >/etc/apt/sources.list
apt-get update

rm -f /usr/sbin/policy-rc.d /etc/ssh/ssh_host_*
rm -rf /install /var/log/*.log
fstrim / || true
echo "the gateway is configured"
