# VMs with vGPUs of NVIDIA's: VFs from sriov-manage, a type written at start and taken back, mdevs on a T4, GPU instances of an A100
# group: main
# order: 70
# needs: product
# limit: 400
. /lab/scenarios/product.sh
cleanup() { clear_domains; boot_host; }
trap cleanup EXIT

pci=/sys/bus/pci/devices
a40=0001:00:00.0 t4=0002:00:00.0 a100=0003:00:00.0
v=$pci/$a40/virtfn
home() { virsh dumpxml --inactive "$1" | tr -d "\n" | sed -nE "s/.*<hostdev mode='subsystem' type='pci' managed='no'[^>]*>.*<source> *<address domain='0x(....)' bus='0x(..)' slot='0x(..)' function='0x(.)'.*/\1:\2:\3.\4/p"; }
type_of() { cat "$pci/$1/nvidia/current_vgpu_type"; }

expect "the boot's cards go" other_host
expect "an A40, a T4 and an A100 come" load_gpusim a40:vfs=4,t4,a100:vfs=4 nvidia
cat > /etc/gpuslice/gpuslice.toml << X
[[gpu]]
match = { address = "$a40" }
layout = { vfs = "all" }
[[gpu]]
match = { address = "$a100" }
layout = { vfs = "all", instances = ["1g.10gb", "2g.20gb"] }
X
expect "gpusliced starts" daemon start
# it remembers nothing, so that this is to it as a boot
all_up
expect_eq "VFs of $a40, made by sriov-manage" 4 "$(ls -d ${v}* | wc -l)"
expect_eq "slices of $a40" 4 "$(count_slices $a40)"
expect_eq "drivers of the VFs" nvidia "$(for vf in ${v}*; do basename "$(readlink "$vf/driver")"; done | sort -u)"
rows profiles | jq -c '{profile, mechanism, type, memory, max, free}'
expect_eq "free nvidia-a40-12q" 4 "$(free_of nvidia-a40-12q)"

say "a vGPU on a VF"
domain vgpu1 "" "" | define
expect "gpuslice attach" q gpuslice attach vgpu1 nvidia-a40-12q
address=$(home vgpu1)
expect "the domain names a VF with managed='no'" [ -n "$address" ]
expect_eq "its type before the start" 0 "$(type_of "$address")"
start vgpu1
expect_eq "its type" 563 "$(type_of "$address")"
expect "it is still the vendor's" bound_to "$pci/$address" nvidia
expect "QEMU has it open" holds_vfio vgpu1
expect_eq "the slice" attached "$(slice_state "vf:$address")"

say "another size beside it"
domain vgpu2 "" "" | define
if gpuslice attach vgpu2 nvidia-a40-24q; then refused vgpu2 no-capacity; else ok "nvidia-a40-24q is refused beside 12 GiB"; fi

destroy vgpu1
wait_for 20 "its type is taken back" is 0 type_of "$address"
wait_for 60 "the slice is free" is free slice_state "vf:$address"

say "a VM killed while it begins to use its VF"
wedged=/sys/kernel/debug/nvidia/$a40/wedged
w 600000 /sys/module/nvidia/parameters/init_window_ms
domain vgpu5 "" "" | define
expect "gpuslice attach" q gpuslice attach vgpu5 nvidia-a40-12q
beside=$(home vgpu5)
start vgpu5
start vgpu1
expect "a SIGKILL" kill -9 "$(qemu_of vgpu1)"
wait_for 20 "its VF is kept back" is quarantined slice_state "vf:$address"
expect "the driver has it for wedged" [ -n "$(cat "$wedged")" ]
expect "the GPU says so" grep "may be wedged" <<< "$(field gpus parent $a40 reason)"
expect_eq "the VM beside it runs on" attached "$(slice_state "vf:$beside")"
expect "QEMU has it open" holds_vfio vgpu5
destroy vgpu5
wait_for 60 "all VFs are made anew when nobody uses them" is free slice_state "vf:$address"
expect_eq "nothing is wedged" "" "$(cat "$wedged")"
w 5000 /sys/module/nvidia/parameters/init_window_ms
start vgpu1
expect_eq "its type" 563 "$(type_of "$(home vgpu1)")"
address=$(home vgpu1)
destroy vgpu1
wait_for 60 "the slice is free" is free slice_state "vf:$address"

say "a vGPU on a T4"
define_mdev vgpu3 "$(rows profiles | jq -r 'select(.type == "nvidia-231") | .profile')"
start vgpu3
expect_eq "instances left" 7 "$(cat $pci/$t4/mdev_supported_types/nvidia-231/available_instances)"
expect_eq "of other types" 0 "$(cat $pci/$t4/mdev_supported_types/nvidia-232/available_instances)"
destroy vgpu3
wait_for 20 "the mdev is gone" is 8 cat $pci/$t4/mdev_supported_types/nvidia-231/available_instances

say "a vGPU in a GPU instance"
instances() { nvidia-smi mig -i $a100 -lgi | awk '{print $4}' | sort | paste -sd' '; }
expect_eq "GPU instances, made after the VFs" "1g.10gb 2g.20gb" "$(instances)"
expect_eq "what the A100 is set to" '1g.10gb,2g.20gb' "$(rows gpus | jq -r 'select(.parent == "'$a100'") | .modes.instances')"
domain vgpu4 "" "" | define
expect "gpuslice attach" q gpuslice attach vgpu4 nvidia-a100d-2-20c
address=$(home vgpu4)
start vgpu4
expect_eq "its type" 700 "$(type_of "$address")"
expect "it is in an instance" cat "$pci/$address/nvidia/gpu_instance_id"
destroy vgpu4
wait_for 20 "its type is taken back" is 0 type_of "$address"
wait_for 120 "the slice is free" is free slice_state "vf:$address"
wait_for 120 "the GPU has its instances" is "1g.10gb 2g.20gb" instances
expect "sriov-manage takes VFs and instances" q /usr/lib/nvidia/sriov-manage -d $a100
wait_for 60 "gpuslice makes both again" is "1g.10gb 2g.20gb" instances
wait_for 20 "the GPU is as it should be" is ok field gpus parent $a100 state
