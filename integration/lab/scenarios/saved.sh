# A VM with a slice is saved and comes back: managed save, an image that is restored, one that is refused while there is no such slice
# group: restart
# order: 6
# needs: product
# limit: 300
. /lab/scenarios/product.sh
image=/var/tmp/saved.image
cleanup() { clear_domains; rm -f $image; modprobe -r mtty; }
trap cleanup EXIT

all_up
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
id=$(domain_uuid saved)
mdev=/sys/bus/mdev/devices/$(mdev_uuid "$id" gpu0)
define_movable saved mtty-2
given_back() {
  wait_for 20 "the mdev is gone" gone "$mdev"
  wait_for 20 "capacity is back" is 12 free_of mtty-2
}
has_it() {
  expect "it runs" running saved
  expect "QEMU has the mdev open" holds_vfio saved
  expect_eq "its claim" attached "$(claim_state "$id/gpu0")"
}

start saved
say "managed save"
expect "virsh managedsave" q virsh managedsave saved
given_back
start saved
has_it

say "an image"
expect "virsh save" q virsh save saved $image
given_back
expect "virsh restore" q virsh restore $image
has_it

say "an image whose slice another program has made"
expect "virsh save" q virsh save saved $image
given_back
w "$(basename "$mdev")" /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/create
out=$(virsh restore $image 2>&1) && fail "it was restored with a slice of somebody else's"
expect "it is refused: ${out##*gpuslice: }" grep -q 'gpuslice: foreign: ' <<< "$out"
expect "the other's is left alone" present "$mdev"
w 1 "$mdev/remove"
wait_for 20 "it is gone, and that is known" is 12 free_of mtty-2
expect "virsh restore" q virsh restore $image
has_it

say "an image whose slice cannot be had"
expect "virsh save" q virsh save saved $image
given_back
modprobe -r mtty
wait_for 10 "nothing offers the profile" is "" free_of mtty-2
out=$(virsh restore $image 2>&1) && fail "it was restored without its slice"
expect "it is refused: ${out##*gpuslice: }" grep -q 'gpuslice: not-settled: waiting for mtty to appear' <<< "$out"
expect "nothing runs" not running saved
modprobe mtty
wait_for 10 "the profile is back" is 12 free_of mtty-2
expect "virsh restore" q virsh restore $image
has_it
destroy saved
given_back
