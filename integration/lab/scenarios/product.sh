# What scenarios know of the product: its command line's JSON and the libvirt side. Field names stand here only.
. /lab/scenarios/lib.sh
. /lab/scenarios/domains.sh

# rows LIST [JQ-OPTION…] FILTER : of each row, one text or JSON value a line. LIST: gpus, profiles, slices, claims. One jq does
# it: under emulation each process costs as much as a list.
rows() {
  local list=$1; shift
  timeout 20 gpuslice "$list" --json | jq -r "${@:1:$#-1}" ".[] | ${*: -1}"
}

# field LIST KEY VALUE FIELD : FIELD of the row whose KEY is VALUE
field() { rows "$1" --arg k "$2" --arg v "$3" --arg f "$4" 'select(.[$k] == $v) | .[$f] // ""'; }

free_of() { field profiles profile "$1" free; }
gpu_state() { field gpus parent "$1" state; }
claim_state() { field claims claim "$1" state; }         # OWNER-UUID/NAME
slice_state() { field slices slice "$1" state; }         # vf:ADDRESS or mdev:UUID
health() { field gpus parent "$1" health; }
why_dirty() { field slices slice "$1" dirty; }
slice_claim() { field slices slice "$1" claim; }
slices_of() { rows slices --arg p "$1" 'select(.parent == $p and .state != "absent") | .slice'; }
count_slices() { slices_of "$1" | wc -l; }
count_all() { rows slices .slice | wc -l; }
count_assigned() { rows slices 'select(.claim) | .slice' | wc -l; }
# Whether the lab's own VM has KVM is its host's affair.
doctors() { gpuslice doctor "$@" --json | jq -r '.findings[].code | select(. != "kvm-missing")' | sort | paste -sd' '; } # [DOMAIN|FILE] : codes of what it finds

is() { local want=$1; shift; [ "$("$@")" = "$want" ]; } # VALUE COMMAND… : it prints VALUE

settled() { timeout 100 gpuslice wait --settled --timeout 90; }
all_up() { expect "gpusliced is settled" settled; }

# refused DOMAIN CODE : virsh start fails, and its error ends in our line with that code.
refused() {
  local out
  if out=$(virsh start "$1" 2>&1); then fail "$1 started, expected a refusal ($2)"; fi
  echo "$out"
  # virsh ends what it says with an empty line
  case $(grep . <<< "$out" | tail -n 1) in
    *"gpuslice: $2: "*) ok "$1 is refused: ${out##*gpuslice: }" ;;
    *) fail "$1: expected \"gpuslice: $2: …\" at the end, saw: $out" ;;
  esac
}

# Each under its AppArmor profile, as on a host of Debian.
start() {
  expect "virsh start $1" q virsh start "$1"
  expect_eq "the profile of $1" "libvirt-$(uuid_of "$1") (enforce)" "$(profile_of "$(qemu_of "$1")")"
}
profile_of() { cat "/proc/$1/attr/apparmor/current" 2> /dev/null || cat "/proc/$1/attr/current"; } # PID
destroy() { expect "virsh destroy $1" q virsh destroy "$1"; }

# device_of SLICE : what the kernel has of it
device_of() { case $1 in vf:*) echo "/sys/bus/pci/devices/${1#vf:}" ;; mdev:*) echo "/sys/bus/mdev/devices/${1#mdev:}" ;; esac; }
gpu_of() { # DEVICE : the PF that has made it, an mdev of a VF too
  local dev; dev=$(readlink -f "$1")
  if [ -e "$dev/mdev_type" ]; then dev=${dev%/*}; fi
  if [ -e "$dev/physfn" ]; then dev=$(readlink -f "$dev/physfn"); fi
  echo "${dev##*/}"
}
kind_of() { # DEVICE : the vendor's type of it; of a VF without types its driver
  local type
  if [ -e "$1/mdev_type" ]; then basename "$(readlink "$1/mdev_type")"
  elif read -r type 2> /dev/null < "$1/nvidia/current_vgpu_type"; then echo "nvidia-$type"
  else basename "$(readlink "$1/driver")"; fi
}
has_open() { ls -l "/proc/$(qemu_of "$1")/fd" | grep -q " /dev/vfio/$(basename "$(readlink "$2/iommu_group")")$"; } # DOMAIN DEVICE
# has DOMAIN < LIST : the VM that runs has what the list says and nothing else, one slice a line: "CLAIM GPU KIND". gpusliced says
# whose they are, the kernel what they are, and QEMU has each open.
has() {
  local claim state slice dev want; want=$(sort | paste -sd,)
  rows slices --arg o "$(uuid_of "$1")/" 'select(.claim // "" | startswith($o)) | "\(.claim | ltrimstr($o)) \(.state) \(.slice)"' > "had-$1"
  expect_eq "what $1 has" "$want" "$(while read -r claim state slice; do
      dev=$(device_of "$slice")
      echo "$claim $(gpu_of "$dev") $(kind_of "$dev")"
    done < "had-$1" | sort | paste -sd,)"
  while read -r claim state slice; do
    expect_eq "$1, $claim, $slice" attached "$state"
    expect "QEMU has it open" has_open "$1" "$(device_of "$slice")"
  done < "had-$1"
}
# given_up SLICE : nothing of a VM is in it, neither an mdev, nor a type, nor a driver
given_up() { case $1 in mdev:*) gone "$(device_of "$1")" ;; *) is nvidia-0 kind_of "$(device_of "$1")" || gone "$(device_of "$1")/driver" ;; esac; }
states_of() { rows claims --arg o "$(uuid_of "$1")/" 'select(.claim | startswith($o)) | .state' | sort -u | paste -sd' '; } # DOMAIN : of its claims
# gives_back DOMAIN : it ends, and what `has` has seen of it is given up
gives_back() {
  local slice
  destroy "$1"
  wait_for 60 "its claims are idle" is idle states_of "$1"
  while read -r _ _ slice; do wait_for 30 "$slice is given up" given_up "$slice"; done < "had-$1"
}
# ends DOMAIN [VF] : and nothing is left in its VF, which its definition may not name. When it may end (outlives_start DOMAIN) and what is
# left (fallow VF) its scenario says.
ends() {
  local vf=${2:-$(home_of "$1")}
  outlives_start "$1"
  destroy "$1"
  wait_for 30 "the VF of $1 is free" is free slice_state "vf:$vf"
  expect "nothing is left in it" fallow "$vf"
}

daemon() { systemctl "$1" gpusliced.socket gpusliced.service; }
daemon_dies() {
  expect "gpusliced is killed" systemctl kill -s KILL gpusliced.service
  wait_for 60 "it serves again" timeout 5 gpuslice status
}

# A host of its own within a boot: other_host takes the cards away and forgets what was recorded. Then cards are loaded, the
# layouts written and the daemon started. boot_host brings back what the boot came up with.
other_host() {
  [ -e boot.toml ] || cp /etc/gpuslice/gpuslice.toml boot.toml
  daemon stop
  rm -rf /var/lib/gpuslice/* /run/gpuslice/state/*
  unload_gpusim
}
boot_host() {
  other_host || return
  modprobe -a $(cat /etc/modules-load.d/gpusim.conf)
  cp boot.toml /etc/gpuslice/gpuslice.toml
  daemon start
}

# What GIM, its VMs and an apply have left goes with their host.
boot_host_after_gim() {
  clear_domains
  modprobe -r amdgpu
  boot_host
  rm -f /etc/gim_config /etc/modprobe.d/gpuslice-gim.conf
}

# Of the boot before: nothing that a stop of a VM needs went before libvirt-guests was through.
ended_in_order() {
  local unit through units="libvirt-guests gpuslice-libvirt-agent libvirtd gpusliced"
  # what systemd said when, in microseconds of its clock
  journalctl -b -1 -o json _PID=1 $(printf 'UNIT=%s.service ' $units) \
    | jq -r 'select(.MESSAGE | strings) | "\(.UNIT) \(.MESSAGE | split(" ")[0]) \(.__MONOTONIC_TIMESTAMP)"' > ended
  systemd_of() { sed -n "s/^$1.service $2 //p" ended | tail -n 1; }
  through=$(systemd_of libvirt-guests Stopped)
  expect "libvirt-guests was stopped" [ "$through" ]
  for unit in gpuslice-libvirt-agent libvirtd gpusliced; do
    say "$unit began to stop $((($(systemd_of $unit Stopping) - through) / 1000)) ms after libvirt-guests was through"
    expect "$unit stayed until libvirt-guests was through" [ "$(systemd_of $unit Stopping)" -ge "$through" ]
  done
  expect "gpusliced stayed until libvirtd was gone" [ "$(systemd_of gpusliced Stopping)" -ge "$(systemd_of libvirtd Stopped)" ]
}
