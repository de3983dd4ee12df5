# More of NVIDIA's: sizes mixed on one GPU, sriov-manage that fails, and VMs on an A16, an L40S, an RTX PRO 6000, a V100 and a P40
# group: main
# order: 72
# needs: product
# long: yes
# limit: 500
. /lab/scenarios/product.sh
cleanup() { clear_domains; boot_host; }
trap cleanup EXIT

# no addresses of other scenarios' cards
pci=/sys/bus/pci/devices control=/sys/kernel/debug/nvidia
a40=0051:00:00.0 a16=0052:00:00.0 l40s=0053:00:00.0 rtxpro=0054:00:00.0 v100=0055:00:00.0 p40=0056:00:00.0
vfs() { ls -d "$pci/$1"/virtfn* 2> /dev/null | wc -l; }
counts() { for pf in $a40 $a16 $l40s $rtxpro; do vfs $pf; done | paste -sd' '; }
type_of() { cat "$pci/$1/nvidia/current_vgpu_type"; }
layouts() { # OF-THE-A40
  local pf more=$1
  for pf in $a40 $a16 $l40s $rtxpro; do
    printf '[[gpu]]\nmatch = { address = "%s" }\nlayout = { vfs = "all"%s }\n' $pf "$more"; more=
  done > /etc/gpuslice/gpuslice.toml
}
attach() { domain "$1" "" "" | define; expect "gpuslice attach $2" q gpuslice attach "$1" "$2"; } # DOMAIN PROFILE
# gives_back DOMAIN : its end, and nothing of it is left
gives_back() {
  local vf; vf=$(home_of "$1")
  destroy "$1"
  [ ! "$vf" ] || wait_for 30 "its type is taken back" is 0 type_of "$vf"
  wait_for 60 "its slice is given back" is idle claim_state "$(domain_uuid "$1")/gpu0"
}

expect "the boot's cards go" other_host
expect "others come" load_gpusim \
  a40:vfs=4:domain=0x51,a16:vfs=4:domain=0x52,l40s:vfs=4:domain=0x53,rtxpro6000:vfs=4:domain=0x54,v100:domain=0x55,p40:domain=0x56 nvidia
layouts

say "sriov-manage fails: it is refused the lock"
w 1 $control/$a40/lock_refusals
expect "gpusliced starts" daemon start
all_up
expect_eq "VFs" "4 4 4 4" "$(counts)"
expect_eq "refusals of the lock that are left" 0 "$(cat $control/$a40/lock_refusals)"
for pf in $a40 $a16; do
  expect "nvidia has $pf" bound_to "$pci/$pf" nvidia
  expect_eq "drivers of its VFs" nvidia "$(for vf in "$pci/$pf"/virtfn*; do basename "$(readlink "$vf/driver")"; done | sort -u)"
  expect_eq "its state" ok "$(gpu_state $pf)"
done

say "sizes mixed"
layouts ', sizes = "mixed"'
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "the driver's mode" 1 "$(cat $control/$a40/mixed)"
expect_eq "what the A40 is set to" mixed "$(rows gpus --arg p $a40 'select(.parent == $p) | .modes.sizes')"
attach half nvidia-a40-24q
attach quarter nvidia-a40-12q
start half
start quarter
expect_eq "their types" "565 563" "$(type_of "$(home_of half)") $(type_of "$(home_of quarter)")"
expect_eq "slices assigned" 2 "$(count_assigned)"
domain third "" "" | define
# of 48 GiB 12 are left, and three of 16 would need one of the places that half has
if gpuslice attach third nvidia-a40-16q; then refused third no-capacity; else ok "16 GiB more are refused at once"; fi
layouts ', sizes = "equal"'
out=$(timeout 100 gpuslice apply 2>&1) && fail "the sizes were changed under VMs: $out"
expect "equal sizes are refused: $out" grep -q in-use <<< "$out"
gives_back quarter
gives_back half
# a VM that ended early may have wedged its VF, and then all are made anew
all_up
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "the driver's mode" 0 "$(cat $control/$a40/mixed)"

say "a VM on each of the others"
rows profiles -c '{profile, mechanism, type, memory, max, free}'
while read -r gpu profile mechanism type max <&4; do
  name=vm${gpu%%:*}
  expect_eq "$profile" "$mechanism nvidia-$type $max $max $gpu" \
    "$(rows profiles --arg p "$profile" 'select(.profile == $p) | "\(.mechanism) \(.type) \(.max) \(.free) \(.parents | join(" "))"')"
  attach "$name" "$profile"
  start "$name"
  expect "QEMU has it open" holds_vfio "$name"
  vf=$(home_of "$name")
  [ ! "$vf" ] || expect_eq "its type" "$type" "$(type_of "$vf")"
  expect_eq "free" $((max - 1)) "$(free_of "$profile")"
  gives_back "$name"
  wait_for 20 "capacity is back" is "$max" free_of "$profile"
done 4<< X
$a16 nvidia-a16-4q nvidia-vfio 713 4
$l40s nvidia-l40s-12q nvidia-vfio 1153 4
$rtxpro nvidia-rtx-pro-6000-blackwell-dc-24q nvidia-vfio 1525 4
$v100 nvidia-v100-4q mdev 107 4
$p40 nvidia-p40-8q mdev 51 3
X

say "GPU instances of an RTX PRO 6000"
sed -i '$d' /etc/gpuslice/gpuslice.toml
echo 'layout = { vfs = "all", instances = ["2g.48gb", "1g.24gb"] }' >> /etc/gpuslice/gpuslice.toml
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "what it is set to" "1g.24gb,2g.48gb" "$(rows gpus --arg p $rtxpro 'select(.parent == $p) | .modes.instances | split(",") | sort | join(",")')"
attach inside nvidia-rtx-pro-6000-blackwell-dc-1-24q
start inside
expect "it is in an instance" cat "$pci/$(home_of inside)/nvidia/gpu_instance_id"
gives_back inside
