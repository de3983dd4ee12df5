# A VM's own VF is in other hands when it starts: the start is refused, the agent gives it a free one, the next start works
# group: main
# order: 35
# needs: product
# limit: 240
. /lab/scenarios/product.sh
trap clear_domains EXIT

pci=/sys/bus/pci/devices
# left_alone DOMAIN CODE FORMER : refused once, then it starts with another VF than FORMER
left_alone() {
  refused "$1" "$2"
  expect "the claim remembers it" is "$2" last_refusal "$1"
  wait_for 20 "$1 is given another VF" moved "$1" "$3"
  start "$1"
  expect "vfio-pci has that" bound_to "$pci/$(home_of "$1")" vfio-pci
  wait_for 20 "what makes it is noted where it runs" noted "$1" "$(basename "$(readlink "$pci/$(home_of "$1")/physfn/driver")")"
  expect_eq "and not in its definition" 0 "$(grep -c gpuslice:run "/etc/libvirt/qemu/$1.xml")"
  destroy "$1"
}
noted() { grep -q "<gpuslice-run:driver claim=\"gpu0\" name=\"$2\"" "/run/libvirt/qemu/$1.xml"; }
last_refusal() { rows claims --arg o "$(domain_uuid "$1")" 'select(.claim | startswith($o)) | .last_refusal.code // ""'; }
give_back() { w "$1" "$pci/$1/driver/unbind"; w '' "$pci/$1/driver_override"; }

all_up
domain own "" "" | define
expect "attach" gpuslice attach own amd-74a1-vf8
say "another VM has it"
vf=$(home_of own)
# a transient one: of a persistent one the agent would make a claim, with a VF of its own
domain other "" "$(pci_device "$vf" yes)" > other.xml
expect "virsh create" q virsh create other.xml
left_alone own held "$vf"
destroy other
wait_for 20 "it is free again" is free slice_state "vf:$vf"

say "a process has it"
vf=$(home_of own)
bind_vfio "$vf"
hold stray -device "vfio-pci,host=$vf"
left_alone own held "$vf"
let_go stray
give_back "$vf"
wait_for 20 "it is free again" is free slice_state "vf:$vf"

say "a driver of the host has it"
domain net "" "" | define
expect "attach" gpuslice attach net intel-10c9-vf7
vf=$(home_of net)
modprobe igbvf
# its layout has it bound, and would bind it again in between
takes() {
  w igbvf "$pci/$vf/driver_override"
  bound_to "$pci/$vf" vfio-pci && w "$vf" "$pci/$vf/driver/unbind"
  w "$vf" /sys/bus/pci/drivers_probe
  bound_to "$pci/$vf" igbvf
}
wait_for 20 "igbvf has it" takes
wait_for 20 "gpusliced has seen it" is host slice_state "vf:$vf"
left_alone net host-driver "$vf"
give_back "$vf"
wait_for 20 "it is free again" is free slice_state "vf:$vf"
