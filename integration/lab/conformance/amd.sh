# AMD's drivers: VFs from an option of gim, partitions, refusals that look like success; amdgpu on bare metal.

config=/etc/gim_config gim=/sys/module/gim
a=0001:00:00.0 b=0002:00:00.0 v710=0003:00:00.0 mi350=0004:00:00.0 rx6600=0005:00:00.0
profile=$pci/$a/accelerator_partition_profile memory=$pci/$a/memory_partition_mode
own() { names "$1" | grep -E '^(reset_gpu$|self_switch$|accelerator_|memory_partition_|spatial_|guard_)'; }
partitions() { names "$1" | grep '_partition$'; }
lines() { all_of "$1" | tr -s ' ' | sed 's/ $//' | paste -sd'|'; }
saved() { all_of $config | in_line; }
vfs_of_all() { for pf in $a $b $v710 $mi350; do vfs $pf; done | in_line; }
bind_files() { names $drivers/gim | grep -x 'bind\|unbind' | in_line; }
modes() { for file in $("$1" "$2"); do mode_of "$2/$file"; done | in_line; } # WHICH FOLDER
# tells FILE VALUE PATTERN : what the write answers, what the file reads then, and what the kernel's log says
tells() { mark; echo "$(errno_of "$2" "$1"); $(mode_in "$1"); $(said "$3")"; }
# the mode a file reads: NPS4, CPX or what it says instead
mode_in() {
  case $1 in
    *memory_partition_mode) all_of "$1" | sed -n 's/^memory_partition_mode: //p' ;;
    *accelerator_partition_profile) all_of "$1" | awk 'NR == 2 {print $1, $2}' ;;
    *) text_of "$1" ;;
  esac
}
is_mode() { [ "$(mode_in "$2")" = "$1" ]; }
reload() { unload gim && load gim "$@"; }

remove $config
remove /etc/modprobe.d/gpuslice-gim.conf
cards 'mi300x*2,v710,mi350x,rx6600'

say "before the driver"
fact gim.autoload "$(if_there $gim loaded absent)"
aside aliases
fact gim.numvfs.no-driver "$(errno_of 1 $pci/$a/sriov_numvfs)"
no_udev
for pf in $a $b $v710 $mi350; do w 0 $pci/$pf/sriov_drivers_autoprobe; done

say "a load without options"
mark
# When a GPU's thread begins, its probe may not have ended.
fact events.gim.load "$(events_of 0001 load gim | sed 's/bind PF, //; s/, bind PF//')"
fact gim.pf.driver "$(driver_of $pci/$a)"
fact gim.rx6600.driver "$(driver_of $pci/$rx6600)"
fact gim.vfs.default "$(vfs_of_all)"
fact gim.ready.log "$(said 'AMD GIM probed GPU\(0\) .*')"
aside ready
fact gim.config.first "$(saved)"
fact gim.config.mode "$(mode_of $config)"
fact gim.parameter.unset "$(text_of $gim/parameters/vf_num)"
fact gim.parameter.write "$(errno_of 2 $gim/parameters/vf_num)"
fact gim.driver.bind-files "$(bind_files)"
fact gim.pf.files "$(own $pci/$a | in_line)"
fact gim.pf.modes "$(modes own $pci/$a)"
fact gim.vf.files "$(own $pci/$a/virtfn0 | wc -l)"
fact gim.vf.driver "$(if_there $pci/$a/virtfn0/driver bound none)"

say "the count of VFs"
fact gim.numvfs.write-same "$(errno_of 1 $pci/$a/sriov_numvfs)"
fact gim.numvfs.write-other "$(errno_of 4 $pci/$a/sriov_numvfs)"
fact gim.numvfs.write-zero "$(errno_of 0 $pci/$a/sriov_numvfs)"
fact gim.numvfs.write-above-total "$(errno_of 9 $pci/$a/sriov_numvfs)"
fact events.gim.unload "$(events_of 0001 unload gim)"
fact gim.unload.vfs "$(vfs_of_all)"
fact gim.vf_num.all "$(load gim vf_num=4; vfs_of_all)"
fact gim.vf_num.all.parameter "$(text_of $gim/parameters/vf_num)"
fact gim.vf_num.all.config "$(saved)"
# all GPUs of one id, then all of the next: the MI350X comes before the V710
fact gim.vf_num.each "$(reload vf_num=1,2,4,3; vfs_of_all)"
fact gim.vf_num.each.parameter "$(text_of $gim/parameters/vf_num)"
mark
fact gim.vf_num.above-total "$(reload vf_num=9; vfs_of_all)"
fact gim.vf_num.above-total.log "$(said 'VF number .*')"
fact gim.vf_num.above-total.driver "$(driver_of $pci/$a) $(own $pci/$a | wc -l)"
fact gim.vf_num.above-total.config "$(saved)"
mark
fact gim.vf_num.zero "$(reload vf_num=0,2; vfs_of_all) $(said 'invalid token.*')"
unload gim
fact gim.vf_num.word "$(load gim vf_num=x)"

say "what the driver keeps"
remove $config
load gim vf_num=1,8; reload vf_num=8
fact gim.config.residue "$(saved)"
mark
fact gim.config.residue.next "$(reload; vfs $a) $(said 'unknown token: [^ ]*')"
fact gim.config.residue.then "$(saved)"
unload gim; put $'vf_num=2\nsch_policy=3\n' $config
fact gim.config.foreign-key "$(load gim; vfs $a) $(saved)"
unload gim; put '' $config
fact gim.config.empty "$(load gim; vfs $a) $(saved)"
unload gim; put $'vf_num=2\naccelerator_partition_mode=9\nmemory_partition_mode=9\n' $config
fact gim.config.vf_num "$(load gim; vfs $a)"
# the numbers up to the last that is another than the one before it
fact gim.config.alike "$(reload vf_num=2,2,2,2; vfs_of_all) $(saved)"
fact gim.config.alike.again "$(reload vf_num=2; vfs_of_all) $(saved)"
fact gim.config.list "$(reload vf_num=1,1,4,4; vfs_of_all) $(saved)"
unload gim
fact gim.config.list.read "$(load gim; vfs_of_all)"
unload gim

say "partitions, one VF"
remove $config; load gim vf_num=1
fact gim.compute.read "$(lines $profile)"
fact gim.compute.config "$(lines $pci/$a/accelerator_partition_profile_config)"
fact gim.memory.read "$(lines $memory)"
fact gim.memory.config "$(all_of $pci/$a/memory_partition_config | cat -A)"
fact gim.spatial "$(text_of $pci/$a/spatial_partition_mode) $(text_of $pci/$a/spatial_partition_caps)"
fact gim.compute.write.name "$(errno_of CPX $profile)"
fact gim.compute.write.same "$(tells $profile 0 'current accelerator_partition_profile is already .*')"
fact gim.compute.write.none "$(tells $profile 7 'Failed to set accelerator.*')"
fact gim.compute.write "$(errno_of 1 $profile) $(mode_in $profile) $(text_of $pci/$a/spatial_partition_mode)"
fact gim.compute.write.hive "$(mode_in $pci/$b/accelerator_partition_profile)"
fact gim.compute.write.config "$(saved)"
fact gim.memory.write.word "$(errno_of x $memory) $(errno_of NPS3 $memory) $(errno_of 4 $memory)"
fact gim.memory.write.same "$(tells $memory NPS1 'current memory partition mode .*')"
fact gim.memory.write.unsupported "$(tells $memory NPS2 'Failed to set mp mode.*')"
hold_reset $a 1
fact gim.memory.write.reset "$(errno_of nps4 $memory) $(mode_in $memory)"
fact gim.memory.write.while-reset "$(tells $memory NPS4 'memory mode switch in progress.*')"
hold_reset $a 0
wait_for 10 "the reset is over" is_mode NPS4 $memory
wait_for 10 "of the hive" is_mode NPS4 $pci/$b/memory_partition_mode
fact gim.memory.write.after "$(mode_in $memory) $(mode_in $profile)"
fact gim.memory.write.config "$(saved)"
fact gim.memory.read.nps4 "$(lines $memory)"
fact gim.compute.write.illegal "$(tells $profile 0 'Failed to set accelerator.*')"
fact gim.modes.kept "$(reload vf_num=1; mode_in $memory) $(mode_in $profile)"
fact gim.modes.other-count "$(reload vf_num=2; mode_in $memory) $(mode_in $profile); $(saved)"

say "partitions, eight VFs"
reload vf_num=8
fact gim.compute.config.eight "$(lines $pci/$a/accelerator_partition_profile_config)"
fact gim.compute.read.eight "$(mode_in $profile)"
fact gim.memory.nps8 "$(errno_of NPS8 $memory)"
wait_for 10 "it is NPS4" is_mode NPS4 $memory
fact gim.memory.nps8.compute "$(mode_in $profile)"
aside memory

say "guards"
fact gim.guard.head "$(text_of $pci/$a/guard_status | tr '\t' ' ' | tr -s ' ')"
fact gim.guard.notes "$(all_of $pci/$a/guard_status | sed -n 10p)"
aside guards

say "a Radeon"
r=$pci/$v710
for file in accelerator_partition_profile accelerator_partition_profile_config memory_partition_mode memory_partition_config spatial_partition_mode spatial_partition_caps; do
  fact gim.radeon.$file "$(text_of $r/$file)"
done
fact gim.radeon.compute.write "$(tells $r/accelerator_partition_profile 0 'Failed to set accelerator.*')"
fact gim.radeon.memory.write "$(errno_of NPS1 $r/memory_partition_mode)"

say "a VF in use"
w vfio-pci $pci/0002:00:02.3/driver_override
w 0002:00:02.3 /sys/bus/pci/drivers_probe
w NPS1 $memory
wait_for 10 "bound to vfio-pci and idle is idle" is_mode NPS1 $memory
keep_open user $pci/0002:00:02.3
fact gim.in-use.memory "$(tells $memory NPS4 'set memory partition mode not allowed.*')"
fact gim.in-use.compute "$(tells $profile 1 'set accelerator partition mode not allowed.*')"
mark
begin_unload gim
wait_for 20 "the unload waits" in_log 'GIM is used by'
fact gim.unload.in-use.log "$(said 'GIM is used by.*')"
fact gim.unload.in-use "$(unload_stands) $(vfs $b)"
fact gim.unload.in-use.state "$(text_of $gim/initstate)"
let_go user
wait_for 20 "then it goes" gone $gim
end_unload
fact gim.unload.released "$(vfs $b)"

say "what is theirs"
load gim vf_num=1 enabled_devices=$b
fact gim.enabled_devices "$(vfs_of_all) $(driver_of $pci/$b) $(if_there $pci/$a/driver bound none)"
reload vf_num=1 enabled_devices=$b generation=8
fact gim.first.enabled_devices "$(vfs_of_all) $(driver_of $pci/$a) $(own $pci/$a | wc -l)"
fact gim.first.driver.bind-files "$(bind_files)"
unload gim
refuse_enable $a ENOMEM
fact gim.enable-fails "$(load gim vf_num=1; vfs_of_all) $(driver_of $pci/$a)"
unload gim

say "amdgpu has them"
load amdgpu
fact amdgpu.first "$(driver_of $pci/$a)"
fact amdgpu.then-gim "$(load gim vf_num=2; vfs_of_all) $(driver_of $pci/$a)"
unload gim
fact amdgpu.numvfs "$(errno_of 1 $pci/$a/sriov_numvfs)"
g=$pci/$a
fact amdgpu.files "$(partitions $g | in_line)"
fact amdgpu.modes "$(modes partitions $g)"
fact amdgpu.read "$(text_of $g/current_compute_partition); $(text_of $g/available_compute_partition); $(text_of $g/current_memory_partition); $(text_of $g/available_memory_partition)"
fact amdgpu.without "$(partitions $r | wc -l)"
fact amdgpu.compute.write "$(errno_of QPX $g/current_compute_partition) $(text_of $g/current_compute_partition) $(errno_of TPX $g/current_compute_partition)"
computes $a 1
fact amdgpu.compute.in-use "$(errno_of CPX $g/current_compute_partition) $(errno_of QPX $g/current_compute_partition)"
computes $a 0
aside resetting
fact amdgpu.memory.bad "$(errno_of NPS2 $g/current_memory_partition) $(errno_of x $g/current_memory_partition)"
fact amdgpu.memory.request "$(errno_of NPS4 $g/current_memory_partition) $(text_of $g/current_memory_partition)"
unload amdgpu; load amdgpu
fact amdgpu.memory.reload "$(text_of $g/current_memory_partition) $(text_of $g/current_compute_partition) $(text_of $pci/$b/current_memory_partition)"
fact amdgpu.compute.illegal "$(errno_of SPX $g/current_compute_partition)"
unload amdgpu

say "a VF that a driver of the host has"
load gim vf_num=1
w 1 $pci/$a/sriov_drivers_autoprobe
load amdgpu
fact gim.host-driver "$(driver_of $pci/0001:00:02.0) $(tells $memory NPS4 'set memory partition mode not allowed.*')"
w 0001:00:02.0 $drivers/amdgpu/unbind
unload amdgpu

say "what nobody may read"
expect_eq "resets of GPUs by a read so far" 0 "$(resets_by_reading)"
fact gim.reset_gpu "$(text_of $pci/$a/reset_gpu) $(resets_by_reading)"
unload gim
