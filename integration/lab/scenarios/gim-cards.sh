# AMD under GIM, other GPUs: a Radeon that nobody knows, MI308X, MI325X, MI350X, MI210, V710, modes and options, the driver lost; two that cannot be sliced
# group: main
# order: 81
# needs: product
# long: yes
# limit: 600
. /lab/scenarios/product.sh

# no addresses of other scenarios' cards
pci=/sys/bus/pci/devices a=0041:00:00.0 b=0042:00:00.0 radeon=0043:00:00.0 rx6600=0048:00:00.0 rtx5090=0049:00:00.0
mi308x=0044:00:00.0 mi325x=0045:00:00.0 mi350x=0046:00:00.0 mi210=0047:00:00.0 v710=004a:00:00.0
option=/etc/modprobe.d/gpuslice-gim.conf
trap boot_host_after_gim EXIT
vfs() { ls -d "$pci/$1"/virtfn* 2> /dev/null | wc -l; }
counts() { for pf in $a $b $radeon $mi308x $mi325x $mi350x $mi210 $v710; do vfs $pf; done | paste -sd' '; }
profiles_of() { rows profiles --arg p "$1" 'select(.parents | index($p)) | "\(.profile) \(.free)"'; }
modes_of() { rows gpus --arg p "$1" 'select(.parent == $p) | .modes | "\(.compute) \(.memory)"'; }
# layouts FABRIC-SHARING [VFS] : so many of the Radeon and the MI308X, twice as many of the MI350X, three times of the V710
layouts() {
  local id vfs=${2:-4}
  for id in 74a1:'vfs = 1, compute = "CPX", scheduler = 4, fabric-sharing = '$1 7480:"vfs = $vfs" 74a2:"vfs = $vfs" 74a5:'vfs = 1' \
    75a0:"vfs = $((2 * vfs)), memory = \"NPS2\"" 740f:'vfs = 1' 7460:"vfs = $((3 * vfs))"; do
    printf '[[gpu]]\nmatch = { vendor-device = "1002:%s" }\nlayout = { %s }\n' "${id%%:*}" "${id#*:}"
  done > /etc/gpuslice/gpuslice.toml
}

expect "the boot's cards go" other_host
expect "others come" load_gpusim \
  'mi300x*2:domain=0x41,radeon:domain=0x43,mi308x:domain=0x44,mi325x:domain=0x45,mi350x:domain=0x46,mi210:domain=0x47,rx6600:domain=0x48,rtx5090:domain=0x49,v710:domain=0x4a'
# amdgpu takes what gim does not know, and would take VFs too
for pf in $pci/004[1-7a]:00:00.0; do w 0 $pf/sriov_drivers_autoprobe; done
rm -f /etc/gim_config $option
expect "their drivers load" modprobe -a gim amdgpu nvidia
expect_eq "VFs" "1 1 1 1 1 1 1 1" "$(counts)"
for pair in $radeon=gim $rx6600=amdgpu $rtx5090=nvidia; do expect "${pair#*=} has ${pair%=*}" bound_to "$pci/${pair%=*}" "${pair#*=}"; done
: > /etc/gpuslice/gpuslice.toml
expect "gpusliced starts" daemon start
all_up

say "what cannot be sliced says so, and what works"
reason_of() { field gpus parent "$1" reason; }
for pair in $rx6600=amdgpu $rtx5090=nvidia; do
  gpu=${pair%=*}
  expect_eq "$gpu" unsliceable "$(gpu_state $gpu)"
  expect "it says why" grep "$gpu cannot be sliced on this host: it has no SR-IOV, and its driver ${pair#*=} makes no mediated devices" <(reason_of $gpu)
  expect "to give the whole of it" grep -q "give the whole of it to one VM (virt-manager: Add Hardware, PCI Host Device $gpu)" <(reason_of $gpu)
  expect "or to render on it" grep -q "<gl rendernode='/dev/dri/by-path/pci-$gpu-render'/>" <(reason_of $gpu)
done

say "numbers of VFs, modes and options, of all at once"
layouts 8
expect "gpuslice apply" q timeout 200 gpuslice apply
# the order is the driver's: all of one id, then all of the next, those that nobody knows at the end
expect_eq "the option" "options gim vf_num=1,1,1,4,8,1,12,4 fb_sharing_mode=8 sch_policy=4" "$(sed -n '$p' $option)"
expect_eq "VFs" "1 1 4 4 1 8 1 12" "$(counts)"
expect_eq "the driver's options" "8 4" "$(cat /sys/module/gim/parameters/{fb_sharing_mode,sch_policy} | paste -sd' ')"
while read -r gpu profile free modes; do
  expect_eq "what $gpu offers" "$profile $free" "$(profiles_of "$gpu")"
  expect_eq "its modes" "$modes" "$(modes_of "$gpu")"
done << X
$a amd-mi300x-vf1-cpx 2 CPX NPS1
$radeon amd-7480-vf4 4 null null
$mi308x amd-mi308x-vf4-qpx 4 QPX NPS1
$mi325x amd-mi325x-vf1-spx 1 SPX NPS1
$mi350x amd-mi350x-vf8-cpx-nps2 8 CPX NPS2
$mi210 amd-mi210-vf1-spx 1 SPX NPS1
$v710 amd-v710-vf12 12 null null
X
expect "nothing is left to do" grep -q "already so" <(gpuslice plan)

say "a VM with a VF of each, and of the Radeon"
domain all "" "" | define
asks() { # PROFILE… : by claims that are called after their GPUs
  local profile name
  for profile; do
    name=${profile#amd-}; name=${name%%-*}
    expect "gpuslice attach" gpuslice attach all $profile --name "g$name"
  done
}
printf '%s vfio-pci\n' "g7480 $radeon" "gmi308x $mi308x" "gmi325x $mi325x" "gmi350x $mi350x" "gmi210 $mi210" "gv710 $v710" > all
asks amd-7480-vf4 amd-mi308x-vf4-qpx amd-mi325x-vf1-spx amd-mi350x-vf8-cpx-nps2 amd-mi210-vf1-spx amd-v710-vf12
start all
has all < all
say "gpusliced is killed under it"
daemon_dies
all_up
has all < all
gives_back all
wait_for 20 "all is free" is 0 count_assigned

say "other numbers, while the driver is gone"
expect "gim unloads" modprobe -r gim
expect_eq "VFs" "0 0 0 0 0 0 0 0" "$(counts)"
layouts 8 2
expect "gpuslice apply" q timeout 200 gpuslice apply
expect_eq "VFs" "1 1 2 2 1 4 1 6" "$(counts)"
expect_eq "what the MI350X is set to" "QPX NPS2" "$(modes_of $mi350x)"
asks amd-7480-vf2 amd-mi308x-vf2-dpx amd-mi350x-vf4-qpx-nps2 amd-v710-vf6
start all
has all < all
gives_back all
wait_for 20 "all is free" is 0 count_assigned

say "GPUs that share their memory"
domain wide "" "" | define
expect "both" q gpuslice attach wide amd-mi300x-vf1-cpx --count 2 --fabric same
start wide
expect_eq "VFIO groups QEMU has open" 2 "$(open_vfio wide)"
expect_eq "GPUs they are of" "$a $b" "$(rows slices 'select(.state == "attached") | .parent' | sort -u | paste -sd' ')"
layouts 1 2
out=$(timeout 100 gpuslice apply 2>&1) && fail "the module was loaded anew under a VM: $out"
expect "apply is refused: $out" grep -q "in-use.*wide\|wide.*in-use" <<< "$(tr '\n' ' ' <<< "$out")"
destroy wide
wait_for 20 "all is free" is 0 count_assigned
expect "detach" gpuslice detach wide gpu0

say "GPUs that do not"
expect "gpuslice apply" q timeout 200 gpuslice apply
expect_eq "the driver's option" 1 "$(cat /sys/module/gim/parameters/fb_sharing_mode)"
out=$(gpuslice attach wide amd-mi300x-vf1-cpx --count 2 --fabric same 2>&1) && fail "two of two GPUs were given: $out"
expect "two of one fabric are refused: $out" grep -q "error: no-capacity: " <<< "$out"
expect "one is not" gpuslice attach wide amd-mi300x-vf1-cpx --count 1 --fabric same
start wide
expect_eq "GPUs they are of" 1 "$(rows slices 'select(.state == "attached") | .parent' | sort -u | wc -l)"
destroy wide
wait_for 20 "all is free" is 0 count_assigned
expect_eq "reads of reset_gpu" 0 "$(cat /sys/kernel/debug/gim/*/resets_read | sort -u)"
