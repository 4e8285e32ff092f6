# The disks as the machine has left them that ended in the middle of writes.
disks="2 /dev/vda 0 /dev/vdb 0 1 handle_errors"
left=$(dirty_in /dev/vdc)
check "some regions are marked after a crash" [ "$left" -gt 0 ]
check "and not all" [ "$left" -lt 64 ]
serve
check "the mirror is made again" make p1 "0 65536 mirror userspace 4 p1 disk /dev/vdc 1024 $disks"
check "it is copied" until_status p1 64/64
check "what was marked and nothing else" heard_exactly SET_REGION_SYNC p1 "$left"
yes acknowledged | head -c 1048576 >/tmp/text
dd if=/dev/mapper/p1 of=/tmp/read bs=1M skip=30 count=1 iflag=direct 2>/dev/null
check "what was acknowledged is there" same /tmp/text /tmp/read
check "it is removed" remove p1
check "the legs are equal" same /dev/vda /dev/vdb
check "its log is clean" shown_dirty /dev/vdc 0
kill "$daemon"
check "the daemon ends" wait "$daemon"
