# AMD's stand-in drivers answer as the simulator does: VFs from a module's option, partitions, refusals that look like success
# group: main
# order: 95
# limit: 400
. /lab/scenarios/lib.sh
. /lab/scenarios/silicon-events.sh

pci=/sys/bus/pci/devices control=/sys/kernel/debug/gim config=/etc/gim_config
a=0001:00:00.0 b=0002:00:00.0 v710=0003:00:00.0 mi350=0004:00:00.0
own='reset_gpu self_switch accelerator_* memory_partition_* spatial_* guard_*'
lines() { cat "$1" 2> /dev/null | tr -s ' ' | sed 's/ $//' | paste -sd'|'; }
saved() { paste -sd' ' $config; }
vfs() { ls -d $pci/$1/virtfn* 2> /dev/null | wc -l; }
vfs_of_all() { for pf in $a $b $v710 $mi350; do vfs $pf; done | paste -sd' '; }
driver_of() { basename "$(readlink "$1/driver")"; }
said() { dmesg | sed -n "/$from\$/,\$p" | grep -oE "$1" | tail -n 1; } # since the last mark
# in the log itself: a full one forgets as many lines as it gets
mark() { from="lab mark $(date +%s%N)"; echo "$from" > /dev/kmsg; }
# tells FILE VALUE TEXT : what the write answers, what the file reads then, and what the kernel's log says
tells() { mark; echo "$(errno_of "$2" "$1"); $(mode_in "$1"); $(said "$3")"; }
# the mode a file reads: NPS4, CPX or what it says instead
mode_in() {
  case $1 in
    *memory_partition_mode) sed -n 's/^memory_partition_mode: //p' "$1" ;;
    *accelerator_partition_profile) awk 'NR == 2 {print $1, $2}' "$1" ;;
    *) text_of "$1" ;;
  esac
}
is_mode() { [ "$(mode_in "$2")" = "$1" ]; }
in_log() { [ "$(said "$1")" ]; }
reload() { modprobe -r gim && modprobe gim "$@"; }

rm -f facts $config
systemctl stop gpusliced.socket gpusliced.service gpuslice-libvirt-agent.service 2> /dev/null
expect "gpusim of the boot unloads" unload_gpusim
rm -f /etc/modprobe.d/gpuslice-gim.conf
modprobe -a vfio-pci vfio_iommu_type1
expect "gpusim loads" load_gpusim 'mi300x*2,v710,mi350x,rx6600'
udevadm settle
watch_events

say "before the driver"
fact gim.autoload "$([ -e /sys/module/gim ] && echo loaded || echo absent)"
fact gim.aliases "$(modinfo -F alias gim | wc -l)"
fact gim.numvfs.no-driver "$(errno_of 1 $pci/$a/sriov_numvfs)"
for pf in $a $b $v710 $mi350; do w 0 $pci/$pf/sriov_drivers_autoprobe; done

say "a load without options"
mark
fact events.gim.load "$(events_of 0001 modprobe gim | sed 's/bind PF, //; s/, bind PF//')"
fact gim.pf.driver "$(driver_of $pci/$a)"
fact gim.rx6600.driver "$(driver_of $pci/0005:00:00.0)"
fact gim.vfs.default "$(vfs_of_all)"
fact gim.ready.log "$(said 'AMD GIM probed GPU\(0\) .*')"
expect_eq "the load's last word" 'AMD GIM is Running' "$(said 'AMD GIM is Running')"
fact gim.config.first "$(saved)"
fact gim.config.mode "$(stat -c %a $config)"
fact gim.parameter.unset "$(text_of /sys/module/gim/parameters/vf_num)"
fact gim.parameter.write "$(errno_of 2 /sys/module/gim/parameters/vf_num)"
fact gim.driver.bind-files "$(cd /sys/bus/pci/drivers/gim && ls -d bind unbind 2> /dev/null | paste -sd' ')"
fact gim.pf.files "$(cd $pci/$a && ls -d $own | sort | paste -sd' ')"
fact gim.pf.modes "$(cd $pci/$a && stat -c %a $(ls -d $own | sort) | paste -sd' ')"
fact gim.vf.files "$(cd $pci/$a/virtfn0 && ls -d $own 2> /dev/null | wc -l)"
fact gim.vf.driver "$([ -e $pci/$a/virtfn0/driver ] && echo bound || echo none)"

say "the count of VFs"
fact gim.numvfs.write-same "$(errno_of 1 $pci/$a/sriov_numvfs)"
fact gim.numvfs.write-other "$(errno_of 4 $pci/$a/sriov_numvfs)"
fact gim.numvfs.write-zero "$(errno_of 0 $pci/$a/sriov_numvfs)"
fact gim.numvfs.write-above-total "$(errno_of 9 $pci/$a/sriov_numvfs)"
fact events.gim.unload "$(events_of 0001 modprobe -r gim)"
fact gim.unload.vfs "$(vfs_of_all)"
fact gim.vf_num.all "$(modprobe gim vf_num=4; vfs_of_all)"
fact gim.vf_num.all.parameter "$(text_of /sys/module/gim/parameters/vf_num)"
fact gim.vf_num.all.config "$(saved)"
# all GPUs of one id, then all of the next: the MI350X comes before the V710
fact gim.vf_num.each "$(reload vf_num=1,2,4,3; vfs_of_all)"
fact gim.vf_num.each.parameter "$(text_of /sys/module/gim/parameters/vf_num)"
mark
fact gim.vf_num.above-total "$(reload vf_num=9; vfs_of_all)"
fact gim.vf_num.above-total.log "$(said 'VF number .*')"
fact gim.vf_num.above-total.driver "$(driver_of $pci/$a) $(cd $pci/$a && ls -d $own 2> /dev/null | wc -l)"
fact gim.vf_num.above-total.config "$(saved)"
mark
fact gim.vf_num.zero "$(reload vf_num=0,2; vfs_of_all) $(said 'invalid token.*')"
modprobe -r gim
fact gim.vf_num.word "$(modprobe gim vf_num=x 2>&1 | sed 's/.*: //')"

say "what the driver keeps"
rm -f $config
modprobe gim vf_num=1,8; reload vf_num=8
fact gim.config.residue "$(saved)"
mark
fact gim.config.residue.next "$(reload; vfs $a) $(said 'unknown token: [^ ]*')"
fact gim.config.residue.then "$(saved)"
modprobe -r gim; printf 'vf_num=2\nsch_policy=3\n' > $config
fact gim.config.foreign-key "$(modprobe gim; vfs $a) $(saved)"
modprobe -r gim; : > $config
fact gim.config.empty "$(modprobe gim; vfs $a) $(saved)"
modprobe -r gim; printf 'vf_num=2\naccelerator_partition_mode=9\nmemory_partition_mode=9\n' > $config
fact gim.config.vf_num "$(modprobe gim; vfs $a)"
modprobe -r gim

say "partitions, one VF"
rm -f $config; modprobe gim vf_num=1
profile=$pci/$a/accelerator_partition_profile memory=$pci/$a/memory_partition_mode
fact gim.compute.read "$(lines $profile)"
fact gim.compute.config "$(lines $pci/$a/accelerator_partition_profile_config)"
fact gim.memory.read "$(lines $memory)"
fact gim.memory.config "$(cat -A $pci/$a/memory_partition_config)"
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
w 1 $control/$a/hold_reset
fact gim.memory.write.reset "$(errno_of nps4 $memory) $(mode_in $memory)"
fact gim.memory.write.while-reset "$(tells $memory NPS4 'memory mode switch in progress.*')"
w 0 $control/$a/hold_reset
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
fact gim.memory.caps.grow "$(for n in 1 2; do awk '$1 == "profile_index" {t = 1; next} t {$1=$2=$3=""; sub(/[0-9]* ?\[.*/, ""); print}' $pci/$mi350/accelerator_partition_profile_config | xargs; done | paste -sd'|')"
fact gim.framebuffer "$(cat $control/$a/vf_fb_mb)"

say "guards"
fact gim.guard.head "$(head -n 1 $pci/$a/guard_status | tr '\t' ' ' | tr -s ' ')"
w '1 0 2 7 9' $control/$a/guard
fact gim.guard.vf "$(sed -n 3p $pci/$a/guard_status | tr '\t' ' ')"
fact gim.guard.notes "$(sed -n 10p $pci/$a/guard_status)"
fact gim.guard.threshold.bad "$(errno_of flr=a $pci/$a/guard_threshold) $(sed -n 2p $pci/$a/guard_threshold | tr '\t' ' ')"
fact gim.guard.threshold.hex "$(errno_of flr=a,ex=b,ext=10,int=ff $pci/$a/guard_threshold) $(sed -n 2p $pci/$a/guard_threshold | tr '\t' ' ')"
fact gim.self_switch "$(text_of $pci/$a/self_switch) $(errno_of 1 $pci/$a/self_switch) $(text_of $pci/$a/self_switch) $(errno_of x $pci/$a/self_switch)"

say "a Radeon"
r=$pci/$v710
for file in accelerator_partition_profile accelerator_partition_profile_config memory_partition_mode memory_partition_config spatial_partition_mode spatial_partition_caps; do
  fact gim.radeon.$file "$(text_of $r/$file)"
done
fact gim.radeon.compute.write "$(tells $r/accelerator_partition_profile 0 'Failed to set accelerator.*')"
fact gim.radeon.memory.write "$(errno_of NPS1 $r/memory_partition_mode)"

say "a VF in use"
bind_vfio 0002:00:02.3
w NPS1 $memory
wait_for 10 "bound to vfio-pci and idle is idle" is_mode NPS1 $memory
hold user -device vfio-pci,host=0002:00:02.3
fact gim.in-use.memory "$(tells $memory NPS4 'set memory partition mode not allowed.*')"
fact gim.in-use.compute "$(tells $profile 1 'set accelerator partition mode not allowed.*')"
mark
modprobe -r gim & unload=$!
wait_for 20 "the unload waits" in_log 'GIM is used by'
fact gim.unload.in-use.log "$(said 'GIM is used by.*')"
kill -9 $unload
fact gim.unload.in-use "$([ -d /proc/$unload ] && echo waits) $(vfs $b)"
fact gim.unload.in-use.state "$(text_of /sys/module/gim/initstate)"
let_go user
wait_for 20 "then it goes" gone /sys/module/gim
wait $unload
fact gim.unload.released "$(vfs $b)"

say "what is theirs"
modprobe gim vf_num=1 enabled_devices=$b
fact gim.enabled_devices "$(vfs_of_all) $(driver_of $pci/$b) $([ -e $pci/$a/driver ] && echo bound || echo none)"
reload vf_num=1 enabled_devices=$b generation=8
fact gim.first.enabled_devices "$(vfs_of_all) $(driver_of $pci/$a) $(cd $pci/$a && ls -d $own 2> /dev/null | wc -l)"
fact gim.first.driver.bind-files "$(cd /sys/bus/pci/drivers/gim && ls -d bind unbind 2> /dev/null | paste -sd' ')"
modprobe -r gim
w 1 /sys/kernel/debug/gpusim/$a/fail_count; w 12 /sys/kernel/debug/gpusim/$a/fail_errno
fact gim.enable-fails "$(modprobe gim vf_num=1; vfs_of_all) $(driver_of $pci/$a)"
w 0 /sys/kernel/debug/gpusim/$a/fail_errno
modprobe -r gim

say "amdgpu has them"
modprobe amdgpu
fact amdgpu.first "$(driver_of $pci/$a)"
mark
fact amdgpu.then-gim "$(modprobe gim vf_num=2; vfs_of_all) $(driver_of $pci/$a)"
modprobe -r gim
fact amdgpu.numvfs "$(errno_of 1 $pci/$a/sriov_numvfs)"
g=$pci/$a
fact amdgpu.files "$(cd $g && ls *_partition | sort | paste -sd' ')"
fact amdgpu.modes "$(cd $g && stat -c %a $(ls *_partition | sort) | paste -sd' ')"
fact amdgpu.read "$(text_of $g/current_compute_partition); $(text_of $g/available_compute_partition); $(text_of $g/current_memory_partition); $(text_of $g/available_memory_partition)"
fact amdgpu.without "$(ls $r/*_partition 2> /dev/null | wc -l)"
fact amdgpu.compute.write "$(errno_of QPX $g/current_compute_partition) $(text_of $g/current_compute_partition) $(errno_of TPX $g/current_compute_partition)"
w 1 /sys/kernel/debug/amdgpu/$a/kfd_users
fact amdgpu.compute.in-use "$(errno_of CPX $g/current_compute_partition) $(errno_of QPX $g/current_compute_partition)"
w 0 /sys/kernel/debug/amdgpu/$a/kfd_users; w 1 /sys/kernel/debug/amdgpu/$a/resetting
fact amdgpu.compute.resetting "$(errno_of CPX $g/current_compute_partition)"
fact amdgpu.memory.bad "$(errno_of NPS2 $g/current_memory_partition) $(errno_of x $g/current_memory_partition)"
fact amdgpu.memory.request "$(errno_of NPS4 $g/current_memory_partition) $(text_of $g/current_memory_partition)"
rmmod amdgpu; modprobe amdgpu
fact amdgpu.memory.reload "$(text_of $g/current_memory_partition) $(text_of $g/current_compute_partition) $(text_of $pci/$b/current_memory_partition)"
fact amdgpu.compute.illegal "$(errno_of SPX $g/current_compute_partition)"
rmmod amdgpu

say "a VF that a driver of the host has"
modprobe gim vf_num=1
w 1 $pci/$a/sriov_drivers_autoprobe
modprobe amdgpu
fact gim.host-driver "$(driver_of $pci/0001:00:02.0) $(tells $pci/$a/memory_partition_mode NPS4 'set memory partition mode not allowed.*')"
w 0001:00:02.0 /sys/bus/pci/drivers/amdgpu/unbind
rmmod amdgpu

say "what nobody may read"
expect_eq "resets of GPUs by a read so far" 0 "$(cat $control/*/resets_read | sort -u)"
fact gim.reset_gpu "$(text_of $pci/$a/reset_gpu) $(cat $control/$a/resets_read)"
stop_events
modprobe -r gim
expect "gpusim unloads" unload_gpusim

expect_eq "kernel warnings" "" "$(dmesg | grep -E 'BUG|WARNING|Call Trace|Oops|refcount')"
facts_are conformance-amd.txt
