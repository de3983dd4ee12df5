# VFs of several GPUs are made side by side, as far as the kernel lets them
# group: main
# order: 75
# long: yes
# needs: product
# limit: 300
. /lab/scenarios/product.sh
trap 'boot_host' EXIT

# Milliseconds that a GPU takes. Making its VFs, which this kernel does for one GPU at a time; and binding them, which it
# does not hold up.
delays=${DELAYS:-1000}
# How many of the GPUs.
GPUS=${GPUS:-4}
VFS=2
pf() { printf '/sys/bus/pci/devices/%04x:00:00.0' "$1"; }
each() { local n; for ((n = 1; n <= gpus; n++)); do "$@" "$n"; done; }
beside() { local n; for ((n = 1; n <= gpus; n++)); do "$@" "$n" & done; wait; }
takes() { w "$2" "/sys/kernel/debug/gpusim/$(address "$3")/$1"; } # FAULT MS GPU
down() { w 0 "$(pf "$1")/sriov_numvfs"; }
since() { echo $(($(now_ms) - $1)); }
bound() { local vf; for vf in "$(pf "$1")"/virtfn*; do bound_to "$vf" "${bind:-}" || return; done; }
made() { expect_eq "VFs of GPU $1" $VFS "$(ls -d "$(pf "$1")"/virtfn* | wc -l)"; [ -z "$bind" ] || expect "they have $bind" bound "$1"; }

make_vfs() { # GPU
  local vf
  w 0 "$(pf "$1")/sriov_drivers_autoprobe"
  w $VFS "$(pf "$1")/sriov_numvfs"
  [ -n "$bind" ] || return 0
  for vf in "$(pf "$1")"/virtfn*; do
    w $bind "$vf/driver_override"
    basename "$(readlink "$vf")" > /sys/bus/pci/drivers_probe
  done
}

address() { basename "$(pf "$1")"; }
rule() { printf '[[gpu]]\nmatch = { address = "%s" }\nlayout = { vfs = %s%s }\n' "$(address "$1")" "${all:-$VFS}" "${bind:+, bind = \"$bind\"}"; }

compare() { # FAULT MS
  local from script least ours
  each takes "$1" "$2"
  from=$(now_ms); each make_vfs; script=$(since "$from"); each down
  from=$(now_ms); beside make_vfs; least=$(since "$from"); each down
  each rule > /etc/gpuslice/gpuslice.toml
  from=$(now_ms)
  expect "gpuslice apply, $gpus GPUs, $1 $2" gpuslice apply
  all_up
  ours=$(since "$from")
  each made
  say "$gpus GPUs, $1 $2: $ours ms; one after the other $script ms, all at once $least ms: $((100 * ours / least))%"
  # What the commands take by themselves is what they take where no GPU takes any time.
  if [ "$2" = 0 ]; then
    alone=$ours
    # It is let off below, so it has a bound of its own; wide, since the machine that emulates this one has others to serve.
    expect "the commands by themselves take less than 20 s" [ "$alone" -lt 20000 ]
  else
    # Where the kernel holds nobody up, neither may we.
    [ $((4 * least)) -gt "$script" ] || expect "sooner than one after the other" [ "$ours" -lt "$script" ]
    # What the commands take differs by a fifth from one time to the next, and where the GPUs take little it is most of the time.
    expect "beside what the commands take ($alone ms and a fifth), not longer than all at once and a tenth" \
      [ $((10 * ours)) -le $((12 * alone + 11 * least)) ]
  fi
  : > /etc/gpuslice/gpuslice.toml
  expect "the layouts are taken back" gpuslice apply
  each down
  each takes "$1" 0
}

other_host
expect "the GPUs come" load_gpusim "mi325x*8:vfs=$VFS" gpusim-pf
# A driver that has their VFs too, as the last number says: binding those is what a probe's delay is for.
new_id=/sys/bus/pci/drivers/gpusim/new_id
w "1002 74a5" $new_id
w "1002 74b9 ffffffff ffffffff 0 0 1" $new_id
: > /etc/gpuslice/gpuslice.toml
daemon start
all_up
for gpus in $GPUS; do
  for bind in '' gpusim; do
    for delay in 0 $delays; do
      if [ "$bind" ]; then compare vf_probe_delay_ms $((delay / VFS)); else compare delay_ms "$delay"; fi
    done
  done
done

say "the same by NVIDIA's tool, which makes all VFs of one GPU"
other_host
expect "the GPUs come" load_gpusim "a40*8:vfs=$VFS" nvidia
: > /etc/gpuslice/gpuslice.toml
daemon start
all_up
all='"all"' bind=
make_vfs() { /usr/lib/nvidia/sriov-manage -e "$(address "$1")" > /dev/null; }
down() { /usr/lib/nvidia/sriov-manage -d "$(address "$1")" > /dev/null; }
for gpus in $GPUS; do
  for delay in 0 $delays; do compare delay_ms "$delay"; done
done
