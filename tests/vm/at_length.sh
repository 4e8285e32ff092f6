# What the long profile has besides: daemons that are lost again and again, and many mirrors.
# What was found out before has left them different, and nosync vouches for them.
dd if=/dev/ram0 of=/dev/ram1 bs=1M conv=notrunc,fsync 2>/dev/null
check "a mirror is made for many daemons" make l1 "0 65536 mirror userspace 5 l1 disk l1 1024 nosync $legs"
status_has l1 64/64
begin_writing /dev/mapper/l1 0 149 400 8192
for round in 1 2 3 4 5; do
  until_true has_written $((round * 40))
  lose
  serve
  check "writes go on after loss $round" until_true has_written $((round * 40 + 20))
done
check "all writes succeed" all_written
check "it is suspended and resumed" remake l1
check "it is copied" until_status l1 64/64
check "it is removed" remove l1
check "the legs are equal" same /dev/ram0 /dev/ram1

check "a log in memory is made" make l2 "0 65536 mirror userspace 4 l2 core 1024 nosync $legs"
status_has l2 64/64
lose
serve
check "without its daemon it knows nothing" until_status l2 " 0/64 1 AA 1 core"
check "it is suspended and resumed" remake l2
check "all of it is copied" until_status l2 64/64
check "it is removed" remove l2

check "a mirror is made with integrated flushes" make l3 \
  "0 65536 mirror userspace 6 l3 integrated_flush disk l3 1024 nosync $legs"
keep_writing /dev/mapper/l3 0 149 50 8192
lose
check "marks of integrated flushes are on the medium" [ "$(dirty_in /tmp/logs/l3)" -gt 0 ]
serve
check "it is removed" remove l3
check "the legs are equal" same /dev/ram0 /dev/ram1

many=20
for index in $(seq $many); do
  make "n$index" "0 2048 mirror userspace 3 n$index core 64 2 /dev/ram0 $((index * 2048)) /dev/ram1 $((index * 2048)) 1 handle_errors"
done
all_in_sync() { [ "$(dmsetup status | grep -c '^n[0-9]*: .* 32/32 ')" = $many ]; }
check "$many mirrors at once are copied" until_true all_in_sync
for index in $(seq $many); do remove "n$index"; done
check "the legs are equal" same /dev/ram0 /dev/ram1
