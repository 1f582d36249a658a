package doctor

import (
	"context"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Room that the data folder should have: the store's 256 MiB and some images;
// and below which nothing is written any more.
const (
	littleSpace = 512 << 20 // bytes
	noSpace     = 32 << 20
	fewInodes   = 2000
	noInodes    = 50
)

// slowFlush is how long a commit may wait for the disk; etcd, whose engine the
// store is, wants 10 ms, and a card that is well gives 5 to 30 ms.
const slowFlush = 100 * time.Millisecond

// dataDir is the data folder, or what there is of the path to it.
func (e *examination) dataDir() string {
	dir := path.Clean(e.cfg.DataDir)
	for dir != "/" && !e.exists(dir) {
		dir = path.Dir(dir)
	}
	return dir
}

// disk checks the room for what the node keeps.
func (e *examination) disk(context.Context) {
	const check = "disk"
	dir := e.dataDir()
	s, err := e.Space(dir)
	if err != nil {
		e.add(check, Failed, nil, "%v", err)
		return
	}
	clean := []string{"apt clean", "journalctl --vacuum-size=50M", "du -xh --max-depth=2 / | sort -h | tail   # what is large"}
	free := humanize.IBytes(s.FreeBytes) + " of " + humanize.IBytes(s.Bytes) + " are free at " + dir
	switch {
	case s.ReadOnly:
		e.add(check, Failed, []string{"dmesg | grep -iE 'mmc|ext4|i/o error'   # why: a card that fails is mounted so", "mount -o remount,rw $(stat -c %m " + dir + ")"}, "%s can only be read", dir)
	case s.FreeBytes < noSpace:
		e.add(check, Failed, clean, "is full: %s", free)
	case s.Inodes > 0 && s.FreeInodes < noInodes:
		e.add(check, Failed, clean, "is full: no more files can be made at %s", dir)
	case s.FreeBytes < littleSpace:
		e.add(check, Warning, clean, "is nearly full: %s", free)
	case s.Inodes > 0 && s.FreeInodes < fewInodes:
		e.add(check, Warning, clean, "is nearly full: %d more files can be made at %s", s.FreeInodes, dir)
	case s.Memory:
		e.add(check, Warning, []string{"# write a folder on a disk under data in the config"}, "%s is in memory: a reboot loses functions and state", dir)
	default:
		e.add(check, OK, nil, "%s", free)
	}
}

// flushes measures how long a commit waits for the disk.
func (e *examination) flushes(ctx context.Context) {
	const check = "disk latency"
	dir := e.dataDir()
	took, err := e.Flush(ctx, dir)
	if err != nil {
		e.add(check, Warning, []string{"# run this as root"}, "not measured: %v", err)
		return
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	median, most := took[len(took)/2], took[len(took)-1]
	if median > slowFlush {
		e.add(check, Warning, []string{"# use a card of class A1 or A2, or an SSD, and write its folder under data in the config"},
			"a small write to %s takes %v, and %v at most: an event that writes state waits for it", dir, median.Round(time.Millisecond), most.Round(time.Millisecond))
		return
	}
	e.add(check, OK, nil, "a small write to %s takes %v, and %v at most", dir, median.Round(10*time.Microsecond), most.Round(10*time.Microsecond))
}

// Of a sector in /sys/block/*/stat, whatever the disk's own are.
const sectorBytes = 512

// wornOut is the JEDEC eMMC device life time estimate of 90 to 100 per cent, and
// of more (JESD84-B51, EXT_CSD 268 and 269, in tenths).
const wornOut = 0x0a

// wear tells of cards that come to their end, where they tell, and of what was
// written to each since the machine started.
func (e *examination) wear(context.Context) {
	const check = "card"
	up, _ := strconv.ParseFloat(strings.SplitN(e.text("/proc/uptime"), " ", 2)[0], 64)
	for _, disk := range e.glob("/sys/block/mmcblk[0-9]") {
		name := path.Base(disk)
		for word := range strings.FieldsSeq(e.text(disk + "/device/life_time")) {
			tenths, err := strconv.ParseUint(strings.TrimPrefix(word, "0x"), 16, 8)
			if err == nil && tenths >= wornOut {
				e.add(check, Warning, []string{"# replace it soon; edgefn describe and edgefn state read what is worth keeping"}, "%s has lived %d to %d%% of its life", name, (tenths-1)*10, tenths*10)
				return
			}
		}
		fields := strings.Fields(e.text(disk + "/stat"))
		if len(fields) < 7 || up < 600 {
			continue
		}
		sectors, err := strconv.ParseUint(fields[6], 10, 64)
		if err != nil {
			continue
		}
		day := uint64(float64(sectors*sectorBytes) / up * 86400)
		e.add(check, OK, nil, "%s: %s a day are written since the machine started", name, humanize.IBytes(day))
	}
}

// secrets checks that only root reads what functions are trusted with.
func (e *examination) secrets(context.Context) {
	fi, err := fs.Stat(e.Root, strings.TrimPrefix(e.cfg.SecretsDir, "/"))
	if err == nil && fi.Mode().Perm()&0o077 != 0 {
		e.add("secrets", Warning, []string{"chmod 0700 " + e.cfg.SecretsDir}, "%s has mode %#o: others than root may read it", e.cfg.SecretsDir, fi.Mode().Perm())
	}
}

// firstYear is before any edgefn was built: a machine with no battery-backed
// clock starts at 1970, or where it was when it was last on.
const firstYear = 2025

// clock checks the time, which events carry and TLS and cron go by.
func (e *examination) clock(context.Context) {
	const check = "clock"
	fix := []string{"timedatectl set-ntp true", "timedatectl timesync-status   # or: chronyc sources"}
	if !e.hasTimeDaemon() {
		fix = append([]string{"apt install systemd-timesyncd"}, fix...)
	}
	if now := e.Now(); now.Year() < firstYear {
		e.add(check, Failed, append(fix, "# with no network, set it by hand: timedatectl set-time '2026-01-31 12:00:00'"), "says %s", now.UTC().Format(time.DateTime))
		return
	}
	ok, err := e.Synchronised()
	switch {
	case err != nil:
		e.add(check, Warning, nil, "%v", err)
	case !ok:
		e.add(check, Warning, fix, "is not synchronised: the times of events and of cron may be wrong")
	default:
		e.add(check, OK, nil, "is synchronised")
	}
}

func (e *examination) hasTimeDaemon() bool {
	return slices.ContainsFunc([]string{
		"/usr/lib/systemd/systemd-timesyncd", "/lib/systemd/systemd-timesyncd", "/usr/sbin/chronyd", "/usr/sbin/ntpd",
	}, e.exists)
}
