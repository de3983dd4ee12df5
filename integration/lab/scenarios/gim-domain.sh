# AMD under GIM: the option written, the module loaded, VMs with VFs of an MI300X and a V710, another count refused while one is held, amdgpu in the way
# group: main
# order: 80
# needs: product
# limit: 400
. /lab/scenarios/product.sh

# no addresses of other scenarios' cards: what the log says of these it says until the reboot
pci=/sys/bus/pci/devices a=0021:00:00.0 b=0022:00:00.0 v710=0023:00:00.0
option=/etc/modprobe.d/gpuslice-gim.conf others=/etc/modprobe.d/lab-gim.conf
config=/etc/gpuslice/gpuslice.toml
vfs() { ls -d "$pci/$1"/virtfn* 2> /dev/null | wc -l; }
counts() { for pf in $a $b $v710; do vfs $pf; done | paste -sd' '; }
cleanup() {
  clear_domains
  # or the unload below would wait for it
  [ ! -e stray.pid ] || kill -9 "$(cat stray.pid)"
  modprobe -r amdgpu
  boot_host
  rm -f /etc/gim_config $option $others
}
trap cleanup EXIT
# layout VFS [VFS-OF-V710 [MORE]] : MORE is for the MI300X
policy=cordon
layout() {
  cat > $config << X
on-error = "$policy"
[[gpu]]
match = { vendor-device = "1002:74a1" }
layout = { vfs = $1, wipe = "required"${3:+, $3} }
[[gpu]]
match = { vendor-device = "1002:7460" }
layout = { vfs = ${2:-12} }
X
}
planned() { gpuslice plan | tee plan.txt; }
# apply_refused CODE WORD : and nothing has changed
apply_refused() {
  local out before; before=$(counts)
  if out=$(timeout 100 gpuslice apply 2>&1); then fail "apply was done: $out"; fi
  echo "$out"
  expect "apply is refused: $1" grep -q "$1" <<< "$out"
  expect "it says $2" grep -q -- "$2" <<< "$out"
  expect_eq "VFs" "$before" "$(counts)"
}
mechanism_is() { field gpus parent $a mechanisms | grep -q "\"$1\""; }
# gim_says PF TEXT : in the kernel's log, where GIM names its GPUs in its own way
gim_says() {
  local IFS=:. parts
  read -ra parts <<< "$1"
  driver_says "$(printf 'gim error libgv: [%x:%x:%x:%x][PF][amdgv_put_event:1] %s' "${parts[@]/#/0x}" "$2")"
}
never_reset() { expect_eq "reads of reset_gpu" 0 "$(cat /sys/kernel/debug/gim/*/resets_read | sort -u)"; }

expect "the boot's cards go" other_host
expect "others come" load_gpusim 'mi300x*2:domain=0x21,v710:domain=0x23'
layout 8
expect "gpusliced starts" daemon start
wait_for 20 "it sees what could have them" mechanism_is gim

say "nothing loads gim before somebody says so"
expect "gim is not loaded" gone /sys/module/gim
expect_eq "VFs" "0 0 0" "$(counts)"
planned
expect "the plan writes the option" grep -q "options gim vf_num=8,8,12\" to $option" plan.txt
expect "and loads the driver" grep -q "load driver gim with vf_num=8,8,12" plan.txt

say "apply"
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "VFs" "8 8 12" "$(counts)"
expect_eq "the option" "options gim vf_num=8,8,12" "$(sed -n '$p' $option)"
expect_eq "whose rights" "644 root" "$(stat -c '%a %U' $option)"
expect_eq "what the driver kept for itself" "vf_num=8,8,12 accelerator_partition_mode=9 memory_partition_mode=9" "$(paste -sd' ' /etc/gim_config)"
expect_eq "drivers of the VFs" "" "$(for vf in $pci/$a/virtfn*; do basename "$(readlink "$vf/driver")"; done | sort -u | grep .)"
expect_eq "slices" 8 "$(count_slices $a)"
expect_eq "none may have been somebody's" 0 "$(field gpus parent $a dirty)"
expect "nothing is left to do" grep -q "already so" <(planned)
rows profiles -c '{profile, mechanism, memory, max, free}'
expect_eq "free" 16 "$(free_of amd-mi300x-vf8-cpx)"
expect_eq "memory of each" $(($(cat /sys/kernel/debug/gim/$a/vf_fb_mb) << 20)) "$(field profiles profile amd-mi300x-vf8-cpx memory)"
expect_eq "free" 12 "$(free_of amd-v710-vf12)"

say "a VM"
domain gim1 "" "" | define
expect "gpuslice attach" q gpuslice attach gim1 amd-mi300x-vf8-cpx
vf=$(home_of gim1)
start gim1
expect "vfio-pci has the VF" bound_to "$pci/$vf" vfio-pci
expect "QEMU has it open" holds_vfio gim1
expect_eq "the slice" attached "$(slice_state "vf:$vf")"

say "a VM with a VF of the V710"
domain gim710 "" "" | define
expect "gpuslice attach" q gpuslice attach gim710 amd-v710-vf12
start gim710
has gim710 <<< "gpu0 $v710 vfio-pci"
expect_eq "free" "11 15" "$(free_of amd-v710-vf12) $(free_of amd-mi300x-vf8-cpx)"
gives_back gim710

say "two for one VM, of one fabric"
domain gim2 "" "" | define
expect "gpuslice attach --count 2 --fabric same" q gpuslice attach gim2 amd-mi300x-vf8-cpx --count 2 --fabric same
two=$(vfs_of gim2)
expect_eq "VFs in its definition" 2 "$(wc -l <<< "$two")"
start gim2
expect_eq "VFIO groups QEMU has open" 2 "$(open_vfio gim2)"
for vf in $two; do
  expect "vfio-pci has $vf" bound_to "$pci/$vf" vfio-pci
  expect_eq "whose it is" "attached $(domain_uuid gim2)/gpu0" "$(slice_state "vf:$vf") $(slice_claim "vf:$vf")"
done
expect_eq "free" 13 "$(free_of amd-mi300x-vf8-cpx)"
# 16, of which each claim that is there has its own
domain gim3 "" "" | define
out=$(gpuslice attach gim3 amd-mi300x-vf8-cpx --count 14 --fabric same 2>&1) && fail "one too many were given: $out"
expect "one too many are refused: $out" grep -q "error: no-capacity: " <<< "$out"
expect_eq "its devices" "" "$(vfs_of gim3)"
expect_eq "slices assigned" 3 "$(count_assigned)"
destroy gim2
for vf in $two; do
  wait_for 20 "$vf is free" is free slice_state "vf:$vf"
  expect "and bound to nothing" gone "$pci/$vf/driver"
done
vf=$(home_of gim1)

say "another count, while it runs"
layout 8 4
planned
expect "the plan is a reload" grep -q "unload driver gim" plan.txt
expect "for all GPUs" grep -q "load driver gim with vf_num=8,8,4" plan.txt
apply_refused in-use gim1
expect "it runs" running gim1

say "a slice that cannot be reset after its VM"
pf=$(field slices slice "vf:$vf" parent)
w '' "$pci/$vf/reset_method"
destroy gim1
wait_for 20 "it is not clean" is dirty slice_state "vf:$vf"
expect "it says how to mend it" grep "echo default > .*/$vf/reset_method" <(why_dirty "vf:$vf")
expect_eq "nobody has it" 0 "$(count_assigned)"
expect_eq "of its GPU" 1 "$(field gpus parent "$pf" dirty)"
expect_eq "free" 15 "$(free_of amd-mi300x-vf8-cpx)"
refused gim1 dirty
w default "$pci/$vf/reset_method"
expect "gpuslice uncordon" q gpuslice uncordon "$pf"
wait_for 20 "the slice is free" is free slice_state "vf:$vf"
expect_eq "not clean" "" "$(why_dirty "vf:$vf")"
expect_eq "free" 16 "$(free_of amd-mi300x-vf8-cpx)"

say "what the kernel's log says"
gim_says $b "Event 0x1 overflow."
wait_for 20 "a flood of events degrades the GPU" is degraded health $b
expect "and takes it from nobody" not is cordoned gpu_state $b
third=$(basename "$(readlink $pci/$a/virtfn3)")
gim_says $a "FLR failed on vf : 3!"
wait_for 20 "a reset that failed costs the VF" is dirty slice_state "vf:$third"
expect "it says why" grep "FLR failed" <(why_dirty "vf:$third")
expect_eq "and its GPU nothing else" "degraded ok" "$(health $a) $(gpu_state $a)"
for vf in 1 2; do gim_says $a "FLR failed on vf : $vf!"; done
wait_for 20 "three of them are a GPU that has failed" is failed health $a
expect_eq "its state" cordoned "$(gpu_state $a)"
expect "gpuslice uncordon" q gpuslice uncordon $a
wait_for 20 "the VF is reset" is free slice_state "vf:$third"
expect "gpuslice uncordon" q gpuslice uncordon $b
expect_eq "health" "ok ok" "$(health $a) $(health $b)"

say "while a stranger holds one"
stranger=$(basename "$(readlink $pci/$b/virtfn5)")
bind_vfio "$stranger"
hold stray -device "vfio-pci,host=$stranger"
wait_for 10 "it is seen" is foreign slice_state "vf:$stranger"
apply_refused held "qemu-system-x86 (pid $(cat stray.pid))"
expect_eq "nothing waits in the kernel" live "$(cat /sys/module/gim/initstate)"
let_go stray; rm stray.pid

say "when nobody does; the first drivers, GPUs that take long, and options of somebody else"
echo options gim generation=8 lab_async=1 > $others
w 3000 /sys/kernel/debug/gpusim/$b/delay_ms
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "VFs" "8 8 4" "$(counts)"
expect "these are the first drivers" present /sys/bus/pci/drivers/gim/bind
expect_eq "the driver's option" 8,8,4 "$(cat /sys/module/gim/parameters/vf_num)"
expect_eq "the driver's file" vf_num=8,8,4 "$(head -n 1 /etc/gim_config)"
start gim1
expect "vfio-pci has the VF" bound_to "$pci/$(home_of gim1)" vfio-pci
expect "the V710's VM asks for one of four" q gpuslice attach gim710 amd-v710-vf4 --name gpu0
start gim710
has gim710 <<< "gpu0 $v710 vfio-pci"
expect_eq "free" 3 "$(free_of amd-v710-vf4)"
gives_back gim710
destroy gim1
wait_for 20 "all is free" is 0 count_assigned

say "a memory mode, of the whole hive"
memory() { for pf in $a $b; do sed -n 's/^memory_partition_mode: //p' $pci/$pf/memory_partition_mode; done | paste -sd' '; }
layout 8 4 'compute = "CPX", memory = "NPS2"'
apply_refused bad-config NPS2
policy=warn
layout 8 4 'compute = "CPX", memory = "NPS4"'
planned
expect "nothing is loaded anew for it" not grep -q "load driver" plan.txt
w 1 /sys/kernel/debug/gim/$a/refusals
apply_refused device-failed "firmware did not answer"
expect_eq "memory modes" "NPS1 NPS1" "$(memory)"
expect "gpuslice apply, again" q timeout 100 gpuslice apply
expect_eq "memory modes" "NPS4 NPS4" "$(memory)"
# behind it is what a longer text left
expect_eq "what the driver keeps" "vf_num=8,8,4 accelerator_partition_mode=8 memory_partition_mode=4" "$(xargs < /etc/gim_config)"
expect_eq "free" 16 "$(free_of amd-mi300x-vf8-cpx-nps4)"
expect "nothing is left to do" grep -q "already so" <(planned)
never_reset
gim_says $a "Whole GPU reset failed!"
wait_for 20 "a GPU that has failed is shown" is failed health $a
expect "and by policy given out" not is cordoned gpu_state $a
expect "gpuslice uncordon" q gpuslice uncordon $a

say "amdgpu was first"
daemon stop
modprobe -r gim; rm -f $option
modprobe amdgpu
expect "amdgpu has the GPUs" bound_to $pci/$a amdgpu
daemon start
all_up
apply_refused host-driver "blacklist amdgpu"
expect "amdgpu has them still" bound_to $pci/$a amdgpu
expect "gim was not loaded" gone /sys/module/gim

say "what amdgpu sets on bare metal"
partitions() { cat $pci/$a/current_{compute,memory}_partition | paste -sd' '; }
modes() { rows gpus 'select(.parent == "'$a'") | .modes | "\(.compute) \(.memory)"'; }
metal() { # MODES
  cat > $config << X
[[gpu]]
match = { vendor-device = "1002:74a1" }
layout = { $1 }
X
}
expect "no VF is offered" not grep -q mi300x <(rows profiles .profile)
expect_eq "modes" "$(partitions)" "$(modes)"
metal 'compute = "QPX"'
planned
expect "the plan sets the mode" grep -q "$a  *write current_compute_partition=QPX" plan.txt
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "compute and memory" "QPX NPS1" "$(partitions)"
expect_eq "modes" "QPX NPS1" "$(modes)"
expect "nothing is left to do" grep -q "already so" <(planned)
metal 'compute = "QPX", memory = "NPS4"'
apply_refused unsupported "echo NPS4 > $pci/$a/current_memory_partition, then modprobe -r amdgpu, then modprobe amdgpu"
echo NPS4 > $pci/$a/current_memory_partition; modprobe -r amdgpu; modprobe amdgpu
wait_for 20 "the memory mode is in force" is "CPX NPS4" modes
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "compute and memory" "QPX NPS4" "$(partitions)"
metal 'compute = "SPX"'
apply_refused bad-config "cannot be SPX beside NPS4"
w 1 /sys/kernel/debug/amdgpu/$a/kfd_users
metal 'compute = "CPX"'
apply_refused held EBUSY
expect_eq "compute and memory" "QPX NPS4" "$(partitions)"
