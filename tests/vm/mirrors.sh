# Mirrors on RAM disks: 64 regions of 512 KiB each.
noise /dev/ram0 0 32
serve

# A mirror's life, and the loss of its daemon under writes.
check "a mirror is made" make m1 "0 65536 mirror userspace 4 m1 disk m1 1024 $legs"
check "it is copied" until_status m1 "64/64 1 AA 3 disk /tmp/logs/m1 A"
check "it is written" noise /dev/mapper/m1 0 8
begin_writing /dev/mapper/m1 3000 149 120 8192
check "regions are marked when the daemon is lost" lose_while_marked /tmp/logs/m1
stopped=$(cat /tmp/written)
serve
check "a write waits for the next daemon and goes on" until_true has_written $((stopped + 20))
check "what was marked counts as out of sync" status_has m1 " $((64 - left))/64 1 AA 3"
check "all writes succeed" all_written
# The kernel's module asks for no work once it was told that all regions are in sync, until it is resumed.
check "the kernel asks for no region to copy" heard_none GET_RESYNC_WORK m1
check "the mirror is suspended and resumed" remake m1
check "what was marked is copied then" until_status m1 64/64
check "and nothing else" heard_exactly SET_REGION_SYNC m1 "$left"

# Tables: other flushes, and growth.
check "its table is swapped" reload m1 \
  "0 65536 mirror userspace 5 m1 integrated_flush disk m1 1024 $legs"
check "it is written with integrated flushes" noise /dev/mapper/m1 7 3
check "flushes carry regions" grep -q "FLUSH m1/0x[0-9a-f]* [1-9][0-9]* bytes$" /tmp/out
check "it is in sync" until_status m1 64/64
check "it is removed" remove m1
check "the legs are equal" same /dev/ram0 /dev/ram1
check "its log is clean" shown_dirty /tmp/logs/m1 0
noise /dev/ram1 16 16
check "a mirror is made of the first half" make g1 "0 32768 mirror userspace 4 m1 disk m1 1024 $legs"
check "which copies nothing" until_status g1 32/32
check "the mirror grows" reload g1 "0 65536 mirror userspace 4 m1 disk m1 1024 $legs"
check "the new half is copied" until_status g1 64/64
check "and not the other one" heard_exactly SET_REGION_SYNC m1 $((left + 32))
check "it is removed" remove g1
check "the legs are equal" same /dev/ram0 /dev/ram1

# A header that is none.
noise /dev/ram1 4 4
dd if=/dev/urandom of=/tmp/logs/m1 bs=512 count=1 conv=notrunc 2>/dev/null
check "a mirror is made with a damaged header" make d1 "0 65536 mirror userspace 4 m1 disk m1 1024 $legs"
check "all of it is copied" until_status d1 64/64
check "the damage is told" grep -q "warning: Log m1: its header is damaged" /tmp/out
check "it is removed" remove d1
check "the legs are equal" same /dev/ram0 /dev/ram1

# A log in memory; one that is lost in the middle of a copy.
check "a log in memory begins in sync with nosync" make c1 "0 65536 mirror userspace 4 c1 core 1024 nosync $legs"
check "its status says so" until_status c1 "64/64 1 AA 1 core"
check "it is removed" remove c1
noise /dev/ram1 0 32
lose_in_copy() {
  for try in 1 2 3; do
    make r1 "0 65536 mirror userspace 5 r1 disk r1 128 sync $legs"
    until_true heard_some SET_REGION_SYNC r1
    lose
    [ "$(dirty_in /tmp/logs/r1 512)" -gt 0 ] && return 0
    serve
    remove r1
  done
  return 1
}
check "a copy has not ended when the daemon is lost" lose_in_copy
serve
check "the next daemon goes on with it" until_status r1 512/512
check "without a resume" heard_exactly POSTSUSPEND r1 0
check "it is removed" remove r1
check "the legs are equal" same /dev/ram0 /dev/ram1

# The kernel's own disk log, with ours on the same device.
check "a log on a device" make m2 "0 65536 mirror userspace 5 m2 disk /dev/ram2 1024 nosync $legs"
check "the kernel holds it" sh -c 'dmsetup deps m2 | grep -q "3 dependencies.*(1, 2)"'
check "a status line has its numbers" until_status m2 "64/64 1 AA 3 disk 1:2 A"
noise /dev/mapper/m2 0 3
check "it is removed" remove m2
check "the kernel reads our log" make k1 "0 65536 mirror disk 2 /dev/ram2 1024 $legs"
check "and takes it for clean" until_status k1 "64/64 1 AA 3 disk 1:2 A"
noise /dev/mapper/k1 9 3
check "it is removed" remove k1
check "we read the kernel's log" shown_dirty /dev/ram2 0
check "and go on with it" make m3 "0 65536 mirror userspace 4 m3 disk /dev/ram2 1024 $legs"
check "which copies nothing" until_status m3 64/64
check "it is removed" remove m3
check "the legs are equal" same /dev/ram0 /dev/ram1

# Marks of a write that does not end, since its second leg waits: the log as a crash would leave it.
make leg "0 65536 linear /dev/ram1 0"
slow="2 /dev/ram0 0 /dev/mapper/leg 0 1 handle_errors"
while_written() { # NAME TABLE REGION COPY_OF_THE_LOG
  make "$1" "$2" && until_status "$1" 64/64 && dmsetup suspend leg || return 1
  dd if=/dev/urandom of="/dev/mapper/$1" bs=512K seek="$3" count=1 oflag=direct conv=notrunc 2>/dev/null &
  writing=$!
  until_true marked_in /dev/ram2 "$3"
  marked=$?
  dd if=/dev/ram2 of="$4" bs=64K count=1 iflag=direct oflag=direct 2>/dev/null
  dmsetup resume leg && wait $writing && remove "$1" && return $marked
}
# The bit of a region is not set; the bitmap is from byte 1024 on.
marked_in() {
  byte=$(dd if="$1" bs=4096 count=1 iflag=direct 2>/dev/null | od -An -tu1 -j $((1024 + $2 / 8)) -N 1)
  [ $((byte >> ($2 % 8) & 1)) = 0 ]
}
check "our log while region 21 is written" while_written m4 \
  "0 65536 mirror userspace 5 m4 disk /dev/ram2 1024 nosync $slow" 21 /dev/ram3
check "the kernel's log while region 42 is written" while_written k2 \
  "0 65536 mirror disk 3 /dev/ram2 1024 nosync $slow" 42 /dev/ram4
remove leg
check "we find region 21 in ours" regions_are /dev/ram3 21
check "we find region 42 in the kernel's" regions_are /dev/ram4 42
only_copies() { # REGION
  same_region /dev/ram0 /dev/ram1 "$1" && ! same_region /dev/ram0 /dev/ram1 "$(($1 - 1))" &&
    ! same_region /dev/ram0 /dev/ram1 "$(($1 + 1))"
}
noise /dev/ram1 0 32
check "the kernel goes on with ours" make k3 "0 65536 mirror disk 2 /dev/ram3 1024 $legs"
check "to the end" until_status k3 64/64
check "it is removed" remove k3
check "it has copied region 21 and no other" only_copies 21
noise /dev/ram1 0 32
check "we go on with the kernel's" make m5 "0 65536 mirror userspace 4 m5 disk /dev/ram4 1024 $legs"
check "to the end" until_status m5 64/64
check "it is removed" remove m5
check "we have copied region 42 and no other" only_copies 42

check "every answer had room in the kernel" sh -c '! dmesg | grep "Insufficient space"'

if long; then . /checks/at_length.sh; fi

# A mirror on disks that outlive this machine, which ends in the middle of its writes.
disks="2 /dev/vda 0 /dev/vdb 0 1 handle_errors"
noise /dev/vda 0 32
check "a mirror is made on disks" make p1 "0 65536 mirror userspace 4 p1 disk /dev/vdc 1024 $disks"
check "it is copied" until_status p1 64/64
yes acknowledged | head -c 1048576 >/tmp/text
dd if=/tmp/text of=/dev/mapper/p1 bs=1M seek=30 count=1 oflag=direct conv=notrunc 2>/dev/null
keep_writing /dev/mapper/p1 0 149 1000000 6144 &
while true; do
  dd if=/tmp/text of=/dev/mapper/p1 bs=4096 count=256 seek=6144 oflag=direct conv=notrunc 2>/dev/null
done &
check "it is being written" until_true has_written 40
is_marked() { [ "$(dirty_in /dev/vdc)" -gt 0 ]; }
check "regions are marked" until_true is_marked
say_done
echo b >/proc/sysrq-trigger
usleep 10000000
