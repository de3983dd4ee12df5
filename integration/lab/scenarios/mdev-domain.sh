# A domain defined while its device is absent gets an mdev at start and gives it back; a full parent is passed over
# group: main
# order: 20
# needs: product
. /lab/scenarios/product.sh
trap clear_domains EXIT

a=0003:00:00.0 b=0004:00:00.0 pci=/sys/bus/pci/devices
parent_of() { basename "$(dirname "$(readlink -f "/sys/bus/mdev/devices/$1")")"; }
all_up

say "one domain, mtty"
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
id=$(domain_uuid vm1) mdev=$(mdev_uuid "$(domain_uuid vm1)" gpu0)
define_mdev vm1 mtty-2
expect "the device is absent" gone "/sys/bus/mdev/devices/$mdev"
start vm1
expect "QEMU has it open" holds_vfio vm1
expect_eq "the type of the mdev" mtty-2 "$(basename "$(readlink "/sys/bus/mdev/devices/$mdev/mdev_type")")"
expect_eq "claim" attached "$(claim_state "$id/gpu0")"
expect_eq "the slice belongs to the claim" "$id/gpu0" "$(slice_claim "mdev:$mdev")"
expect_eq "free" 11 "$(free_of mtty-2)"
destroy vm1
wait_for 20 "the mdev is gone" gone "/sys/bus/mdev/devices/$mdev"
wait_for 10 "capacity is back" is 12 free_of mtty-2
expect_eq "claim" idle "$(claim_state "$id/gpu0")"

say "the same domain with two, stopped from inside QEMU"
expect "attach --count 2" q gpuslice attach vm1 mtty-2 --count 2
second=$(mdev_uuid "$id" gpu0 1)
expect_eq "its devices" "$mdev $second" "$(mdevs_of vm1 | paste -sd' ')"
start vm1
expect_eq "VFIO groups QEMU has open" 2 "$(open_vfio vm1)"
expect_eq "claim" attached "$(claim_state "$id/gpu0")"
expect_eq "both belong to it" "$id/gpu0 $id/gpu0" "$(slice_claim "mdev:$mdev") $(slice_claim "mdev:$second")"
expect_eq "free" 10 "$(free_of mtty-2)"
domain many "" "" | define
expect "attach --count 11" q gpuslice attach many mtty-2 --count 11
expect_eq "devices of it" 11 "$(mdevs_of many | wc -l)"
refused many no-capacity
expect_eq "not one was made for it" "$(printf '%s\n' "$mdev" "$second" | sort)" "$(ls /sys/bus/mdev/devices)"
expect_eq "free" 10 "$(free_of mtty-2)"
virsh qemu-monitor-command vm1 --hmp quit
wait_for 20 "the first mdev is gone" gone "/sys/bus/mdev/devices/$mdev"
wait_for 20 "so is the second" gone "/sys/bus/mdev/devices/$second"
wait_for 10 "capacity is back" is 12 free_of mtty-2

say "two candidate parents"
# 49152 MiB each: two of 24576 fill one
for n in 1 2 3 4; do define_mdev "big$n" nvidia-gpusim-24q; done
wait_for 10 "the largest on both parents" is 4 free_of nvidia-gpusim-24q
start big1
first=$(parent_of "$(mdev_uuid "$(domain_uuid big1)" gpu0)")
other=$a; [ "$first" = $a ] && other=$b
# whatever the policy was so far: no further one fits on the first
while [ "$(cat "$pci/$first/mdev_supported_types/nvidia-560/available_instances")" -gt 0 ]; do
  uuidgen > "$pci/$first/mdev_supported_types/nvidia-560/create"
done
virsh dumpxml --inactive big2 > big2.xml
start big2
expect_eq "the next start lands on the other parent" "$other" "$(parent_of "$(mdev_uuid "$(domain_uuid big2)" gpu0)")"
expect "with the XML it was defined with" diff big2.xml <(virsh dumpxml --inactive big2)
destroy big2
destroy big1
for left in /sys/bus/mdev/devices/*; do [ -e "$left" ] && w 1 "$left/remove"; done
wait_for 10 "capacity is back" is 4 free_of nvidia-gpusim-24q
modprobe -r mtty
