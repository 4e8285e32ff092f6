noise /dev/ram0 0 32
dd if=/dev/ram0 of=/dev/ram1 bs=1M 2>/dev/null
sync
serve
(echo 0 >/tmp/written; keep_writing /dev/ram2 0 1 3 64)
. /checks/at_length.sh
