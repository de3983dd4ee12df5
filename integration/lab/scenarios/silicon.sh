# The kernel, its samples and gpusim behave as the product's simulator says they do
# group: main
# order: 90
# limit: 240
. /lab/scenarios/lib.sh
. /lab/scenarios/silicon-events.sh

pci=/sys/bus/pci/devices
pf=$pci/0001:00:00.0 debug=/sys/kernel/debug/gpusim/0001:00:00.0
vfs_are() { [ "$(ls -d "$1"/virtfn* 2> /dev/null | wc -l)" = "$2" ]; }

rm -f facts
systemctl stop gpusliced.socket gpusliced.service gpuslice-libvirt-agent.service 2> /dev/null
expect "gpusim of the boot unloads" unload_gpusim
modprobe -a vfio-pci mdev vfio_iommu_type1
expect "gpusim loads" load_gpusim 'mi300x*2,t4*2,a40:vfs=16:offset=16,a10:vfs=16:offset=16' gpusim-pf gpusim-mdev
udevadm settle

say "sriov_numvfs: order of checks"
fact sriov_numvfs.write.word "$(errno_of x $pf/sriov_numvfs)"
fact sriov_numvfs.write.negative "$(errno_of -1 $pf/sriov_numvfs)"
fact sriov_numvfs.write.65536 "$(errno_of 65536 $pf/sriov_numvfs)"
fact sriov_numvfs.write.above-total "$(errno_of 9 $pf/sriov_numvfs)"
fact sriov_numvfs.write.same "$(errno_of 0 $pf/sriov_numvfs)"
fact sriov_numvfs.write.hex "$(errno_of 0x2 $pf/sriov_numvfs)"
fact sriov_numvfs.write.nonzero-to-nonzero "$(errno_of 4 $pf/sriov_numvfs)"
fact sriov_numvfs.write.nonzero-same "$(errno_of 2 $pf/sriov_numvfs)"
fact sriov_numvfs.write.nonzero-above-total "$(errno_of 9 $pf/sriov_numvfs)"
fact sriov_numvfs.write.zero "$(errno_of 0 $pf/sriov_numvfs)"
w 0001:00:00.0 $pf/driver/unbind
fact sriov_numvfs.no-driver.same "$(errno_of 0 $pf/sriov_numvfs)"
fact sriov_numvfs.no-driver.above-total "$(errno_of 9 $pf/sriov_numvfs)"
fact sriov_numvfs.no-driver.other "$(errno_of 2 $pf/sriov_numvfs)"
w 0001:00:00.0 /sys/bus/pci/drivers/gpusim/bind
w 12 $debug/fail_errno; w 1 $debug/fail_count
fact sriov_numvfs.driver-refuses "$(errno_of 2 $pf/sriov_numvfs)"
fact sriov_numvfs.driver-refuses.count "$(cat $pf/sriov_numvfs)"
w 3 $debug/cap_vfs
fact sriov_numvfs.driver-gives-fewer "$(errno_of 8 $pf/sriov_numvfs)"
fact sriov_numvfs.driver-gives-fewer.count "$(cat $pf/sriov_numvfs)"
w 0 $debug/cap_vfs; w 0 $pf/sriov_numvfs
ok "sriov_numvfs answers"

say "uevents"
watch_events
w 0 $pf/sriov_drivers_autoprobe
fact events.enable.no-autoprobe "$(events_of 0001 w 2 $pf/sriov_numvfs)"
fact events.disable.driverless "$(events_of 0001 w 0 $pf/sriov_numvfs)"
fact events.enable.driver-binds "$(events_of 0005 w 2 $pci/0005:00:00.0/sriov_numvfs)"
fact events.disable.bound "$(events_of 0005 w 0 $pci/0005:00:00.0/sriov_numvfs)"
fact events.unplug "$(events_of 0002 w 0 /sys/kernel/debug/gpusim/0002:00:00.0/present)"
fact events.plug "$(events_of 0002 w 1 /sys/kernel/debug/gpusim/0002:00:00.0/present)"
fact events.mdev-parent.unbind "$(events_of 0004 w 0004:00:00.0 $pci/0004:00:00.0/driver/unbind)"
fact events.mdev-parent.bind "$(events_of 0004 w 0004:00:00.0 /sys/bus/pci/drivers/nvidia/bind)"

say "binding"
w 2 $pf/sriov_numvfs; vf=$pf/virtfn0 vfio=/sys/bus/pci/drivers/vfio-pci
fact driver_override.unset "$(cat $vf/driver_override)"
fact bind.id-mismatch "$(errno_of 0001:00:02.0 $vfio/bind)"
fact bind.probe-refuses "$(errno_of 0001:00:02.0 /sys/bus/pci/drivers/gpusim/bind)"
fact bind.no-such-device "$(errno_of 0009:00:02.0 $vfio/bind)"
fact drivers_probe.no-such-device "$(errno_of 0009:00:02.0 /sys/bus/pci/drivers_probe)"
fact unbind.not-bound "$(errno_of 0001:00:02.0 $vfio/unbind)"
fact drivers_probe.no-override "$(errno_of 0001:00:02.0 /sys/bus/pci/drivers_probe)"
fact driver_override.write "$(errno_of vfio-pci $vf/driver_override)"
fact drivers_probe.override "$(errno_of 0001:00:02.0 /sys/bus/pci/drivers_probe)"
expect "the VF is on vfio-pci" bound_to $vf vfio-pci
fact bind.already-bound "$(errno_of 0001:00:02.0 $vfio/bind)"
fact drivers_probe.already-bound "$(errno_of 0001:00:02.0 /sys/bus/pci/drivers_probe)"
fact driver_override.clear "$(errno_of '' $vf/driver_override)"
fact driver_override.cleared "$(cat $vf/driver_override)"
expect "clearing the override does not unbind" bound_to $vf vfio-pci

say "resets"
fact reset_method.first "$(text_of $vf/reset_method)"
fact reset.read "$(text_of $vf/reset)"
fact reset.write.word "$(errno_of x $vf/reset)"
fact reset.write.zero "$(errno_of 0 $vf/reset)"
fact reset.write "$(errno_of 1 $vf/reset)"
fact reset_method.write.unknown "$(errno_of x $vf/reset_method)"
fact reset_method.write.unsupported "$(errno_of bus $vf/reset_method)"
fact reset_method.write.none "$(errno_of '' $vf/reset_method)"
fact reset_method.none "$(text_of $vf/reset_method)"
fact reset.write.without-method "$(errno_of 1 $vf/reset)"
fact reset_method.write.default "$(errno_of default $vf/reset_method)"
fact reset_method.default "$(text_of $vf/reset_method)"

say "a VF in use"
hold vf -device vfio-pci,host=0001:00:02.0
fact reset.write.while-open "$(errno_of 1 $vf/reset)"
(w 0 $pf/sriov_numvfs) & writer=$!
wait_for 10 "sriov_numvfs=0 waits for the holder" grep -q vfio_unregister_group_dev /proc/$writer/stack
fact sriov_numvfs.zero-while-held blocks
let_go vf
wait_for 20 "then the VFs go" vfs_are $pf 0
wait $writer

say "mdev"
parent=$pci/0003:00:00.0 types=$pci/0003:00:00.0/mdev_supported_types devices=/sys/bus/mdev/devices
u=11111111-2222-3333-4444-5555555555
fact mdev.create.short "$(errno_of 1234 $types/nvidia-560/create)"
fact mdev.create.malformed "$(errno_of g1111111-2222-3333-4444-555555555501 $types/nvidia-560/create)"
fact mdev.create.upper-case "$(errno_of AAAAAAAA-2222-3333-4444-555555555501 $types/nvidia-560/create)"
fact mdev.create.upper-case.name "$(ls $devices)"
fact mdev.create.exists "$(errno_of aaaaaaaa-2222-3333-4444-555555555501 $types/nvidia-557/create)"
fact mdev.create.exists-elsewhere "$(errno_of aaaaaaaa-2222-3333-4444-555555555501 $pci/0004:00:00.0/mdev_supported_types/nvidia-557/create)"
fact mdev.available.after-half "$(cat $types/nvidia-{557,558,560}/available_instances | paste -sd' ')"
fact mdev.create.second "$(errno_of ${u}02 $types/nvidia-560/create)"
fact mdev.create.full "$(errno_of ${u}03 $types/nvidia-557/create)"
fact mdev.remove.zero "$(errno_of 0 $devices/${u}02/remove)"
expect "remove 0 removes nothing" present $devices/${u}02
fact mdev.remove.word "$(errno_of x $devices/${u}02/remove)"
fact mdev.remove.one "$(errno_of 1 $devices/${u}02/remove)"
fact events.mdev.create "$(events_of ${u}04 w ${u}04 $types/nvidia-560/create)"
fact events.mdev.remove "$(events_of ${u}04 w 1 $devices/${u}04/remove)"
hold mdev -device vfio-pci,sysfsdev=$devices/aaaaaaaa-2222-3333-4444-555555555501
(w 1 $devices/aaaaaaaa-2222-3333-4444-555555555501/remove) & writer=$!
wait_for 10 "remove waits for the holder" grep -q vfio_unregister_group_dev /proc/$writer/stack
fact mdev.remove.while-held blocks
let_go mdev
wait_for 20 "then the mdev goes" gone $devices/aaaaaaaa-2222-3333-4444-555555555501
wait $writer
w 2 $pci/0006:00:00.0/sriov_numvfs
fact mdev-vf.available "$(cat $pci/0006:00:00.0/virtfn0/mdev_supported_types/nvidia-560/available_instances)"
w ${u}05 $pci/0006:00:00.0/virtfn0/mdev_supported_types/nvidia-557/create
w 0 $pci/0006:00:00.0/sriov_numvfs
expect "mdevs go with their VF" gone $devices/${u}05

say "samples"
fill() { # PARENT TYPE : creates until refused, prints how many and the error
  local n=0 e
  while e=$(errno_of "$(uuidgen)" /sys/class/mdev_bus/$1/mdev_supported_types/$2/create) && [ "$e" = ok ]; do n=$((n + 1)); done
  echo "$n $e"
}
for sample in mtty:mtty-2 mdpy:mdpy-xga mbochs:mbochs-large; do
  module=${sample%:*} type=${sample#*:}
  fact events.$module.load "$(events_of $module modprobe $module)"
  fact $module.types "$(ls /sys/class/mdev_bus/$module/mdev_supported_types | paste -sd' ')"
  fact $type.available "$(cat /sys/class/mdev_bus/$module/mdev_supported_types/$type/available_instances)"
  fact $type.fill "$(fill $module $type)"
  expect "$module unloads with its devices" modprobe -r $module
done
expect_eq "mdevs left" "" "$(ls $devices)"

say "gpusim"
serial_of() { lspci -vv -s "$1" | sed -n 's/.*Device Serial Number //p'; }
fact serial.0001 "$(serial_of 0001:00:00.0)"
fact serial.0002 "$(serial_of 0002:00:00.0)"
slow=0002:00:00.0
w 1500 /sys/kernel/debug/gpusim/$slow/probe_delay_ms
w 0 /sys/kernel/debug/gpusim/$slow/present
seen=$(grep -c "bind .*/$slow " events)
has_bound() { [ "$(grep -c "bind .*/$slow " events)" -gt "$seen" ]; }
w 1 /sys/kernel/debug/gpusim/$slow/present
wait_for 5 "the slow driver probes" bound_to $pci/$slow gpusim
expect "other functions come and go meanwhile" w 1 $pf/sriov_numvfs
# the link is made before the probe: only the bind event says that a driver is ready
fact driver-link.while-probing "$(has_bound || echo present)"
wait_for 10 "the slow driver has bound" has_bound

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

stop_events
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

expect_eq "kernel warnings" "" "$(dmesg | grep -E 'BUG|WARNING|Call Trace|Oops|refcount')"
facts_are conformance.txt
