# One VM too many is refused in one line that says what is missing, who holds it and what to do; nothing leaks
# group: restart
# order: 5
# needs: product
. /lab/scenarios/product.sh
cleanup() {
  local left
  clear_domains
  for left in /sys/bus/mdev/devices/*; do [ -e "$left" ] && w 1 "$left/remove"; done
}
trap cleanup EXIT

types=/sys/bus/pci/devices/0003:00:00.0/mdev_supported_types
all_up
# someone else has three of the four places, so that two VMs suffice
uuidgen > $types/nvidia-560/create; uuidgen > $types/nvidia-560/create
uuidgen > /sys/bus/pci/devices/0004:00:00.0/mdev_supported_types/nvidia-560/create
wait_for 10 "one place is left" is 1 free_of nvidia-gpusim-24q
define_mdev full1 nvidia-gpusim-24q
define_mdev full2 nvidia-gpusim-24q
start full1
mdevs=$(ls /sys/bus/mdev/devices)
refused full2 no-capacity
line=$(virsh start full2 2>&1 | sed -n 's/.*gpuslice: no-capacity/no-capacity/p')
expect "it says what was wanted and what is free" grep -q '^no-capacity: nvidia-gpusim-24q: wanted 1, 0 of 1 free, ' <<< "$line"
expect "it names the holder" grep -q full1 <<< "$line"
expect "it names whose end makes room" grep -q '; try: virsh shutdown full1' <<< "$line"
expect_eq "no mdev leaked" "$mdevs" "$(ls /sys/bus/mdev/devices)"
expect_eq "assigned slices" 1 "$(count_assigned)"
destroy full1
wait_for 20 "the place is free" is 1 free_of nvidia-gpusim-24q
start full2
destroy full2
define_mdev none no-such-profile
refused none no-profile
