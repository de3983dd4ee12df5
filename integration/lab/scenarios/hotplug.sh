# Devices that come and go while the daemon runs: modules, an unplugged igb, a GPU that falls off the bus
# group: main
# order: 50
# needs: product
. /lab/scenarios/product.sh
trap clear_domains EXIT

pci=/sys/bus/pci/devices
all_up
say "mdev parents appear"
for pair in mbochs=mbochs-large=4 mdpy=mdpy-xga=4 mtty=mtty-2=12; do
  IFS='=' read -r module profile count <<< "$pair"
  modprobe "$module"
  wait_for 10 "$profile is a profile" is "$count" free_of "$profile"
done

say "claims on VFs of both"
domain plug1 "" "" | define
domain plug2 "" "" | define
expect "attach an igb VF" q gpuslice attach plug1 intel-10c9-vf7
expect "attach a gpusim VF" q gpuslice attach plug2 amd-74a1-vf8
reason_of() { rows claims --arg o "$(domain_uuid "$1")" 'select(.claim | startswith($o)) | .reason // ""'; }

say "unplug"
vf1=$(home_of plug1) vf2=$(home_of plug2)
host_monitor device_del igb1
wait_for 30 "igb's slices leave" is 0 count_slices 0000:01:00.0
w 0 /sys/kernel/debug/gpusim/0001:00:00.0/present
wait_for 30 "gpusim's slices leave" is 0 count_slices 0001:00:00.0
wait_for 10 "the claim of plug1 says why" is "its home VF $vf1 is not on the host" reason_of plug1
wait_for 10 "so does that of plug2" is "its home VF $vf2 is not on the host" reason_of plug2
refused plug2 not-settled

say "plug"
host_monitor device_add igb,id=igb1,bus=rp1
w 1 /sys/kernel/debug/gpusim/0001:00:00.0/present
wait_for 60 "igb's VFs return by themselves" is 7 count_slices 0000:01:00.0
wait_for 60 "gpusim's VFs return by themselves" is 8 count_slices 0001:00:00.0
wait_for 10 "the claim of plug1 has no reason any more" is "" reason_of plug1
expect_eq "nor has that of plug2" "" "$(reason_of plug2)"
wait_for 20 "igb's VF is bound again" bound_to "$pci/$vf1" vfio-pci
wait_for 60 "the start that was refused is made up for" running plug2
wait_for 10 "its claim" is attached claim_state "$(domain_uuid plug2)/gpu0"
expect "that was the agent" grep -q "started domain $(domain_uuid plug2)" <(journalctl -b -o cat -u gpuslice-libvirt-agent)
expect "who was not refused is not started" not running plug1

say "a GPU falls off the bus under its VM"
vf=$(home_of plug2) qemu=$(qemu_of plug2)
(w 0 /sys/kernel/debug/gpusim/0001:00:00.0/present) & unplug=$!
# the kernel waits for QEMU, with its lock on all of PCI's hotplug
wait_for 20 "the kernel waits for the VM" grep -q vfio_unregister_group_dev /proc/$unplug/stack
wait_for 10 "the claim of plug2 says why" is "vf:$vf left the host with 0001:00:00.0" reason_of plug2
expect "the daemon serves others meanwhile" is 12 free_of mtty-2
expect "the VM runs on" [ -d "/proc/$qemu" ]
expect_eq "what its stop says" "" "$(virsh -q destroy plug2 2>&1)"
wait_for 60 "then the GPU is gone" gone "$pci/0001:00:00.0"
wait $unplug
wait_for 30 "nothing is assigned" is 0 count_assigned
w 1 /sys/kernel/debug/gpusim/0001:00:00.0/present
wait_for 60 "it returns with its VFs" is 8 count_slices 0001:00:00.0
expect_eq "the VM's own VF" "$vf" "$(home_of plug2)"
start plug2
destroy plug2

say "a GPU that cannot make its VFs any more"
faults=/sys/kernel/debug/gpusim/0001:00:00.0
w 12 $faults/fail_errno
w 1000 $faults/fail_count
w 0 $faults/present
wait_for 30 "it leaves" is 0 count_slices 0001:00:00.0
w 1 $faults/present
wait_for 60 "it is quarantined" is quarantined gpu_state 0001:00:00.0
expect "status names step, errno and the way out" \
  grep "0001:00:00.0 is quarantined: .*cannot write sriov_numvfs=8 .*ENOMEM.*gpuslice uncordon 0001:00:00.0" <(gpuslice status)
expect_eq "the VFs of the other" 7 "$(count_slices 0000:01:00.0)"
w 0 $faults/fail_count
expect "gpuslice uncordon" gpuslice uncordon 0001:00:00.0
wait_for 60 "its VFs return" is 8 count_slices 0001:00:00.0

say "mdev parents leave"
modprobe -r mbochs mdpy mtty
wait_for 10 "their profiles are gone" is "" free_of mtty-2
