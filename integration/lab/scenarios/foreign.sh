# What others made or hold is shown and left alone: mdevs of mdevctl, a VF a stray QEMU has open
# group: restart
# order: 3
# needs: product
. /lab/scenarios/product.sh
cleanup() { clear_domains; mdevctl undefine -u $theirs; modprobe -r mtty; }
trap cleanup EXIT

pci=/sys/bus/pci/devices devices=/sys/bus/mdev/devices
theirs=22222222-2222-3333-4444-555555555501
# Debian's udev rule for mdevctl names a path its package does not install to, so the rule never worked there.
[ -e /usr/sbin/mdevctl ] || ln -s "$(command -v mdevctl)" /usr/sbin/mdevctl
all_up
say "mdevctl's mdev"
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
expect "mdevctl define" mdevctl define -a -u $theirs -p mtty -t mtty-2
expect "mdevctl start" mdevctl start -u $theirs
wait_for 10 "it is shown as foreign" is foreign slice_state mdev:$theirs
wait_for 10 "and counted" is 11 free_of mtty-2

say "a VF held by a QEMU that nobody knows"
vf=$(slices_of 0001:00:00.0 | head -n 1); vf=${vf#vf:}
bind_vfio "$vf"
hold stray -device "vfio-pci,host=$vf"
wait_for 10 "it is shown as foreign" is foreign slice_state "vf:$vf"

say "neither is taken nor removed"
expect "restart of gpusliced" q systemctl restart gpusliced.service
all_up
expect "the mdev is there" present $devices/$theirs
expect_eq "the VF's state" foreign "$(slice_state "vf:$vf")"
domain other "" "" | define
expect "attach" gpuslice attach other amd-74a1-vf8
wait_for 20 "a VF is chosen" has_home other
expect "another one" not [ "$(home_of other)" = "$vf" ]
start other
destroy other
let_go stray
w "$vf" "$pci/$vf/driver/unbind"; w '' "$pci/$vf/driver_override"
wait_for 20 "the VF is free once it was let go" is free slice_state "vf:$vf"

say "mdevctl's udev rule and ours"
define_mdev mix mtty-2
modprobe -r mtty
wait_for 10 "all gone" is "" free_of mtty-2
modprobe mtty
wait_for 20 "mdevctl starts its own" present $devices/$theirs
# udev tells of the driver when its rules are through, mdevctl's among them.
wait_for 20 "gpusliced knows of the driver" not is "" free_of mtty-2
start mix
expect "both exist" [ "$(ls $devices | wc -l)" = 2 ]
destroy mix
wait_for 20 "ours goes" gone "$devices/$(mdev_uuid "$(domain_uuid mix)" gpu0)"
expect "theirs stays" present $devices/$theirs
expect "mdevctl stop" mdevctl stop -u $theirs
