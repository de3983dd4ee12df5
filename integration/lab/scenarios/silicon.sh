# The kernel, its samples and gpusim behave as the product's simulator says they do
# group: main
# order: 90
# limit: 240
# product: no
. /lab/conformance/on-kernel.sh

conform plain

# What follows is gpusim itself, which the simulator is not.
debug=/sys/kernel/debug/gpusim/0001:00:00.0

say "faults of the hardware"
w 0 $pf/sriov_numvfs
w 5 $debug/fail_errno; w 1 $debug/fail_after; w 1 $debug/fail_count
expect_eq "the first enable" ok "$(errno_of 1 $pf/sriov_numvfs)"
w 0 $pf/sriov_numvfs
expect_eq "the second enable" EIO "$(errno_of 1 $pf/sriov_numvfs)"
expect_eq "the third enable" ok "$(errno_of 1 $pf/sriov_numvfs)"
w 0 $pf/sriov_numvfs
w 1 $debug/drop
expect_eq "an enable that loses the card" EIO "$(errno_of 1 $pf/sriov_numvfs)"
wait_for 10 "the card is gone" gone $pf
expect_eq "a card that does not exist" EINVAL "$(errno_of voodoo2 /sys/kernel/debug/gpusim/plug)"
w 'rx6600:serial=0:numa_node=0,l40s:vfs=2:domain=0x20:vf_bar_kb=64' /sys/kernel/debug/gpusim/plug
expect_eq "a plugged card, in the next free domain" 0x73ff "$(cat $pci/0007:00:00.0/device)"
expect "without SR-IOV" gone $pci/0007:00:00.0/sriov_numvfs
expect_eq "without a serial number" "" "$(serial_of 0007:00:00.0)"
expect_eq "on a NUMA node" 0 "$(cat $pci/0007:00:00.0/numa_node)"
expect_eq "the other one's VFs" 2 "$(cat $pci/0020:00:00.0/sriov_totalvfs)"
w '10de 26b9' /sys/bus/pci/drivers/gpusim/new_id
expect "a driver that learns its id" bound_to $pci/0020:00:00.0 gpusim
w 2 $pci/0020:00:00.0/sriov_numvfs
expect_eq "a VF's memory" 65536 "$(stat -c %s $pci/0020:00:00.4/resource0)"
w 0020:00:00.0 /sys/kernel/debug/gpusim/unplug
expect "it is unplugged" gone $pci/0020:00:00.0
expect_eq "nothing to unplug" ENODEV "$(errno_of 0020:00:00.0 /sys/kernel/debug/gpusim/unplug)"

expect "gpusim unloads" unload_gpusim
expect "a slow card" load_gpusim mi300x:present_delay_ms=1000 gpusim-pf
expect "a late PF is not there yet" gone $pf
wait_for 10 "the late PF appears" bound_to $pf gpusim
expect "gpusim unloads again" unload_gpusim

say "igb"
igb=$pci/0000:01:00.0
w 0 $igb/sriov_drivers_autoprobe
expect "7 VFs" w 7 $igb/sriov_numvfs
expect "no VFs" w 0 $igb/sriov_numvfs
host_monitor device_del igb1
wait_for 20 "igb is unplugged" gone $igb
host_monitor device_add igb,id=igb1,bus=rp1
wait_for 30 "igb is back" bound_to $igb igb

no_warnings
