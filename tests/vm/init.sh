#!/bin/sh
# The first process of the virtual machine: real mirrors of the kernel with logs kept by dmu. The kernel's
# command line names the file of checks to be run. Each finding is a line "ok WHAT" or "not ok WHAT"; the
# last line is "done".
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp DENO_DIR=/tmp/deno DENO_NO_UPDATE_CHECK=1 NO_COLOR=1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
while read -r module; do
  for file in /modules/"$module".ko*; do [ -f "$file" ] && insmod "$file"; done
done </modules/order
insmod /modules/brd.ko* rd_nr=6 rd_size=32768
echo "booted"

dmu() { deno run -A --no-check /dmu.js "$@"; }

check() { # WHAT COMMAND…
  what=$1
  shift
  if "$@"; then echo "ok $what"; else
    echo "not ok $what"
    tail -n 20 /tmp/out
  fi
}

# Waits until a command succeeds.
until_true() { # COMMAND…
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ $tries -gt 3000 ] && return 1
    usleep 100000
  done
}

serve() {
  # Not through the function: that would be another process than the one to be killed.
  deno run -A --no-check /dmu.js log serve --trace --state /tmp/logs >/tmp/out 2>&1 &
  daemon=$!
  until_true grep -q ^ready /tmp/out || cat /tmp/out
}

# The process is gone, and its socket too: who asks now finds nobody.
lose() {
  kill -9 "$daemon"
  wait "$daemon" 2>/dev/null
}

# Ends the daemon in the middle of writes, at a moment when its log on the medium has marks: $left of them.
lose_while_marked() { # PLACE
  for try in 1 2 3 4 5 6 7 8 9 10; do
    until_true has_written $(($(cat /tmp/written) + 5))
    lose
    left=$(dirty_in "$1")
    [ "$left" -gt 0 ] && return 0
    serve
  done
  return 1
}

# Requests of a type that the daemon has heard since it started, those of one log.
heard() { grep -c "seq [0-9]* $1 $2/" /tmp/out; }
heard_some() { [ "$(heard "$1" "$2")" -gt 0 ]; }
heard_none() { [ "$(heard "$1" "$2")" = 0 ]; }
heard_exactly() { [ "$(heard "$1" "$2")" = "$3" ] || { heard "$1" "$2"; false; }; }

status_has() { dmsetup status "$1" | grep -q "$2"; }
until_status() { until_true status_has "$1" "$2" || { dmsetup status "$1"; false; }; }

make() { echo "$2" | dmsetup create "$1" --noudevsync && dmsetup mknodes "$1"; }
reload() { echo "$2" | dmsetup load "$1" && dmsetup suspend "$1" && dmsetup resume "$1"; }
remake() { dmsetup suspend "$1" && dmsetup resume "$1"; }
remove() { dmsetup remove --noudevsync "$1"; }
# Bytes that nobody has had before.
noises=0
noise() { # DEVICE FIRST_MIB COUNT_MIB
  noises=$((noises + 1))
  yes "$(printf '%d %4000s' $noises x)" | dd of="$1" bs=1M seek="$2" count="$3" iflag=fullblock conv=notrunc,fsync 2>/dev/null
}
same() { [ "$(md5sum <"$1")" = "$(md5sum <"$2")" ]; }
# One block of 4 KiB at a time, each acknowledged before the next one; /tmp/written has how many.
keep_writing() { # DEVICE FIRST_BLOCK STEP COUNT BLOCKS
  count=0
  echo 0 >/tmp/written
  while [ $count -lt "$4" ]; do
    block=$((($2 + count * $3) % $5))
    dd if=/dev/urandom of="$1" bs=4096 seek=$block count=1 oflag=direct conv=notrunc 2>/dev/null || return 1
    count=$((count + 1))
    echo $count >/tmp/written.new && mv /tmp/written.new /tmp/written
  done
}
has_written() { [ "$(cat /tmp/written 2>/dev/null || echo 0)" -ge "$1" ]; }
# The same in the background; what an earlier writer has left must not stand for this one.
begin_writing() { # DEVICE FIRST_BLOCK STEP COUNT BLOCKS
  rm -f /tmp/writer /tmp/written
  (keep_writing "$@"; echo $? >/tmp/writer) &
}
all_written() { until_true grep -qsx 0 /tmp/writer; }
# How many regions of a log are marked; the bitmap of 8 bytes and more is from byte 1024 on.
dirty_in() { # PLACE [REGIONS]
  dd if="$1" bs=4096 count=1 2>/dev/null | od -An -v -tu1 -w1 -j 1024 -N $((${2:-64} / 8)) |
    awk '{ for (bits = 255 - $1; bits > 0; bits = int(bits / 2)) dirty += bits % 2 } END { print dirty + 0 }'
}
shown_dirty() { [ "$(dmu log show "$1" --json | sed 's/.*"dirty":\([0-9]*\),.*/\1/')" = "$2" ]; }
regions_are() { [ "$(dmu log dump "$1")" = "$2" ] || { dmu log dump "$1"; false; }; }
# One region of 512 KiB of two devices that nobody has open.
same_region() { # DEVICE DEVICE REGION
  for each in "$1" "$2"; do
    dd if="$each" bs=512K skip="$3" count=1 iflag=direct 2>/dev/null | md5sum
  done | uniq | wc -l | grep -qx 1
}

# The end: a machine that stops at once takes with it what its console has not sent, so that is waited for.
say_done() {
  echo "done"
  stty -echo </dev/console
}

parameter() { sed -n "s/.*dmu\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
profile=$(parameter profile)
long() { [ "$profile" = long ]; }
legs="2 /dev/ram0 0 /dev/ram1 0 1 handle_errors"
. "/checks/$(parameter checks).sh"
say_done
poweroff -f
