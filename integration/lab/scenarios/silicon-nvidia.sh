# NVIDIA's stand-in driver and tools answer as the simulator does: vGPUs on VFs and PFs, sizes, MIG, sriov-manage
# group: main
# order: 96
# limit: 400
. /lab/scenarios/lib.sh
. /lab/scenarios/silicon-events.sh
. /lab/scenarios/domains.sh
trap clear_domains EXIT

pci=/sys/bus/pci/devices hardware=/sys/kernel/debug/gpusim driver=/sys/kernel/debug/nvidia
a40=0001:00:00.0 t4=0002:00:00.0 a100=0003:00:00.0
v=$pci/$a40/virtfn
files() { (cd "$1" 2> /dev/null && ls | paste -sd' '); }
sriov_manage() { local rc=0; /usr/lib/nvidia/sriov-manage "$@" > tool.out 2>&1 || rc=$?; cat tool.out >&2; echo $rc; }
smi() { local rc=0; nvidia-smi "$@" > tool.out 2>&1 || rc=$?; cat tool.out >&2; echo $rc; }
# ids VF : what can be made on it, shortened to the first and last when there are many
ids() { awk '$1 ~ /^[0-9]+$/ {print $1}' "$1/nvidia/creatable_vgpu_types" | paste -sd' ' | sed -E 's/^(([0-9]+ ){2}).{20,}( [0-9]+ [0-9]+)$/\1..\3/'; }
# available PARENT : instances of each type
available() { local t; for t in "$1"/mdev_supported_types/*; do echo "${t##*-}:$(cat "$t/available_instances")"; done | paste -sd' '; }
few() { grep -oE '(^| )('"$1"'):[0-9]+' | paste -sd' ' | tr -s ' ' | sed 's/^ //'; }
# opens QEMU-ARGUMENT… : what its QEMU says of a device it cannot open
opens() {
  local out
  if out=$(timeout 60 qemu-system-x86_64 -machine q35 -accel tcg -m 64M -nodefaults -display none -S -daemonize -pidfile opens.pid "$@" 2>&1); then
    kill "$(cat opens.pid)"; echo ok; return
  fi
  echo "$out" >&2
  case $out in *'No such device'*) echo ENODEV ;; *'Input/output error'*) echo EIO ;; *) echo "? $out" ;; esac
}
last_log() { dmesg | grep -oE "$1" | tail -n 1; }

rm -f facts
systemctl stop gpusliced.socket gpusliced.service gpuslice-libvirt-agent.service 2> /dev/null
expect "gpusim of the boot unloads" unload_gpusim
modprobe -a vfio-pci vfio_iommu_type1
expect "gpusim and nvidia load" load_gpusim 'a40:vfs=4,t4,a100:vfs=4,rtx5090' nvidia
udevadm settle
watch_events

say "before VFs are enabled"
fact nvidia.pf.driver "$(basename "$(readlink $pci/$a40/driver)")"
fact nvidia.pf.nvidia-folder "$([ -e $pci/$a40/nvidia ] && echo present || echo absent)"
fact nvidia.pf.mdev-types "$([ -e $pci/$a40/mdev_supported_types ] && echo present || echo absent)"
fact nvidia.numvfs.write-total "$(errno_of 4 $pci/$a40/sriov_numvfs)"
fact nvidia.numvfs.write-same "$(errno_of 0 $pci/$a40/sriov_numvfs)"
fact nvidia.numvfs.write-above-total "$(errno_of 5 $pci/$a40/sriov_numvfs)"
fact nvidia.geforce.mdev-types "$([ -e $pci/0004:00:00.0/mdev_supported_types ] && echo present || echo absent)"

say "sriov-manage"
fact sriov-manage.t4 "$(sriov_manage -e $t4)"
w 1 $driver/$a40/lock_refusals
fact sriov-manage.lock-refused "$(sriov_manage -e $a40)"
fact sriov-manage.lock-refused.text "$(cat tool.out)"
exec 5< $driver/$a40/nvml
fact sriov-manage.client "$(sriov_manage -e $a40)"
exec 5<&-
w 12 $hardware/$a40/fail_errno; w 1 $hardware/$a40/fail_count
fact sriov-manage.enable-fails "$(sriov_manage -e $a40)"
fact sriov-manage.enable-fails.driver "$([ -e $pci/$a40/driver ] && echo bound || echo unbound)"
fact sriov-manage.unbound "$(sriov_manage -e $a40)"
w $a40 /sys/bus/pci/drivers/nvidia/bind
udevadm settle
fact events.sriov-manage.enable "$(events_of 0001 sriov_manage -e $a40)"
fact sriov-manage.enable.count "$(cat $pci/$a40/sriov_numvfs)"
fact sriov-manage.enable.again "$(sriov_manage -e $a40)"

say "a VF's files"
fact nvidia.vf.driver "$(basename "$(readlink ${v}0/driver)")"
fact nvidia.vf.files "$(files ${v}0/nvidia)"
fact nvidia.vf.modes "$(stat -c %a ${v}0/nvidia/* | paste -sd' ')"
fact nvidia.vf.subsystem "$(cat ${v}0/subsystem_device)"
fact nvidia.vf.vfio-dev "$(ls ${v}0/vfio-dev | sed 's/[0-9]*$//')"
fact nvidia.creatable.header "$(head -n 1 ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.creatable.line "$(sed -n 2p ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.creatable.ids "$(ids ${v}0)"
fact nvidia.creatable.write "$(errno_of 1 ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.current.unset "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.gpu_instance_id.unset "$(text_of ${v}0/nvidia/gpu_instance_id)"
fact nvidia.placement_id.unset "$(text_of ${v}0/nvidia/placement_id)"
fact nvidia.vgpu_params.unset "$(text_of ${v}0/nvidia/vgpu_params)"
fact nvidia.open.unset "$(opens -device vfio-pci,host=0001:00:00.4)"

say "types of one size"
fact nvidia.current.write.word "$(errno_of x ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.negative "$(errno_of -1 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.zero-while-none "$(errno_of 0 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.unknown "$(errno_of 999 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.unknown.value "$(text_of ${v}0/nvidia/current_vgpu_type)"
w 1 $driver/$a40/create_refusals
fact nvidia.current.write.not-ready "$(errno_of 560 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.not-ready.log "$(last_log 'kvgpumgrCreateRequestVgpu: GPU is not initialized yet')"
fact nvidia.current.write.create "$(errno_of 560 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.set "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.same "$(errno_of 560 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.other "$(errno_of 561 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.creatable.own "$(wc -l < ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.creatable.sibling "$(ids ${v}1)"
fact nvidia.current.write.other-size "$(errno_of 561 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.current.write.same-size "$(errno_of 581 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.placement_id.first "$(text_of ${v}0/nvidia/placement_id)"
fact nvidia.placement_id.second "$(text_of ${v}1/nvidia/placement_id)"
fact nvidia.placement_id.write "$(errno_of 8 ${v}1/nvidia/placement_id)"
fact nvidia.gpu_instance_id.time-sliced "$(text_of ${v}0/nvidia/gpu_instance_id)"
fact nvidia.current.write.zero "$(errno_of 0 ${v}0/nvidia/current_vgpu_type) $(errno_of 0 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.creatable.regrown "$(ids ${v}0)"
w 565 ${v}0/nvidia/current_vgpu_type
fact nvidia.creatable.half "$(ids ${v}1)"
w 575 ${v}1/nvidia/current_vgpu_type
fact nvidia.creatable.full "$(ids ${v}2)"
fact nvidia.current.write.full "$(errno_of 565 ${v}2/nvidia/current_vgpu_type)"
w 0 ${v}1/nvidia/current_vgpu_type

say "in use"
fact nvidia.vgpu_params.write "$(errno_of 'frame_rate_limiter=0,disable_vnc=1' ${v}0/nvidia/vgpu_params)"
fact nvidia.vgpu_params.set "$(text_of ${v}0/nvidia/vgpu_params)"
w 600000 /sys/module/nvidia/parameters/init_window_ms
hold vgpu -device vfio-pci,host=0001:00:00.4
fact nvidia.current.write.zero-while-open "$(errno_of 0 ${v}0/nvidia/current_vgpu_type)"
fact sriov-manage.vm-runs "$(sriov_manage -d $a40)"
let_go vgpu
fact nvidia.killed-at-start.wedged "$(text_of $driver/$a40/wedged)"
fact nvidia.current.after-vm "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.wedged.open "$(opens -device vfio-pci,host=0001:00:00.4)"
fact nvidia.vgpu_params.after-vm "$(text_of ${v}0/nvidia/vgpu_params)"
fact nvidia.vgpu_params.clear "$(errno_of ' ' ${v}0/nvidia/vgpu_params)"
fact nvidia.vgpu_params.cleared "$(text_of ${v}0/nvidia/vgpu_params)"

say "a domain of libvirt"
domain vgpu "" "$(pci_device 0001:00:00.4 no)" | define
expect "virsh start" virsh start vgpu
expect "QEMU has it open" holds_vfio vgpu
expect "nvidia has the VF" bound_to ${v}0 nvidia
expect "virsh destroy" virsh destroy --graceful vgpu
expect_eq "the type stays" 565 "$(text_of ${v}0/nvidia/current_vgpu_type)"

say "a VF taken off the driver"
w 0001:00:00.6 ${v}2/driver/unbind
fact nvidia.unbound.files "$(files ${v}2/nvidia)"
w vfio-pci ${v}2/driver_override
fact nvidia.unbound.vfio-pci "$(errno_of 0001:00:00.6 /sys/bus/pci/drivers/vfio-pci/bind)"
w '' ${v}2/driver_override
fact nvidia.rebound "$(errno_of 0001:00:00.6 /sys/bus/pci/drivers/nvidia/bind)"
fact nvidia.rebound.files "$(files ${v}2/nvidia)"
fact nvidia.rebound.vfio-dev "$([ -e ${v}2/vfio-dev ] && echo present || echo absent)"
fact nvidia.rebound.current "$(text_of ${v}2/nvidia/current_vgpu_type)"
fact nvidia.rebound.write "$(errno_of 565 ${v}2/nvidia/current_vgpu_type)"

say "a cycle mends it all"
fact events.sriov-manage.disable "$(events_of 0001 sriov_manage -d $a40)"
fact sriov-manage.disable.count "$(cat $pci/$a40/sriov_numvfs)"
fact sriov-manage.cycle "$(sriov_manage -e $a40)"
fact sriov-manage.cycle.current "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact sriov-manage.cycle.wedged "$(text_of $driver/$a40/wedged)"
fact sriov-manage.cycle.rebound "$(errno_of 565 ${v}2/nvidia/current_vgpu_type)"
w 0 ${v}2/nvidia/current_vgpu_type

say "mixed sizes"
fact nvidia-smi.shm.unknown-gpu "$(smi vgpu -i 9 -shm 1)"
fact nvidia-smi.shm.t4 "$(smi vgpu -i $t4 -shm 1)"
fact nvidia-smi.shm "$(smi vgpu -i 0 -shm 1)"
nvidia-smi -q -i 0 > query
fact nvidia-smi.query.capability "$(sed -n 's/^ *\(Heterogeneous Time-Slice Sizes\) *: /\1: /p' query)"
fact nvidia-smi.query.state "$(sed -n 's/^ *\(vGPU Heterogeneous Mode\) *: /\1: /p' query)"
w 560 ${v}0/nvidia/current_vgpu_type
fact nvidia.mixed.creatable "$(ids ${v}1)"
fact nvidia.mixed.other-size "$(errno_of 562 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.mixed.placement "$(text_of ${v}0/nvidia/placement_id) $(text_of ${v}1/nvidia/placement_id)"
fact nvidia.mixed.third "$(errno_of 565 ${v}2/nvidia/current_vgpu_type) $(text_of ${v}2/nvidia/placement_id)"
fact nvidia.mixed.full "$(ids ${v}3)"
fact nvidia-smi.shm.in-use "$(smi vgpu -i 0 -shm 0)"
fact nvidia-smi.shm.in-use.text "$(sed 's/.*: //' tool.out)"
w vgpu-placement-id=12 ${v}0/nvidia/vgpu_params
fact nvidia.mixed.placement.free "$(opens -device vfio-pci,host=0001:00:00.4) $(text_of ${v}0/nvidia/placement_id)"
w vgpu-placement-id=16 ${v}0/nvidia/vgpu_params
fact nvidia.mixed.placement.taken "$(opens -device vfio-pci,host=0001:00:00.4)"
w vgpu-placement-id=5 ${v}0/nvidia/vgpu_params
fact nvidia.mixed.placement.invalid "$(opens -device vfio-pci,host=0001:00:00.4)"
fact sriov-manage.wipes-mixed "$(sriov_manage -d $a40) $(text_of $driver/$a40/mixed)"

say "MIG"
fact nvidia-smi.mig.on "$(smi -i $a100 -mig 1)"
fact nvidia-smi.cgi.before-vfs "$(smi mig -i $a100 -cgi 19 -C)"
fact sriov-manage.wipes-instances "$(sriov_manage -e $a100) $(wc -l < $driver/$a100/gpu_instances)"
m=$pci/$a100/virtfn
fact nvidia.mig.creatable.no-instance "$(wc -l < ${m}0/nvidia/creatable_vgpu_types)"
fact nvidia.mig.write.no-instance "$(errno_of 699 ${m}0/nvidia/current_vgpu_type)"
fact nvidia.mig.write.no-instance.log "$(last_log 'Failed to add vgpu create request: 0x[0-9a-f]*')"
fact nvidia-smi.cgi "$(smi mig -i $a100 -cgi 19,14 -C)"
fact nvidia.mig.creatable "$(ids ${m}0)"
fact nvidia.mig.write.time-sliced "$(errno_of 692 ${m}0/nvidia/current_vgpu_type)"
fact nvidia.mig.write "$(errno_of 700 ${m}0/nvidia/current_vgpu_type)"
fact nvidia.mig.gpu_instance_id "$(text_of ${m}0/nvidia/gpu_instance_id)"
fact nvidia.mig.placement_id "$(text_of ${m}0/nvidia/placement_id)"
fact nvidia.mig.creatable.after "$(ids ${m}1)"
fact nvidia-smi.dgi.in-use "$(smi mig -i $a100 -dgi -gi 1)"
fact nvidia-smi.cgi.full "$(smi mig -i $a100 -cgi 0)"
fact nvidia-smi.shm.mig "$(smi vgpu -i $a100 -shm 1)"
w 0 ${m}0/nvidia/current_vgpu_type
fact nvidia-smi.mig.off-with-vfs "$(smi -i $a100 -mig 0)"
fact sriov-manage.mig-mode-stays "$(sriov_manage -d $a100) $(wc -l < $driver/$a100/gpu_instances) $(text_of $driver/$a100/mig)"
fact nvidia-smi.mig.off "$(smi -i $a100 -mig 0)"

say "mdev on a PF"
types=$pci/$t4/mdev_supported_types
u=22222222-2222-3333-4444-5555555555
fact nvidia.t4.totalvfs "$(cat $pci/$t4/sriov_totalvfs)"
fact nvidia.t4.types "$(available $pci/$t4)"
fact nvidia.t4.files "$(files $types/nvidia-231)"
fact nvidia.t4.name "$(cat $types/nvidia-231/name)"
fact nvidia.t4.description "$(cat $types/nvidia-231/description)"
fact nvidia.t4.device_api "$(cat $types/nvidia-231/device_api)"
fact nvidia.t4.create "$(errno_of ${u}01 $types/nvidia-231/create)"
fact nvidia.t4.available "$(available $pci/$t4 | few '223|226|231|232')"
fact nvidia.t4.create.other-type "$(errno_of ${u}02 $types/nvidia-232/create)"
mdev=/sys/bus/mdev/devices/${u}01
fact nvidia.mdev.files "$(files $mdev/nvidia)"
fact nvidia.mdev.driver "$(basename "$(readlink $mdev/driver)")"
fact nvidia.mdev.vm_name "$(text_of $mdev/nvidia/vm_name)"
fact nvidia.mdev.vgpu_params "$(errno_of frame_rate_limiter=0 $mdev/nvidia/vgpu_params) $(text_of $mdev/nvidia/vgpu_params)"
fact nvidia.mdev.open "$(opens -device vfio-pci,sysfsdev=$mdev)"
w 0 /sys/module/nvidia/parameters/autoremove_ms
fact nvidia.mdev.open.autoremove "$(opens -device vfio-pci,sysfsdev=$mdev)"
wait_for 10 "the driver removes it after its VM" gone $mdev
w -1 /sys/module/nvidia/parameters/autoremove_ms
fact nvidia.t4.available.after "$(available $pci/$t4 | few '223|226|231|232')"

say "mdev on VFs"
expect "gpusim unloads" unload_gpusim
expect "gpusim and nvidia load" load_gpusim 'a40:vfs=2,t4,a100:vfs=2:nvram=1' 'nvidia framework=mdev'
udevadm settle
fact nvidia-mdev.pf.types "$([ -e $pci/$a40/mdev_supported_types ] && echo present || echo absent)"
fact events.sriov-manage.enable-mdev "$(events_of 0001 sriov_manage -e $a40)"
fact nvidia-mdev.nvidia-folder "$([ -e ${v}0/nvidia ] && echo present || echo absent)"
fact nvidia-mdev.available.unset "$(available $pci/0001:00:00.4 | few '560|565|570')"
fact nvidia-mdev.create "$(errno_of ${u}11 ${v}0/mdev_supported_types/nvidia-560/create)"
fact nvidia-mdev.available.own "$(available $pci/0001:00:00.4 | few '560|565|570')"
fact nvidia-mdev.available.sibling "$(available $pci/0001:00:00.5 | few '560|565|570')"
w 1 /sys/module/nvidia/parameters/equal_size
fact nvidia-mdev.available.sibling-newer "$(available $pci/0001:00:00.5 | few '560|565|570')"
fact nvidia-mdev.create.second-on-vf "$(errno_of ${u}12 ${v}0/mdev_supported_types/nvidia-560/create)"
fact nvidia-mdev.create.sibling "$(errno_of ${u}13 ${v}1/mdev_supported_types/nvidia-570/create)"
fact nvidia-mdev.open "$(opens -device vfio-pci,sysfsdev=/sys/bus/mdev/devices/${u}11)"
fact events.sriov-manage.disable-mdev "$(events_of 0001 sriov_manage -d $a40)"
fact nvidia-mdev.after-disable "$(ls /sys/bus/mdev/devices | wc -l)"
fact nvidia-smi.mig.kept "$(text_of $driver/$a100/mig)"
expect_eq "VFs of the A100" 0 "$(sriov_manage -e $a100)"
fact nvidia-mdev.mig.no-instance "$(available $pci/0003:00:00.4 | few '692|699|700')"
expect_eq "GPU instances" 0 "$(smi mig -i $a100 -cgi 19,14,14 -C)"
fact nvidia-mdev.mig.available "$(available $pci/0003:00:00.4 | few '692|699|700')"
fact nvidia-mdev.mig.create "$(errno_of ${u}21 $pci/0003:00:00.4/mdev_supported_types/nvidia-700/create)"
fact nvidia-mdev.mig.available.sibling "$(available $pci/0003:00:00.5 | few '692|699|700')"
rmmod nvidia; modprobe nvidia framework=mdev
fact nvidia.reload "$(cat $pci/$a100/sriov_numvfs) $(wc -l < $driver/$a100/gpu_instances) $(text_of $driver/$a100/mig) $(ls /sys/bus/mdev/devices | wc -l)"
stop_events

say "options of the module"
settings=/etc/modprobe.d/scenario.conf
params() { grep ^RegistryDwords /proc/driver/nvidia/params | paste -sd' '; }
schedulers() { cat $driver/$a40/scheduler; echo -n ', '; cat $driver/$t4/scheduler; }
fact nvidia.params.default "$(params)"
fact nvidia.scheduler.default "$(schedulers)"
echo "options nvidia NVreg_RegistryDwords=\"RmPVMRL=0x01\" NVreg_RegistryDwordsPerDevice=\"pci=$a40;RmPVMRL=0x11\"" > $settings
expect_eq "VFs of the A40" 0 "$(sriov_manage -e $a40)"
fact nvidia.params.before-load "$(params)"
fact nvidia.scheduler.before-load "$(schedulers)"
rmmod nvidia; modprobe nvidia framework=mdev
fact nvidia.params.loaded "$(params)"
fact nvidia.scheduler.loaded "$(schedulers)"
rm $settings
expect_eq "VFs of the A40" 0 "$(sriov_manage -e $a40)"
fact nvidia.scheduler.sriov-manage "$(schedulers)"
expect_eq "VFs of the A40" 0 "$(sriov_manage -d $a40)"
rmmod nvidia
fact nvidia.params.unloaded "$(text_of /proc/driver/nvidia/params)"
modprobe nvidia framework=mdev
fact nvidia.params.reloaded "$(params)"
expect "gpusim unloads" unload_gpusim

expect_eq "kernel warnings" "" "$(dmesg | grep -E 'BUG|WARNING|Call Trace|Oops|refcount')"
facts_are conformance-nvidia.txt
