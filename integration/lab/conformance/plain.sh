# SR-IOV, drivers, resets, mediated devices and uevents, as the kernel's own code has them.

a=0001:00:00.0 b=0002:00:00.0
pf=$pci/$a
cards 'mi300x*2,t4*2,a40:vfs=16:offset=16,a10:vfs=16:offset=16' gpusim-pf gpusim-mdev

say "sriov_numvfs: order of checks" # drivers/pci/iov.c, sriov_numvfs_store
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
w $a $pf/driver/unbind
fact sriov_numvfs.no-driver.same "$(errno_of 0 $pf/sriov_numvfs)"
fact sriov_numvfs.no-driver.above-total "$(errno_of 9 $pf/sriov_numvfs)"
fact sriov_numvfs.no-driver.other "$(errno_of 2 $pf/sriov_numvfs)"
w $a $drivers/gpusim/bind
refuse_enable $a ENOMEM
fact sriov_numvfs.driver-refuses "$(errno_of 2 $pf/sriov_numvfs)"
fact sriov_numvfs.driver-refuses.count "$(text_of $pf/sriov_numvfs)"
fewer_vfs $a 3
fact sriov_numvfs.driver-gives-fewer "$(errno_of 8 $pf/sriov_numvfs)"
fact sriov_numvfs.driver-gives-fewer.count "$(text_of $pf/sriov_numvfs)"
fewer_vfs $a 0
w 0 $pf/sriov_numvfs

say "uevents" # drivers/pci/iov.c, pci_iov_add_virtfn and sriov_del_vfs
w 0 $pf/sriov_drivers_autoprobe
fact events.enable.no-autoprobe "$(events_of 0001 w 2 $pf/sriov_numvfs)"
fact events.disable.driverless "$(events_of 0001 w 0 $pf/sriov_numvfs)"
fact events.enable.driver-binds "$(events_of 0005 w 2 $pci/0005:00:00.0/sriov_numvfs)"
fact events.disable.bound "$(events_of 0005 w 0 $pci/0005:00:00.0/sriov_numvfs)"
fact events.unplug "$(events_of 0002 unplug $b)"
fact events.plug "$(events_of 0002 plug $b)"
fact events.mdev-parent.unbind "$(events_of 0004 w 0004:00:00.0 $pci/0004:00:00.0/driver/unbind)"
fact events.mdev-parent.bind "$(events_of 0004 w 0004:00:00.0 $drivers/nvidia/bind)"

say "binding" # drivers/base/bus.c, drivers/pci/pci-driver.c
w 2 $pf/sriov_numvfs; vf=$pf/virtfn0 vfio=$drivers/vfio-pci
fact driver_override.unset "$(text_of $vf/driver_override)"
fact bind.id-mismatch "$(errno_of 0001:00:02.0 $vfio/bind)"
fact bind.probe-refuses "$(errno_of 0001:00:02.0 $drivers/gpusim/bind)"
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
fact driver_override.cleared "$(text_of $vf/driver_override)"
expect "clearing the override does not unbind" bound_to $vf vfio-pci

say "resets" # drivers/pci/pci.c, reset_method_store; drivers/pci/pci-sysfs.c, reset_store
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

say "a VF in use" # drivers/vfio/vfio_main.c, vfio_unregister_group_dev
keep_open vf $pci/0001:00:02.0
fact reset.write.while-open "$(errno_of 1 $vf/reset)"
begin_write 0 $pf/sriov_numvfs
fact sriov_numvfs.zero-while-held "$begun"
let_go vf
wait_for 20 "then the VFs go" vfs_are $a 0
end_write

say "mdev" # drivers/vfio/mdev
types=$pci/0003:00:00.0/mdev_supported_types u=11111111-2222-3333-4444-5555555555
first=aaaaaaaa-2222-3333-4444-555555555501
fact mdev.create.short "$(errno_of 1234 $types/nvidia-560/create)"
fact mdev.create.malformed "$(errno_of g1111111-2222-3333-4444-555555555501 $types/nvidia-560/create)"
fact mdev.create.upper-case "$(errno_of ${first^^} $types/nvidia-560/create)"
fact mdev.create.upper-case.name "$(names $mdevs)"
fact mdev.create.exists "$(errno_of $first $types/nvidia-557/create)"
fact mdev.create.exists-elsewhere "$(errno_of $first $pci/0004:00:00.0/mdev_supported_types/nvidia-557/create)"
fact mdev.available.after-half "$(for id in 557 558 560; do text_of $types/nvidia-$id/available_instances; done | in_line)"
fact mdev.create.second "$(errno_of ${u}02 $types/nvidia-560/create)"
fact mdev.create.full "$(errno_of ${u}03 $types/nvidia-557/create)"
fact mdev.remove.zero "$(errno_of 0 $mdevs/${u}02/remove)"
expect "remove 0 removes nothing" present $mdevs/${u}02
fact mdev.remove.word "$(errno_of x $mdevs/${u}02/remove)"
fact mdev.remove.one "$(errno_of 1 $mdevs/${u}02/remove)"
fact events.mdev.create "$(events_of ${u}04 w ${u}04 $types/nvidia-560/create)"
fact events.mdev.remove "$(events_of ${u}04 w 1 $mdevs/${u}04/remove)"
keep_open mdev $mdevs/$first
begin_write 1 $mdevs/$first/remove
fact mdev.remove.while-held "$begun"
let_go mdev
wait_for 20 "then the mdev goes" gone $mdevs/$first
end_write
w 2 $pci/0006:00:00.0/sriov_numvfs
types=$pci/0006:00:00.0/virtfn0/mdev_supported_types
fact mdev-vf.available "$(text_of $types/nvidia-560/available_instances)"
w ${u}05 $types/nvidia-557/create
expect "an mdev of a VF" present $mdevs/${u}05
w 0 $pci/0006:00:00.0/sriov_numvfs
expect "mdevs go with their VF" gone $mdevs/${u}05

say "samples" # samples/vfio-mdev
for sample in mtty:mtty-2 mdpy:mdpy-xga mbochs:mbochs-large; do
  module=${sample%:*} type=${sample#*:}
  fact events.$module.load "$(events_of $module load $module)"
  types=/sys/class/mdev_bus/$module/mdev_supported_types
  fact $module.types "$(names $types | in_line)"
  fact $type.available "$(text_of $types/$type/available_instances)"
  fact $type.fill "$(fill $module $type)"
  expect "$module unloads with its devices" unload $module
done
expect_eq "mdevs left" "" "$(names $mdevs)"

say "serial numbers"
fact serial.0001 "$(serial_of $a)"
fact serial.0002 "$(serial_of $b)"

say "a slow driver" # drivers/base/dd.c, really_probe: the link is made before the probe, only the bind event says that a driver is ready
slow_probe $b 1500
unplug $b
seen=$(events_mark)
plug $b
has_bound() { events_since "$seen" | grep -q "^bind .*/$b "; }
wait_for 5 "the slow driver probes" bound_to $pci/$b gpusim
expect "other functions come and go meanwhile" w 1 $pf/sriov_numvfs
fact driver-link.while-probing "$(has_bound || echo present)"
wait_for 10 "the slow driver has bound" has_bound
