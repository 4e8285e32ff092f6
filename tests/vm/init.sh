#!/bin/sh
# The first process of the virtual machine: real mirrors of the kernel with logs kept by dmu. Each
# finding is a line "ok WHAT" or "not ok WHAT"; the last line is "done".
export PATH=/bin HOME=/tmp DENO_DIR=/tmp/deno DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
for module in dax dm-mod dm-log dm-region-hash dm-mirror dm-log-userspace; do
  for file in /modules/$module.ko*; do [ -f "$file" ] && insmod "$file"; done
done
insmod /modules/brd.ko* rd_nr=4 rd_size=32768
echo "booted"

dmu() { deno run -A --no-check /dmu.js "$@"; }

check() { # WHAT COMMAND…
  what=$1
  shift
  if "$@"; then echo "ok $what"; else echo "not ok $what"; fi
}

serve() {
  # Not through the function: that would be another process than the one to be killed.
  deno run -A --no-check /dmu.js log serve --state /tmp/logs >/tmp/out 2>&1 &
  daemon=$!
  tries=0
  until grep -q ^ready /tmp/out; do
    tries=$((tries + 1))
    [ $tries -gt 300 ] && { cat /tmp/out; break; }
    usleep 100000
  done
}

# Waits until a status line of a device has a text in it.
until_status() { # DEVICE TEXT
  tries=0
  until dmsetup status "$1" | grep -q "$2"; do
    tries=$((tries + 1))
    [ $tries -gt 300 ] && { dmsetup status "$1"; return 1; }
    usleep 100000
  done
}

make() { echo "$2" | dmsetup create "$1" --noudevsync && dmsetup mknodes "$1"; }
fill() { dd if=/dev/urandom of="/dev/mapper/$1" bs=1M count="$2" seek="$3" 2>/dev/null && sync; }
dirty_is() { dmu log show "$1" --json | grep -q "\"dirty\":$2,"; }

legs="2 /dev/ram0 0 /dev/ram1 0 1 handle_errors"
fill_ram() { dd if=/dev/urandom of="$1" bs=1M count=32 2>/dev/null; }
fill_ram /dev/ram0
serve
check "a mirror is made" make m1 "0 65536 mirror userspace 4 m1 disk m1 1024 $legs"
check "it is copied" until_status m1 "64/64 1 AA 3 disk /tmp/logs/m1 A"
check "it is written" fill m1 16 0
fill m1 10 20 &
writer=$!
kill -9 $daemon
serve
check "a write outlives its daemon" wait $writer
check "what it left is copied" until_status m1 64/64
check "it is suspended" dmsetup suspend m1
check "it is resumed" dmsetup resume m1
echo "0 65536 mirror userspace 5 m1 integrated_flush disk m1 1024 $legs" | dmsetup load m1
check "its table is swapped" dmsetup suspend m1
check "the new table is resumed" dmsetup resume m1
check "it is written with integrated flushes" fill m1 7 3
check "it is in sync" until_status m1 64/64
check "it is removed" dmsetup remove m1
check "the legs are equal" cmp /dev/ram0 /dev/ram1
check "its log is clean" dirty_is /tmp/logs/m1 0

check "a log on a device" make m2 "0 65536 mirror userspace 5 m2 disk /dev/ram2 1024 nosync $legs"
check "the kernel holds it" sh -c 'dmsetup deps m2 | grep -q "3 dependencies.*(1, 2)"'
check "a status line has its numbers" until_status m2 "64/64 1 AA 3 disk 1:2 A"
fill m2 3 0
check "it is removed" dmsetup remove m2
check "the kernel reads our log" make k1 "0 65536 mirror disk 2 /dev/ram2 1024 $legs"
check "and takes it for clean" until_status k1 "64/64 1 AA 3 disk 1:2 A"
fill k1 3 9
check "it is removed" dmsetup remove k1
check "we read the kernel's log" dirty_is /dev/ram2 0
check "and go on with it" make m3 "0 65536 mirror userspace 4 m3 disk /dev/ram2 1024 $legs"
check "which copies nothing" until_status m3 64/64
check "it is removed" dmsetup remove m3
check "the legs are equal again" cmp /dev/ram0 /dev/ram1
kill $daemon
check "the daemon ends" wait $daemon
echo "done"
poweroff -f
