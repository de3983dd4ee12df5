# One MI300X and eight under GIM: a VM with all, VMs with parts of one, gpusliced killed, the driver lost; one under amdgpu, given whole
# group: main
# order: 82
# needs: product
# long: yes
# limit: 600
. /lab/scenarios/product.sh

pci=/sys/bus/pci/devices option=/etc/modprobe.d/gpuslice-gim.conf
trap boot_host_after_gim EXIT
vfs() { for gpu in $gpus; do ls -d "$pci/$gpu"/virtfn* 2> /dev/null | wc -l; done | sort -u | paste -sd' '; } # of each
layout() { printf '[[gpu]]\nmatch = { model = "mi300x" }\nlayout = { %s }\n' "$1" > /etc/gpuslice/gpuslice.toml; }
memory() { for gpu in $gpus; do sed -n 's/^memory_partition_mode: //p' "$pci/$gpu/memory_partition_mode"; done | sort -u | paste -sd' '; }
attach() { domain "$1" "" "" | define; expect "gpuslice attach $*" q gpuslice attach "$@"; }
of_each() { printf "gpu0 %s vfio-pci\n" "$@"; }
gpus_of() { rows slices --arg c "$(domain_uuid "$1")/gpu0" 'select(.claim == $c) | .parent' | sort -u | paste -sd' '; } # DOMAIN
rows_of_gim() { rows gpus 'select(.mechanisms | index("gim")) | .parent' | wc -l; }

story() { # COUNT DOMAIN-OF-THE-FIRST
  local count=$1 out
  gpus=$(for ((n = 0; n < count; n++)); do printf '%04x:00:00.0 ' $(($2 + n)); done)
  clear_domains
  expect "the cards before them go" other_host
  rm -f /etc/gim_config $option
  expect "$count MI300X come" load_gpusim "mi300x*$count:domain=$2"
  layout 'vfs = 1'
  expect "gpusliced starts" daemon start
  wait_for 20 "it sees them" is "$count" rows_of_gim
  expect "gpuslice apply" q timeout 200 gpuslice apply
  expect_eq "VFs" 1 "$(vfs)"

  say "$count: a VM with all of it"
  expect_eq "free" "$count" "$(free_of amd-mi300x-vf1-spx)"
  attach train amd-mi300x-vf1-spx --count "$count" --fabric same
  start train
  has train < <(of_each $gpus)
  expect_eq "free" 0 "$(free_of amd-mi300x-vf1-spx)"
  domain more "" "" | define
  out=$(gpuslice attach more amd-mi300x-vf1-spx 2>&1) && fail "one more was given: $out"
  expect "one more is refused: $out" grep -q "error: no-capacity: " <<< "$out"
  daemon_dies
  all_up
  has train < <(of_each $gpus)

  say "$count: eight of each, with memory near them"
  layout 'vfs = 8, compute = "CPX", memory = "NPS4"'
  out=$(timeout 100 gpuslice apply 2>&1) && fail "the module was loaded anew under a VM: $out"
  expect "not under the VM: $out" grep -q "in-use.*train\|train.*in-use" <<< "$(tr '\n' ' ' <<< "$out")"
  gives_back train
  expect "gpuslice detach" gpuslice detach train gpu0
  expect "gpuslice apply" q timeout 300 gpuslice apply
  expect_eq "VFs and memory" "8 NPS4" "$(vfs) $(memory)"
  expect_eq "free" $((8 * count)) "$(free_of amd-mi300x-vf8-cpx-nps4)"
  attach part amd-mi300x-vf8-cpx-nps4
  attach half amd-mi300x-vf8-cpx-nps4 --count 4 --fabric same
  parts_run

  say "$count: the driver is lost"
  gives_back part
  gives_back half
  wait_for 20 "all is free" is 0 count_assigned
  expect "gim unloads" modprobe -r gim
  expect_eq "VFs" 0 "$(vfs)"
  wait_for 20 "it says what mends it" is "gim was unloaded: gpuslice apply" field gpus parent "${gpus%% *}" reason
  expect "gpuslice apply" q timeout 300 gpuslice apply
  expect_eq "VFs and memory" "8 NPS4" "$(vfs) $(memory)"
  parts_run
  gives_back half
  gives_back part
  expect_eq "reads of reset_gpu" 0 "$(cat /sys/kernel/debug/gim/*/resets_read | sort -u)"
}

parts_run() {
  local gpu
  start part
  start half
  has part < <(of_each "$(gpus_of part)")
  gpu=$(gpus_of half)
  has half < <(of_each $gpu $gpu $gpu $gpu)
  expect_eq "free" $((8 * count - 5)) "$(free_of amd-mi300x-vf8-cpx-nps4)"
}

story 8 0x61
story 1 0x71

say "under amdgpu, which gives the whole alone"
a=0071:00:00.0
partitions() { cat $pci/$a/current_{compute,memory}_partition | paste -sd' '; }
clear_domains
daemon stop
modprobe -r gim; rm -f $option
layout 'compute = "QPX"'
expect "amdgpu loads" modprobe amdgpu
expect "it has the GPU" bound_to $pci/$a amdgpu
expect "gpusliced starts" daemon start
wait_for 20 "it sees whose it is" is amdgpu field gpus parent $a driver
expect "gpuslice apply" q gpuslice apply
expect_eq "its partitions" "QPX NPS1" "$(partitions)"
expect_eq "slices" "" "$(slices_of $a)"
domain whole "" "$(pci_device $a yes)" | define
start whole
expect "vfio-pci has it" bound_to $pci/$a vfio-pci
expect "QEMU has it open" has_open whole $pci/$a
wait_for 20 "gpusliced sees it" is vfio-pci field gpus parent $a driver
out=$(timeout 100 gpuslice apply 2>&1) && fail "a mode was set under the VM: $out"
expect "no mode is set meanwhile: $out" grep -q "vfio-pci has $a, and sets no mode of it" <<< "$out"
expect "it runs on" has_open whole $pci/$a
destroy whole
wait_for 20 "amdgpu has it back" bound_to $pci/$a amdgpu
wait_for 20 "what it was set to is lost" is drift gpu_state $a
expect "gpuslice apply" q gpuslice apply
expect_eq "its partitions" "QPX NPS1" "$(partitions)"
start whole
daemon_dies
expect "vfio-pci has it" bound_to $pci/$a vfio-pci
destroy whole
wait_for 20 "amdgpu has it back" bound_to $pci/$a amdgpu
