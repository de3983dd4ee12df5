# What virt-manager's dialogs write, by its own code (virt-xml), into VMs that are off and that run: a VF and a parked mdev are adopted, each VM gets its own
# group: restart
# order: 7
# needs: product
# limit: 300
. /lab/scenarios/product.sh
cleanup() { clear_domains; systemctl start gpuslice-libvirt-agent; boot_host; }
trap cleanup EXIT

# no addresses of other scenarios' cards
mi300x=0021:00:00.0 t4=0022:00:00.0
own_mdev() { [ "$(mdev_of "$1")" = "$(mdev_uuid "$(uuid_of "$1")" gpu0)" ]; }
node_of() { virsh nodedev-list --cap "$1" | grep -m 1 -F "$(tr ':.-' '___' <<< "$2")"; } # CAP ADDRESS-OR-UUID
pick_of() { field profiles profile "$1" pick | jq -r '.[0]'; }

expect "the boot's cards go" other_host
expect "an MI300X and a T4 come" load_gpusim mi300x:vfs=4:domain=0x21,t4:domain=0x22 gpusim-pf nvidia
layouts() { # of the T4 too, if there is an argument
  echo "[[gpu]]"; echo "match = { address = \"$mi300x\" }"; echo "layout = { vfs = 4 }"
  [ $# = 0 ] || { echo "[[gpu]]"; echo "match = { address = \"$t4\" }"; echo "layout = { $1 }"; }
}
layouts "park = { nvidia-t4-8q = 1 }" > /etc/gpuslice/gpuslice.toml
expect "gpusliced starts" daemon start
all_up
parked=$(pick_of nvidia-t4-8q); parked=${parked#mdev:}
vf_profile=amd-74a1-vf4
vf=$(pick_of $vf_profile); vf=${vf#vf:}
expect_eq "its state" parked "$(slice_state "mdev:$parked")"
wait_for 20 "libvirt lists it" node_of mdev "$parked"
expect "libvirt lists the VF" node_of pci "$vf"

say "two VMs pick the same two devices"
for vm in eins zwei; do
  domain $vm "" "" | define
  expect "virt-xml adds the VF" virt-xml $vm --add-device --hostdev "$(node_of pci "$vf")"
  wait_for 20 "it is a claim" is idle claim_state "$(uuid_of $vm)/gpu0"
  expect "virt-xml adds the mdev" virt-xml $vm --add-device --hostdev "$(node_of mdev "$parked")"
  wait_for 20 "and so is the mdev" is idle claim_state "$(uuid_of $vm)/gpu1"
done
expect_eq "the first has the VF that it picked" "$vf" "$(vf_of eins)"
expect "the second has another" not is "$vf" vf_of zwei
for vm in eins zwei; do
  wait_for 20 "$vm has an mdev of its own" is "$(mdev_uuid "$(uuid_of $vm)" gpu1)" mdev_of $vm
  start $vm
  expect_eq "its VF" attached "$(claim_state "$(uuid_of $vm)/gpu0")"
  expect_eq "its mdev" attached "$(claim_state "$(uuid_of $vm)/gpu1")"
done

say "the second took the room of the parked one, which comes back"
# 16 GiB: two of 8 run.
expect_eq "none is parked" "" "$(slice_state "mdev:$parked")"
destroy zwei
wait_for 20 "one is parked again" is parked slice_state "mdev:$parked"

say "started before anybody adopted it"
systemctl stop gpuslice-libvirt-agent
domain drei "" "$(mdev_device "$parked")" | define
start drei
expect_eq "the parked one is its own while it runs" "$(uuid_of drei)/gpu0" "$(slice_claim "mdev:$parked")"
destroy drei
systemctl start gpuslice-libvirt-agent
wait_for 30 "then it has its own" own_mdev drei

say "picked for a VM that runs"
# pick DOMAIN NODE : as Add Hardware does for one that runs, into it and into its definition
pick() { virt-xml "$1" --add-device --hostdev "$2" --update; }
hold_of() { field slices slice "$1" holder; }
port="<controller type='pci' model='pcie-root-port'/>"
domain vier "" "<controller type='pci' model='pcie-root'/>$port$port$port" | define
start vier
# has_picked VF : nobody was asked for it, so it is vier's as long as that runs
has_picked() {
  wait_for 20 "the VF is vier's" is vier hold_of "vf:$1"
  expect_eq "which has no claim" "foreign " "$(slice_state "vf:$1") $(slice_claim "vf:$1")"
}
first=$(pick_of $vf_profile); first=${first#vf:}
expect "virt-xml adds a VF" q pick vier "$(node_of pci "$first")"
has_picked "$first"
expect "and the parked mdev" q pick vier "$(node_of mdev "$parked")"
wait_for 20 "which is known as its" is attached slice_state "mdev:$parked"
expect_eq "QEMU has both open" 2 "$(open_vfio vier)"

say "what another VM runs with"
cp /etc/libvirt/qemu/vier.xml defined.xml
for node in "$(node_of pci "$(vf_of eins)")" "$(node_of mdev "$(mdev_of eins)")"; do
  out=$(pick vier "$node" 2>&1) && fail "it was given $node: $out"
  expect "it is refused: ${out##*: }" grep -q "in use by driver QEMU, domain eins" <<< "$out"
done
expect "its definition is as before" cmp defined.xml /etc/libvirt/qemu/vier.xml
expect_eq "its VF" attached "$(slice_state "vf:$(vf_of eins)")"

say "what another VM is to start with"
# one of the two that have an mdev while vier has one
destroy eins
second=$(vf_of zwei)
expect "virt-xml adds its VF" q pick vier "$(node_of pci "$second")"
has_picked "$second"
refused zwei held
wait_for 20 "it is given another" moved zwei "$second" '[a-z]+'
start zwei
expect_eq "that is its own" "$(uuid_of zwei)/gpu0" "$(slice_claim "vf:$(vf_of zwei)")"

say "when the VM ends, what was picked is what it asks for"
destroy vier
picks() { vfs_of vier | sort | paste -sd' '; }
wait_for 30 "both VFs are of claims" is "$(printf '%s\n' "$first" "$second" | sort | paste -sd' ')" picks
of_mdev() { rows claims --arg o "$(uuid_of vier)/" 'select((.claim | startswith($o)) and .profile == "nvidia-t4-8q") | .claim | ltrimstr($o)'; }
own_picked() { [ "$(mdev_of vier)" = "$(mdev_uuid "$(uuid_of vier)" "$(of_mdev)")" ]; }
wait_for 30 "it has an mdev of its own" own_picked
start vier
expect_eq "its claims" attached "$(states_of vier)"
expect_eq "QEMU has all open" 3 "$(open_vfio vier)"

say "park is taken out of the layout"
layouts > /etc/gpuslice/gpuslice.toml
expect "gpuslice apply" gpuslice apply
wait_for 20 "nothing is parked" is "" slice_state "mdev:$parked"
