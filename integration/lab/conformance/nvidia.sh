# NVIDIA's driver and tools: vGPUs on VFs and PFs, sizes, MIG, sriov-manage.

a40=0001:00:00.0 t4=0002:00:00.0 a100=0003:00:00.0 h100=0005:00:00.0
v=$pci/$a40/virtfn m=$pci/$a100/virtfn h=$pci/$h100/virtfn
sriov_manage() { tool /usr/lib/nvidia/sriov-manage "$@"; }
smi() { tool /usr/bin/nvidia-smi "$@"; }
# What the tool printed last, in one line; block KEY VALUE : of it the lines from this one to the next of its kind
text() { tr -s ' ' < tool.out | sed 's/^ //; s/ :/:/' | in_line; }
block() { tr -s ' ' < tool.out | sed -n "/ $1 : $2\$/,/^ vGPU Type ID/p" | sed '/^ vGPU Type ID/d; s/^ //; s/ :/:/' | in_line; }
mig_told() { sed -n '/MIG Mode/,/vGPU Device/p' tool.out | sed '$d' | tr -s ' ' | sed 's/^ //; s/ :/:/' | in_line; }
files() { names "$1" | in_line; }
# What can be made on a VF, shortened to the first and last when there are many
ids() { all_of "$1/nvidia/creatable_vgpu_types" | awk '$1 ~ /^[0-9]+$/ {print $1}' | in_line | sed -E 's/^(([0-9]+ ){2}).{20,}( [0-9]+ [0-9]+)$/\1..\3/'; }
# available PARENT : instances of each type. few PATTERN : of some of them
available() { local t; for t in $(names "$1/mdev_supported_types"); do echo "${t##*-}:$(text_of "$1/mdev_supported_types/$t/available_instances")"; done | in_line; }
few() { grep -oE '(^| )('"$1"'):[0-9]+' | in_line | tr -s ' ' | sed 's/^ //'; }

cards 'a40:vfs=4,t4,a100:vfs=4,rtx5090,h100:vfs=2' nvidia
no_udev

say "before VFs are enabled"
fact nvidia.pf.driver "$(driver_of $pci/$a40)"
fact nvidia.pf.nvidia-folder "$(if_there $pci/$a40/nvidia present absent)"
fact nvidia.pf.mdev-types "$(if_there $pci/$a40/mdev_supported_types present absent)"
fact nvidia.numvfs.write-total "$(errno_of 4 $pci/$a40/sriov_numvfs)"
fact nvidia.numvfs.write-same "$(errno_of 0 $pci/$a40/sriov_numvfs)"
fact nvidia.numvfs.write-above-total "$(errno_of 5 $pci/$a40/sriov_numvfs)"
fact nvidia.geforce.mdev-types "$(if_there $pci/0004:00:00.0/mdev_supported_types present absent)"

say "sriov-manage"
fact sriov-manage.t4 "$(sriov_manage -e $t4)"
refuse_lock $a40
fact sriov-manage.lock-refused "$(sriov_manage -e $a40)"
fact sriov-manage.lock-refused.text "$(cat tool.out)"
aside client
refuse_enable $a40 ENOMEM
fact sriov-manage.enable-fails "$(sriov_manage -e $a40)"
fact sriov-manage.enable-fails.driver "$(if_there $pci/$a40/driver bound unbound)"
fact sriov-manage.unbound "$(sriov_manage -e $a40)"
w $a40 $drivers/nvidia/bind
fact events.sriov-manage.enable "$(events_of 0001 sriov_manage -e $a40)"
fact sriov-manage.enable.count "$(text_of $pci/$a40/sriov_numvfs)"
fact sriov-manage.enable.again "$(sriov_manage -e $a40)"

say "a VF's files"
fact nvidia.vf.driver "$(driver_of ${v}0)"
fact nvidia.vf.files "$(files ${v}0/nvidia)"
fact nvidia.vf.modes "$(for file in $(names ${v}0/nvidia); do mode_of ${v}0/nvidia/$file; done | in_line)"
fact nvidia.vf.subsystem "$(text_of ${v}0/subsystem_device)"
fact nvidia.vf.vfio-dev "$(names ${v}0/vfio-dev | sed 's/[0-9]*$//')"
fact nvidia.creatable.header "$(text_of ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.creatable.line "$(all_of ${v}0/nvidia/creatable_vgpu_types | sed -n 2p)"
fact nvidia.creatable.ids "$(ids ${v}0)"
fact nvidia.creatable.write "$(errno_of 1 ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.current.unset "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.gpu_instance_id.unset "$(text_of ${v}0/nvidia/gpu_instance_id)"
fact nvidia.placement_id.unset "$(text_of ${v}0/nvidia/placement_id)"
fact nvidia.vgpu_params.unset "$(text_of ${v}0/nvidia/vgpu_params)"
fact nvidia.open.unset "$(opens $pci/0001:00:00.4)"

say "types of one size"
mark
fact nvidia.current.write.word "$(errno_of x ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.negative "$(errno_of -1 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.zero-while-none "$(errno_of 0 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.unknown "$(errno_of 999 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.unknown.value "$(text_of ${v}0/nvidia/current_vgpu_type)"
refuse_vgpu $a40
fact nvidia.current.write.not-ready "$(errno_of 560 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.not-ready.log "$(said 'kvgpumgrCreateRequestVgpu: GPU is not initialized yet')"
fact nvidia.current.write.create "$(errno_of 560 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.set "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.same "$(errno_of 560 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.current.write.other "$(errno_of 561 ${v}0/nvidia/current_vgpu_type)"
fact nvidia.creatable.own "$(lines_in ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.creatable.sibling "$(ids ${v}1)"
fact nvidia.current.write.other-size "$(errno_of 561 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.current.write.same-size "$(errno_of 581 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.placement_id.first "$(text_of ${v}0/nvidia/placement_id)"
fact nvidia.placement_id.second "$(text_of ${v}1/nvidia/placement_id)"
fact nvidia.placement_id.write "$(errno_of 8 ${v}1/nvidia/placement_id)"
fact nvidia.gpu_instance_id.time-sliced "$(text_of ${v}0/nvidia/gpu_instance_id)"
fact nvidia.open.two-in-one-vm "$(opens $pci/0001:00:00.4 $pci/0001:00:00.5)"
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
nvidia_option init_window_ms 600000
keep_open vgpu $pci/0001:00:00.4
fact nvidia.current.write.zero-while-open "$(errno_of 0 ${v}0/nvidia/current_vgpu_type)"
fact sriov-manage.vm-runs "$(sriov_manage -d $a40)"
let_go vgpu
fact nvidia.killed-at-start.wedged "$(wedged $a40)"
fact nvidia.current.after-vm "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.wedged.open "$(opens $pci/0001:00:00.4)"
fact nvidia.vgpu_params.after-vm "$(text_of ${v}0/nvidia/vgpu_params)"
fact nvidia.vgpu_params.clear "$(errno_of ' ' ${v}0/nvidia/vgpu_params)"
fact nvidia.vgpu_params.cleared "$(text_of ${v}0/nvidia/vgpu_params)"
aside domain

say "a VF taken off the driver"
w 0001:00:00.6 ${v}2/driver/unbind
fact nvidia.unbound.files "$(files ${v}2/nvidia)"
w vfio-pci ${v}2/driver_override
fact nvidia.unbound.vfio-pci "$(errno_of 0001:00:00.6 $drivers/vfio-pci/bind)"
w '' ${v}2/driver_override
fact nvidia.rebound "$(errno_of 0001:00:00.6 $drivers/nvidia/bind)"
fact nvidia.rebound.files "$(files ${v}2/nvidia)"
fact nvidia.rebound.vfio-dev "$(if_there ${v}2/vfio-dev present absent)"
fact nvidia.rebound.current "$(text_of ${v}2/nvidia/current_vgpu_type)"
fact nvidia.rebound.write "$(errno_of 565 ${v}2/nvidia/current_vgpu_type)"

say "a cycle mends it all"
fact events.sriov-manage.disable "$(events_of 0001 sriov_manage -d $a40)"
fact sriov-manage.disable.count "$(text_of $pci/$a40/sriov_numvfs)"
fact sriov-manage.cycle "$(sriov_manage -e $a40)"
fact sriov-manage.cycle.current "$(text_of ${v}0/nvidia/current_vgpu_type)"
fact sriov-manage.cycle.wedged "$(wedged $a40)"
fact sriov-manage.cycle.rebound "$(errno_of 565 ${v}2/nvidia/current_vgpu_type)"
w 0 ${v}2/nvidia/current_vgpu_type

say "mixed sizes"
fact nvidia-smi.shm.unknown-gpu "$(smi vgpu -i 9 -shm 1)"
fact nvidia-smi.shm.t4 "$(smi vgpu -i $t4 -shm 1)"
fact nvidia-smi.shm "$(smi vgpu -i 0 -shm 1)"
expect_eq "a query" 0 "$(smi -q -i 0)"
fact nvidia-smi.query.capability "$(sed -n 's/^ *\(Heterogeneous Time-Slice Sizes\) *: /\1: /p' tool.out)"
fact nvidia-smi.query.state "$(sed -n 's/^ *\(vGPU Heterogeneous Mode\) *: /\1: /p' tool.out)"
expect_eq "the types" 0 "$(smi vgpu -i 0 -s -v)"
fact nvidia-smi.types.time-sliced "$(block Name 'NVIDIA A40-8Q')"
fact nvidia-smi.types.ids "$(sed -n 's/.*vGPU Type ID *: //p' tool.out | sed -n '1p;$p' | in_line)"
w 560 ${v}0/nvidia/current_vgpu_type
fact nvidia.mixed.creatable "$(ids ${v}1)"
fact nvidia.mixed.other-size "$(errno_of 562 ${v}1/nvidia/current_vgpu_type)"
fact nvidia.mixed.placement "$(text_of ${v}0/nvidia/placement_id) $(text_of ${v}1/nvidia/placement_id)"
fact nvidia.mixed.third "$(errno_of 565 ${v}2/nvidia/current_vgpu_type) $(text_of ${v}2/nvidia/placement_id)"
fact nvidia.mixed.full "$(ids ${v}3)"
fact nvidia-smi.shm.in-use "$(smi vgpu -i 0 -shm 0)"
fact nvidia-smi.shm.in-use.text "$(sed 's/.*: //' tool.out)"
w vgpu-placement-id=12 ${v}0/nvidia/vgpu_params
fact nvidia.mixed.placement.free "$(opens $pci/0001:00:00.4) $(text_of ${v}0/nvidia/placement_id)"
w vgpu-placement-id=16 ${v}0/nvidia/vgpu_params
fact nvidia.mixed.placement.taken "$(opens $pci/0001:00:00.4)"
w vgpu-placement-id=5 ${v}0/nvidia/vgpu_params
fact nvidia.mixed.placement.invalid "$(opens $pci/0001:00:00.4)"
refuse_lock $a40
fact sriov-manage.disable.lock-refused "$(sriov_manage -d $a40)"
fact sriov-manage.disable.lock-refused.driver "$(driver_of ${v}0)$(if_there $pci/$a40/driver ' PF bound' ' PF unbound')"
fact sriov-manage.wipes-mixed "$(sriov_manage -d $a40) $(mixed $a40)"

say "MIG"
computes $a100 1
fact nvidia-smi.mig.pending "$(smi -i $a100 -mig 1)"
fact nvidia-smi.mig.pending.text "$(text)"
expect_eq "a query" 0 "$(smi -q -i $a100)"
fact nvidia-smi.query.mig-pending "$(mig_told)"
fact sriov-manage.client "$(sriov_manage -e $a100) $(mig $a100)"
computes $a100 0
fact nvidia-smi.mig.pending.alone "$(mig $a100)"
fact sriov-manage.mig-pending "$(sriov_manage -e $a100) $(mig $a100) $(sriov_manage -d $a100)"
fact nvidia-smi.mig.pending.over "$(smi -i $a100 -mig 0) $(mig $a100)"
fact nvidia-smi.mig.on "$(smi -i $a100 -mig 1)"
fact nvidia-smi.mig.on.text "$(text)"
expect_eq "a query" 0 "$(smi -q -i $a100)"
fact nvidia-smi.query.mig "$(mig_told)"
expect_eq "the types" 0 "$(smi vgpu -i $a100 -s -v)"
fact nvidia-smi.types.mig "$(block Name '[^ ]* A100D-1-10C')"
fact nvidia-smi.cgi.before-vfs "$(smi mig -i $a100 -cgi 19 -C)"
fact sriov-manage.wipes-instances "$(sriov_manage -e $a100) $(gpu_instances $a100)"
fact nvidia-smi.lgi.none "$(smi mig -i $a100 -lgi)"
mark
fact nvidia.mig.creatable.no-instance "$(lines_in ${m}0/nvidia/creatable_vgpu_types)"
fact nvidia.mig.write.no-instance "$(errno_of 699 ${m}0/nvidia/current_vgpu_type)"
fact nvidia.mig.write.no-instance.log "$(said 'Failed to add vgpu create request: 0x[0-9a-f]*')"
fact nvidia-smi.cgi "$(smi mig -i $a100 -cgi 19,14 -C)"
fact nvidia-smi.cgi.text "$(text)"
fact nvidia-smi.lgi "$(smi mig -i $a100 -lgi)"
# Where it puts them is the driver's affair.
fact nvidia-smi.lgi.text "$(text | sed -E 's/ [0-9]+:([0-9]+) / START:\1 /g')"
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
fact nvidia-smi.mig.off-with-vfs.text "$(text)"
fact sriov-manage.mig-mode-stays "$(sriov_manage -d $a100) $(gpu_instances $a100) $(mig $a100)"
fact nvidia-smi.mig.off "$(smi -i $a100 -mig 0)"

say "an H100 of 94 GB"
fact sriov-manage.h100 "$(sriov_manage -e $h100)"
fact nvidia.h100.creatable "$(ids ${h}0)"
fact nvidia-smi.h100.memory "$(smi vgpu -i $h100 -s -v) $(sed -n 's/^ *FB Memory *: \([0-9]*\) MiB$/\1/p' tool.out | in_line)"
expect_eq "no VFs" 0 "$(sriov_manage -d $h100)"
fact nvidia-smi.h100.mig "$(smi -i $h100 -mig 1) $(sriov_manage -e $h100) $(smi mig -i $h100 -cgi 9,14,19 -C)"
fact nvidia.h100.mig.creatable "$(ids ${h}0)"
fact nvidia.h100.mig.write "$(errno_of 1132 ${h}0/nvidia/current_vgpu_type) $(text_of ${h}0/nvidia/gpu_instance_id)"
fact nvidia.h100.mig.creatable.after "$(ids ${h}1)"

say "mdev on a PF"
types=$pci/$t4/mdev_supported_types u=22222222-2222-3333-4444-5555555555
fact nvidia.t4.totalvfs "$(text_of $pci/$t4/sriov_totalvfs)"
fact nvidia.t4.types "$(available $pci/$t4)"
fact nvidia.t4.files "$(files $types/nvidia-231)"
fact nvidia.t4.name "$(text_of $types/nvidia-231/name)"
fact nvidia.t4.description "$(text_of $types/nvidia-231/description)"
fact nvidia.t4.device_api "$(text_of $types/nvidia-231/device_api)"
fact nvidia.t4.create "$(errno_of ${u}01 $types/nvidia-231/create)"
fact nvidia.t4.available "$(available $pci/$t4 | few '223|226|231|232')"
fact nvidia.t4.create.other-type "$(errno_of ${u}02 $types/nvidia-232/create)"
mdev=$mdevs/${u}01
fact nvidia.mdev.files "$(files $mdev/nvidia)"
fact nvidia.mdev.driver "$(driver_of $mdev)"
fact nvidia.mdev.vm_name "$(text_of $mdev/nvidia/vm_name)"
fact nvidia.mdev.vgpu_params "$(errno_of frame_rate_limiter=0 $mdev/nvidia/vgpu_params) $(text_of $mdev/nvidia/vgpu_params)"
fact nvidia.mdev.open "$(opens $mdev)"
nvidia_option autoremove_ms 0
fact nvidia.mdev.open.autoremove "$(opens $mdev)"
wait_for 10 "the driver removes it after its VM" gone $mdev
fact nvidia.t4.available.after "$(available $pci/$t4 | few '223|226|231|232')"

say "the first drivers' files of a VF"
unload nvidia; load nvidia old_files=1 list_header=0
expect_eq "VFs of the A40" 0 "$(sriov_manage -e $a40)"
fact nvidia.old.files "$(files ${v}0/nvidia)"
fact nvidia.old.creatable.line "$(text_of ${v}0/nvidia/creatable_vgpu_types)"
fact nvidia.old.creatable.ids "$(ids ${v}0)"
fact nvidia.old.vgpu_params "$(text_of ${v}0/nvidia/vgpu_params)"
fact nvidia.old.write "$(errno_of 558 ${v}0/nvidia/current_vgpu_type) $(text_of ${v}0/nvidia/current_vgpu_type)"
fact nvidia.old.creatable.none "$(all_of ${v}0/nvidia/creatable_vgpu_types | wc -c)"
w 0 ${v}0/nvidia/current_vgpu_type

say "mdev on VFs"
cards 'a40:vfs=2,t4,a100:vfs=2:nvram=1,rtx5090,h100:vfs=2:nvram=1' 'nvidia framework=mdev'
fact nvidia-mdev.pf.types "$(if_there $pci/$a40/mdev_supported_types present absent)"
fact events.sriov-manage.enable-mdev "$(events_of 0001 sriov_manage -e $a40)"
fact nvidia-mdev.nvidia-folder "$(if_there ${v}0/nvidia present absent)"
fact nvidia-mdev.available.unset "$(available $pci/0001:00:00.4 | few '560|565|570')"
fact nvidia-mdev.create "$(errno_of ${u}11 ${v}0/mdev_supported_types/nvidia-560/create)"
fact nvidia-mdev.available.own "$(available $pci/0001:00:00.4 | few '560|565|570')"
fact nvidia-mdev.available.sibling "$(available $pci/0001:00:00.5 | few '560|565|570')"
nvidia_option equal_size 1 # newer drivers let all types of one size stand side by side
fact nvidia-mdev.available.sibling-newer "$(available $pci/0001:00:00.5 | few '560|565|570')"
fact nvidia-mdev.create.second-on-vf "$(errno_of ${u}12 ${v}0/mdev_supported_types/nvidia-560/create)"
fact nvidia-mdev.create.sibling "$(errno_of ${u}13 ${v}1/mdev_supported_types/nvidia-570/create)"
fact nvidia-mdev.open "$(opens $mdevs/${u}11)"
fact nvidia-mdev.open.two-in-one-vm "$(opens $mdevs/${u}11 $mdevs/${u}13)"
fact events.sriov-manage.disable-mdev "$(events_of 0001 sriov_manage -d $a40)"
fact nvidia-mdev.after-disable "$(names $mdevs | wc -l)"
fact nvidia-smi.mig.kept "$(mig $a100)"
expect_eq "VFs of the A100" 0 "$(sriov_manage -e $a100)"
fact nvidia-mdev.mig.no-instance "$(available $pci/0003:00:00.4 | few '692|699|700')"
expect_eq "GPU instances" 0 "$(smi mig -i $a100 -cgi 19,14,14 -C)"
fact nvidia-mdev.mig.available "$(available $pci/0003:00:00.4 | few '692|699|700')"
fact nvidia-mdev.mig.create "$(errno_of ${u}21 $pci/0003:00:00.4/mdev_supported_types/nvidia-700/create)"
fact nvidia-mdev.mig.available.sibling "$(available $pci/0003:00:00.5 | few '692|699|700')"
expect_eq "VFs of the H100" 0 "$(sriov_manage -e $h100)"
expect_eq "GPU instances" 0 "$(smi mig -i $h100 -cgi 14,14 -C)"
fact nvidia-mdev.h100.mig.available "$(available $pci/0005:00:00.4 | few '1127|1129|1131')"
fact nvidia-mdev.h100.mig.create "$(errno_of ${u}31 $pci/0005:00:00.4/mdev_supported_types/nvidia-1131/create)"
unload nvidia; load nvidia framework=mdev
fact nvidia.reload "$(text_of $pci/$a100/sriov_numvfs) $(gpu_instances $a100) $(mig $a100) $(names $mdevs | wc -l)"

say "options of the module"
settings=/etc/modprobe.d/scenario.conf
params() { all_of /proc/driver/nvidia/params | grep ^RegistryDwords | in_line; }
schedulers() { echo "$(scheduler $a40), $(scheduler $t4)"; }
fact nvidia.params.default "$(params)"
fact nvidia.scheduler.default "$(schedulers)"
put "options nvidia NVreg_RegistryDwords=\"RmPVMRL=0x01\" NVreg_RegistryDwordsPerDevice=\"pci=$a40;RmPVMRL=0x11\""$'\n' $settings
expect_eq "VFs of the A40" 0 "$(sriov_manage -e $a40)"
fact nvidia.params.before-load "$(params)"
fact nvidia.scheduler.before-load "$(schedulers)"
unload nvidia; load nvidia framework=mdev
fact nvidia.params.loaded "$(params)"
fact nvidia.scheduler.loaded "$(schedulers)"
remove $settings
expect_eq "VFs of the A40" 0 "$(sriov_manage -e $a40)"
fact nvidia.scheduler.sriov-manage "$(schedulers)"
expect_eq "VFs of the A40" 0 "$(sriov_manage -d $a40)"
unload nvidia
fact nvidia.params.unloaded "$(text_of /proc/driver/nvidia/params)"
load nvidia framework=mdev
fact nvidia.params.reloaded "$(params)"
