# VMs with vGPUs of NVIDIA's: mdevs on VFs, after a driver's upgrade types of VFs, mdevs on a T4, GPU instances of an A100
# group: main
# order: 70
# needs: product
# limit: 400
. /lab/scenarios/product.sh
cleanup() {
  clear_domains
  [ ! -e listener.pid ] || kill "$(cat listener.pid)"
  boot_host
  rm -f /etc/modprobe.d/gpuslice-nvidia.conf /etc/modprobe.d/nvidia.conf
}
trap cleanup EXIT

pci=/sys/bus/pci/devices
# no addresses of other scenarios' cards: what the log says of these it says until the reboot
a40=0011:00:00.0 t4=0012:00:00.0 a100=0013:00:00.0
v=$pci/$a40/virtfn
parameters=frame_rate_limiter=0,disable_vnc=1
with_parameters() { virsh dumpxml --inactive "$1" | sed "s/<gpuslice:claim /&parameters='$parameters' /" | define; }
type_of() { cat "$pci/$1/nvidia/current_vgpu_type"; }

expect "the boot's cards go" other_host
expect "an A40, a T4 and an A100 come, with the older driver" \
  load_gpusim a40:vfs=4:domain=0x11,t4:domain=0x12,a100:vfs=4:domain=0x13 'nvidia framework=mdev'
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

say "a vGPU that is an mdev of a VF"
expect_eq "VFs of $a40, made by sriov-manage" 4 "$(ls -d ${v}* | wc -l)"
expect_eq "free nvidia-a40-12q" "4 mdev" "$(free_of nvidia-a40-12q) $(field profiles profile nvidia-a40-12q mechanism)"
domain vgpu1 "" "" | define
expect "gpuslice attach" q gpuslice attach vgpu1 nvidia-a40-12q
mdev=$(mdev_uuid "$(domain_uuid vgpu1)" gpu0)
wait_for 20 "the domain names an mdev" is "$mdev" mdevs_of vgpu1
start vgpu1
expect "QEMU has it open" holds_vfio vgpu1
expect_eq "its type" nvidia-563 "$(basename "$(readlink "/sys/bus/mdev/devices/$mdev/mdev_type")")"
expect "its parent is a VF" present "/sys/bus/mdev/devices/$mdev/../physfn"
expect_eq "the slice" attached "$(slice_state "mdev:$mdev")"
destroy vgpu1
expect "it is left to its driver" present "/sys/bus/mdev/devices/$mdev"
wait_for 20 "which does not remove it, so the daemon does" gone "/sys/bus/mdev/devices/$mdev"
wait_for 10 "capacity is back" is 4 free_of nvidia-a40-12q

say "one in a GPU instance"
instances() { nvidia-smi mig -i $a100 -lgi | awk '{print $4}' | sort | paste -sd' '; }
# instance_with TYPE : the GPU instance that the vGPU of that type is in which runs
instance_with() { awk -v id="$1" 'NR == FNR {if ($1 == id && $5) gi = $3; next} $1 == gi {print $5}' /sys/kernel/debug/nvidia/$a100/{vgpus,gpu_instances}; }
expect_eq "GPU instances, made after the VFs" "1g.10gb 2g.20gb" "$(instances)"
domain vgpu4 "" "" | define
expect "gpuslice attach" q gpuslice attach vgpu4 nvidia-a100d-2-20c
start vgpu4
has vgpu4 <<< "gpu0 $a100 nvidia-700"
expect_eq "what it is made of" "mdev 2g.20gb" "$(field profiles profile nvidia-a100d-2-20c mechanism) $(instance_with 700)"
expect_eq "free nvidia-a100d-2-20c and -1-10c" "0 1" "$(free_of nvidia-a100d-2-20c) $(free_of nvidia-a100d-1-10c)"
gives_back vgpu4
wait_for 10 "capacity is back" is 1 free_of nvidia-a100d-2-20c

say "an upgrade of the driver, whose vGPUs are types of VFs"
expect "the older driver unloads" modprobe -r nvidia
wait_for 20 "nothing offers its profile" is "" free_of nvidia-a40-12q
expect "the newer one loads" modprobe nvidia
wait_for 60 "the profile is that of VFs" is nvidia-vfio field profiles profile nvidia-a40-12q mechanism
named() { [[ $(vfs_of "$1") = *:* ]]; }
for name in vgpu1 vgpu4; do
  wait_for 60 "the agent has written a VF in place of the mdev of $name" named $name
  expect_eq "mdevs in the definition" "" "$(mdevs_of $name)"
done
all_up
expect_eq "VFs of $a40, made by sriov-manage" 4 "$(ls -d ${v}* | wc -l)"
claim_is() { rows claims --arg c "$(domain_uuid vgpu1)/gpu0" 'select(.claim == $c) | "\(.profile) \(.state) \(.home | join(" "))"'; }
expect_eq "its claim" "nvidia-a40-12q idle $(vfs_of vgpu1)" "$(claim_is)"
expect_eq "slices of $a40" 4 "$(count_slices $a40)"
expect_eq "drivers of the VFs" nvidia "$(for vf in ${v}*; do basename "$(readlink "$vf/driver")"; done | sort -u)"
rows profiles -c '{profile, mechanism, type, memory, max, free}'
expect_eq "free nvidia-a40-12q" 4 "$(free_of nvidia-a40-12q)"

say "a vGPU on a VF, with parameters for its driver"
expect_eq "to attach it again changes nothing" false "$(gpuslice attach vgpu1 nvidia-a40-12q --json | jq -r .changed)"
with_parameters vgpu1
address=$(home_of vgpu1)
expect "the domain names a VF with managed='no'" [ -n "$address" ]
expect_eq "gpuslice doctor of this host and of it" " " "$(doctors) $(doctors vgpu1)"
virsh dumpxml --inactive vgpu1 | sed "s/managed='no'/managed='yes'/" > managed.xml
expect_eq "if libvirt were to manage the VF" guest-managed "$(doctors ./managed.xml)"
expect_eq "its type before the start" 0 "$(type_of "$address")"
start vgpu1
expect_eq "its type" 563 "$(type_of "$address")"
expect_eq "its parameters" $parameters "$(cat "$pci/$address/nvidia/vgpu_params")"
expect "it is still the vendor's" bound_to "$pci/$address" nvidia
expect "QEMU has it open" holds_vfio vgpu1
expect_eq "the slice" attached "$(slice_state "vf:$address")"

say "what the kernel's log says of a GPU"
domain vgpu2 "" "" | define
xid() { echo "NVRM: Xid (PCI:${1%.*}): $2, pid=1, name=lab"; }
gpuslice events --json > events & echo $! > listener.pid
# only a change that it tells shows that it listens
listens() { gpuslice cordon $t4 && gpuslice uncordon $t4 && [ -s events ]; }
told() { jq -e --arg id "$1" --arg what "$2" 'select(.id == $id and (.what | startswith($what)))' events; }
wait_for 20 "somebody listens" listens
echo "<3>$(xid $a40 79)" > /dev/kmsg
driver_says "$(xid $a40 31)"
driver_says "$(xid $t4 63)"
wait_for 20 "the T4 is degraded" is degraded health $t4
expect "and given out" not is cordoned gpu_state $t4
expect_eq "the A40, of which a program and its guest complained" ok "$(health $a40)"
driver_says "$(xid $a40 79)"
wait_for 20 "the A40 has failed" is failed health $a40
expect_eq "its state" cordoned "$(gpu_state $a40)"
expect "status shows the line and what ends it" grep "$a40 has failed: .*): 79, .*gpuslice uncordon $a40" <(gpuslice status)
wait_for 10 "events tell it" told $a40 "failed: $(xid $a40 79)"
expect "no new VM gets it" grep "error: cordoned: $a40" <(gpuslice attach vgpu2 nvidia-a40-12q 2>&1)
expect "the VM on it runs on" holds_vfio vgpu1
expect "gpuslice uncordon" q gpuslice uncordon $a40
expect_eq "the A40" "ok ok" "$(health $a40) $(gpu_state $a40)"
expect "gpusliced restarts" systemctl restart gpusliced
all_up
expect_eq "a line counts once, and is kept until somebody has looked" "ok degraded" "$(health $a40) $(health $t4)"
expect "gpuslice uncordon" q gpuslice uncordon $t4
expect_eq "the slice" attached "$(slice_state "vf:$address")"
kill "$(cat listener.pid)"; rm listener.pid

say "another size beside it"
if gpuslice attach vgpu2 nvidia-a40-24q; then refused vgpu2 no-capacity; else ok "nvidia-a40-24q is refused beside 12 GiB"; fi

destroy vgpu1
wait_for 20 "its type is taken back" is 0 type_of "$address"
wait_for 60 "the slice is free" is free slice_state "vf:$address"
expect_eq "nothing is left of its parameters" "" "$(cat "$pci/$address/nvidia/vgpu_params")"

say "a VM killed while it begins to use its VF"
wedged=/sys/kernel/debug/nvidia/$a40/wedged
w 600000 /sys/module/nvidia/parameters/init_window_ms
domain vgpu5 "" "" | define
expect "gpuslice attach" q gpuslice attach vgpu5 nvidia-a40-12q
beside=$(home_of vgpu5)
start vgpu5
# before virsh is through: on a slow host that is later than a guest needs to be well
(virsh start vgpu1 > start.out 2>&1) & starting=$!
wait_for 60 "its VM begins to use it" is attached slice_state "vf:$address"
expect "a SIGKILL" kill -9 "$(qemu_of vgpu1)"
wait $starting || true
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
expect_eq "its type" 563 "$(type_of "$(home_of vgpu1)")"
expect_eq "its parameters, written again" $parameters "$(cat "$pci/$(home_of vgpu1)/nvidia/vgpu_params")"
address=$(home_of vgpu1)
destroy vgpu1
wait_for 60 "the slice is free" is free slice_state "vf:$address"

say "a vGPU on a T4"
define_mdev vgpu3 "$(rows profiles 'select(.type == "nvidia-231") | .profile')"
with_parameters vgpu3
start vgpu3
expect_eq "its parameters" $parameters "$(cat "/sys/bus/mdev/devices/$(mdev_uuid "$(domain_uuid vgpu3)" gpu0)/nvidia/vgpu_params")"
expect_eq "instances left" 7 "$(cat $pci/$t4/mdev_supported_types/nvidia-231/available_instances)"
expect_eq "of other types" 0 "$(cat $pci/$t4/mdev_supported_types/nvidia-232/available_instances)"
destroy vgpu3
wait_for 20 "the mdev is gone" is 8 cat $pci/$t4/mdev_supported_types/nvidia-231/available_instances

say "a vGPU in a GPU instance"
expect_eq "GPU instances, made after the VFs" "1g.10gb 2g.20gb" "$(instances)"
expect_eq "what the A100 is set to" '1g.10gb,2g.20gb' "$(rows gpus 'select(.parent == "'$a100'") | .modes.instances')"
address=$(home_of vgpu4)
start vgpu4
has vgpu4 <<< "gpu0 $a100 nvidia-700"
expect_eq "what it is made of" "nvidia-vfio 2g.20gb" "$(field profiles profile nvidia-a100d-2-20c mechanism) $(instance_with 700)"
gives_back vgpu4
wait_for 120 "the slice is free" is free slice_state "vf:$address"
wait_for 120 "the GPU has its instances" is "1g.10gb 2g.20gb" instances
# as long as somebody looks at the GPU, it is refused
wait_for 20 "sriov-manage takes VFs and instances" q /usr/lib/nvidia/sriov-manage -d $a100
wait_for 60 "gpuslice makes both again" is "1g.10gb 2g.20gb" instances
wait_for 20 "the GPU is as it should be" is ok field gpus parent $a100 state

say "how vGPUs take turns, which comes with the next load of the driver"
scheduler() { rows gpus --arg p $a40 'select(.parent == $p) | "\(.modes.scheduler) \(.coming.scheduler)"'; }
turns() { cat /sys/kernel/debug/nvidia/$a40/scheduler; }
options=/etc/modprobe.d/gpuslice-nvidia.conf
expect_eq "it goes by" "Best Effort; best-effort null" "$(turns); $(scheduler)"
sed -i '/"'$a40'"/{n;s/"all"/"all", scheduler = "equal-share"/}' /etc/gpuslice/gpuslice.toml
echo "options nvidia NVreg_RegistryDwordsPerDevice=\"pci=$a40;RmPVMRL=0x11\"" > /etc/modprobe.d/nvidia.conf
expect "an option of somebody else's is not fought" grep "bad-config: /etc/modprobe.d/nvidia.conf gives" <(gpuslice apply 2>&1)
rm /etc/modprobe.d/nvidia.conf
expect "gpuslice apply" q gpuslice apply
expect_eq "the option" "pci=$a40;RmPVMRL=0x01" "$(sed -n 's/^options nvidia NVreg_RegistryDwordsPerDevice="\(.*\)"$/\1/p' $options)"
expect_eq "it goes by the former" "Best Effort; best-effort equal-share ok" "$(turns); $(scheduler) $(gpu_state $a40)"
expect "status says so" grep "$a40: scheduler is best-effort, equal-share with the next load of nvidia" <(gpuslice status)
expect_eq "a second plan" '{"changed":false,"later":1}' "$(gpuslice plan --json | jq -c '{changed, later: (.later | length)}')"
daemon stop
expect "the driver is loaded anew" q sh -c 'rmmod nvidia && modprobe nvidia'
expect "gpusliced starts" daemon start
all_up
expect_eq "it goes by" "Equal Share; equal-share null" "$(turns); $(scheduler)"
expect "all VFs are made anew" q sh -c "/usr/lib/nvidia/sriov-manage -d $a40"
wait_for 60 "gpuslice makes them again" is ok field gpus parent $a40 state
expect_eq "it goes by" "Equal Share; equal-share null" "$(turns); $(scheduler)"
