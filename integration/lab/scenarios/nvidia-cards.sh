# NVIDIA's cards one by one, in both frameworks: a VM on each, gpusliced killed, other layouts, the driver lost; sriov-manage that fails
# group: main
# order: 72
# needs: product
# long: yes
# limit: 900
. /lab/scenarios/product.sh
cleanup() { clear_domains; boot_host; }
trap cleanup EXIT

# no addresses of other scenarios' cards
pci=/sys/bus/pci/devices control=/sys/kernel/debug/nvidia
a40=0051:00:00.0 a16=0052:00:00.0 l40s=0053:00:00.0 rtxpro=0054:00:00.0 v100=0055:00:00.0 p40=0056:00:00.0
t4=0057:00:00.0 a100=0058:00:00.0 h100=0059:00:00.0
vfs() { ls -d "$pci/$1"/virtfn* 2> /dev/null | wc -l; }
counts() { for pf in $a40 $a16 $l40s $rtxpro $a100 $h100; do vfs $pf; done | paste -sd' '; }
type_of() { cat "$pci/$1/nvidia/current_vgpu_type"; }
# What a layout says beside `vfs = "all"`; cards whose vGPUs are on the PF have one only where something is parked.
declare -A more
layouts() {
  local pf
  {
    for pf in $a40 $a16 $l40s $rtxpro $a100 $h100; do
      printf '[[gpu]]\nmatch = { address = "%s" }\nlayout = { vfs = "all"%s }\n' $pf "${more[$pf]-}"
    done
    for pf in $v100 $p40 $t4; do
      [ ! "${more[$pf]-}" ] || printf '[[gpu]]\nmatch = { address = "%s" }\nlayout = { park = { %s = 1 } }\n' $pf "${more[$pf]}"
    done
  } > /etc/gpuslice/gpuslice.toml
}
sizes_of() { echo "$(rows gpus --arg p "$1" 'select(.parent == $p) | .modes.sizes') $(cat "$control/$1/mixed")"; } # as gpusliced says, and the driver
attach() { domain "$1" "" "" | define; expect "gpuslice attach $2" q gpuslice attach "$1" "$2"; } # DOMAIN PROFILE
parked() { ls /sys/bus/mdev/devices | wc -l; }
instances() { nvidia-smi mig -i "$1" -lgi | awk '{print $4}' | sort | paste -sd' '; }

expect "the boot's cards go" other_host
expect "others come" load_gpusim a40:vfs=4:domain=0x51,a16:vfs=4:domain=0x52,l40s:vfs=4:domain=0x53,rtxpro6000:vfs=4:domain=0x54,v100:domain=0x55,\
p40:domain=0x56,t4:domain=0x57,a100:vfs=4:domain=0x58,h100:vfs=4:domain=0x59 nvidia
more[$a100]=', instances = ["1g.10gb", "2g.20gb"]' more[$h100]=', instances = ["1g.12gb", "3g.47gb"]'
layouts

say "sriov-manage fails: it is refused the lock"
w 1 $control/$a40/lock_refusals
expect "gpusliced starts" daemon start
all_up
expect_eq "VFs" "4 4 4 4 4 4" "$(counts)"
expect_eq "refusals of the lock that are left" 0 "$(cat $control/$a40/lock_refusals)"
for pf in $a40 $a16 $a100 $h100; do
  expect "nvidia has $pf" bound_to "$pci/$pf" nvidia
  expect_eq "drivers of its VFs" nvidia "$(for vf in "$pci/$pf"/virtfn*; do basename "$(readlink "$vf/driver")"; done | sort -u)"
  expect_eq "its state" ok "$(gpu_state $pf)"
done

say "sizes mixed"
more[$a40]=', sizes = "mixed"'
layouts
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "what the A40 is set to" "mixed 1" "$(sizes_of $a40)"
attach half nvidia-a40-24q
attach quarter nvidia-a40-12q
start half
start quarter
has half <<< "gpu0 $a40 nvidia-565"
has quarter <<< "gpu0 $a40 nvidia-563"
domain third "" "" | define
# of 48 GiB 12 are left, and three of 16 would need one of the places that half has
if gpuslice attach third nvidia-a40-16q; then refused third no-capacity; else ok "16 GiB more are refused at once"; fi
more[$a40]=', sizes = "equal"'
layouts
out=$(timeout 100 gpuslice apply 2>&1) && fail "the sizes were changed under VMs: $out"
expect "equal sizes are refused: $out" grep -q in-use <<< "$out"
gives_back quarter
gives_back half
# a VM that ended early may have wedged its VF, and then all are made anew
all_up
expect "gpuslice apply" q timeout 100 gpuslice apply
expect_eq "what the A40 is set to" "equal 0" "$(sizes_of $a40)"

say "a VM on each card"
# each claim has a VF of its own, and of a card there are four
clear_domains
rows profiles -c '{profile, mechanism, type, memory, max, free}'
cat > cards << X
$a40 nvidia-a40-12q nvidia-vfio 563 4
$a16 nvidia-a16-4q nvidia-vfio 713 4
$l40s nvidia-l40s-12q nvidia-vfio 1153 4
$rtxpro nvidia-rtx-pro-6000-blackwell-dc-24q nvidia-vfio 1525 4
$v100 nvidia-v100-4q mdev 107 4
$p40 nvidia-p40-8q mdev 51 3
$t4 nvidia-t4-4q mdev 232 4
$a100 nvidia-a100d-2-20c nvidia-vfio 700 1
$h100 nvidia-h100l-3-47c nvidia-vfio 1132 1
X
# each COMMAND… : with the words of each line of the list behind it
each() { local -a words; while read -r -a words <&4; do "$@" "${words[@]}"; done 4< cards; }
starts() { # GPU PROFILE MECHANISM TYPE MAX
  expect_eq "$2" "$3 nvidia-$4 $5 $5 $1" \
    "$(rows profiles --arg p "$2" 'select(.profile == $p) | "\(.mechanism) \(.type) \(.max) \(.free) \(.parents | join(" "))"')"
  attach "vm${1%%:*}" "$2"
  start "vm${1%%:*}"
  expect_eq "free" $(($5 - 1)) "$(free_of "$2")"
}
runs() { has "vm${1%%:*}" <<< "gpu0 $1 nvidia-$4"; }
stops() { gives_back "vm${1%%:*}"; wait_for 60 "capacity is back" is "$5" free_of "$2"; }
each starts
each runs

say "gpusliced is killed under them"
daemon_dies
all_up
each runs
expect_eq "GPU instances" "1g.10gb 2g.20gb, 1g.12gb 3g.47gb" "$(instances $a100), $(instances $h100)"
each stops
clear_domains

say "other layouts"
more[$a40]=', sizes = "mixed"' more[$a16]=${more[$a40]} more[$l40s]=${more[$a40]} more[$rtxpro]=', instances = ["2g.48gb", "1g.24gb"]'
more[$a100]=', instances = ["3g.40gb", "1g.10gb"]' more[$h100]=', instances = ["2g.24gb", "1g.12gb", "1g.12gb"]'
more[$v100]=nvidia-v100-8q more[$p40]=nvidia-p40-12q more[$t4]=nvidia-t4-8q
layouts
all_up
expect "gpuslice apply" q timeout 200 gpuslice apply
expect_eq "VFs" "4 4 4 4 4 4" "$(counts)"
for pf in $a40 $a16 $l40s; do expect_eq "what $pf is set to" "mixed 1" "$(sizes_of $pf)"; done
expect_eq "GPU instances" "1g.24gb 2g.48gb, 1g.10gb 3g.40gb, 1g.12gb 1g.12gb 2g.24gb" "$(instances $rtxpro), $(instances $a100), $(instances $h100)"
wait_for 20 "one is parked on each of the older" is 3 parked
expect "nothing is left to do" grep -q "already so" <(gpuslice plan)
# One VM has one of each card. Beside it another has what only mixed sizes and more instances give.
cat > wide << X
a40 $a40 nvidia-565
a16 $a16 nvidia-714
l40s $l40s nvidia-1155
rtxpro $rtxpro nvidia-1561
v100 $v100 nvidia-108
p40 $p40 nvidia-52
t4 $t4 nvidia-233
a100 $a100 nvidia-701
h100 $h100 nvidia-1131
X
cat > beside << X
a40 $a40 nvidia-563
a16 $a16 nvidia-713
l40s $l40s nvidia-1153
a100 $a100 nvidia-699
h100 $h100 nvidia-1129
X
asks() { # DOMAIN : for a claim of each line of its list, by its type
  local claim gpu type
  domain "$1" "" "" | define
  rows profiles '"\(.type) \(.profile)"' > types
  while read -r claim gpu type <&4; do
    expect "gpuslice attach --name $claim" gpuslice attach "$1" "$(sed -n "s/^$type //p" types)" --name "$claim"
  done 4< "$1"
}
both_run() { for name in wide beside; do start $name; done; for name in wide beside; do has $name < $name; done; }
both_stop() { gives_back beside; gives_back wide; all_up; wait_for 30 "nothing is given" is 0 count_assigned; }
asks wide
asks beside
both_run
sed -i.kept 's/"2g.24gb", "1g.12gb", "1g.12gb"/"7g.94gb"/' /etc/gpuslice/gpuslice.toml
out=$(timeout 100 gpuslice apply 2>&1) && fail "instances were changed under VMs: $out"
expect "another instance is refused: $out" grep -q "in-use.*\(wide\|beside\)" <<< "$(tr '\n' ' ' <<< "$out")"
mv /etc/gpuslice/gpuslice.toml.kept /etc/gpuslice/gpuslice.toml
both_stop

# lost OPTION… : what a reboot takes: VFs, instances, mixed sizes, mdevs, and what gpusliced knows of this boot
lost() {
  daemon stop
  expect "nvidia unloads" modprobe -r nvidia
  rm -rf /run/gpuslice/state/*
  expect_eq "VFs and mdevs" "0 0 0 0 0 0, 0" "$(counts), $(parked)"
  expect "nvidia ${*:-alone} loads" modprobe nvidia "$@"
  daemon start
  all_up
  expect_eq "VFs" "4 4 4 4 4 4" "$(counts)"
  expect_eq "GPU instances" "1g.24gb 2g.48gb, 1g.10gb 3g.40gb, 1g.12gb 1g.12gb 2g.24gb" "$(instances $rtxpro), $(instances $a100), $(instances $h100)"
  wait_for 20 "one is parked on each of the older" is 3 parked
}

say "as after a boot"
lost
both_run
both_stop

say "as after a boot with the older driver, whose vGPUs are mdevs of VFs"
lost framework=mdev
in_mdevs() { [ "$(mdevs_of "$1" | wc -l)" = "$(wc -l < "$1")" ]; }
for name in wide beside; do wait_for 60 "the agent has written mdevs into $name" in_mdevs $name; done
both_run
expect_eq "what is no mdev" "" "$(grep -hv ' mdev:' had-wide had-beside)"
daemon_dies
all_up
for name in wide beside; do has $name < $name; done
both_stop

say "other layouts with the older driver: the A100 without instances, one large one of the H100"
more[$a100]=', instances = "off"' more[$h100]=', instances = ["4g.47gb"]'
layouts
expect "gpuslice apply" q timeout 200 gpuslice apply
expect_eq "what the A100 is set to" "off 0" "$(rows gpus --arg p $a100 'select(.parent == $p) | .modes.instances') $(cat $control/$a100/mig)"
expect_eq "GPU instances" 4g.47gb "$(instances $h100)"
printf '%s\n' "a100 $a100 nvidia-696" "h100 $h100 nvidia-1133" > large
asks large
start large
has large < large
gives_back large
