# VFs of several GPUs are made side by side, as far as the kernel and the vendors' drivers let them
# group: main
# order: 75
# long: yes
# needs: product
# limit: 420
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
asks() { :; }
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
make_all() { each make_vfs; }
at_once() { beside make_vfs; }
all_down() { each down; }
undo() {
  : > /etc/gpuslice/gpuslice.toml
  expect "the layouts are taken back" gpuslice apply
  all_down
}

address() { basename "$(pf "$1")"; }
rule() { printf '[[gpu]]\nmatch = { address = "%s" }\nlayout = { vfs = %s%s }\n' "$(address "$1")" "${all:-$VFS}" "${bind:+, bind = \"$bind\"}"; }

applied() { # WHAT : the milliseconds until all is settled, in took
  local from; from=$(now_ms)
  expect "gpuslice apply, $1" gpuslice apply
  all_up
  took=$(since "$from")
}

# A script that does one after the other, one that begins all at once, and gpuslice. Where no GPU takes any time there is
# nothing to wait for, and all that is done is done by one processor here; so gpuslice may take a fifth more than the first, which
# is what one time differs from the next, and what it takes to look: an apply looks before and after, and each look is one that an apply takes which finds nothing to do.
# Where they take time it may take a tenth more than what has to be waited for, which is the slowest, or with "in_turn" all of
# them, and beside that what it needed where they took none.
compare() { # FAULT MS
  local from script least ours took bound floor
  each takes "$1" "$2"
  [ "$in_turn" = no ] || expect "gpusliced stops: what it asks is in the way of others" daemon stop
  from=$(now_ms); make_all; script=$(since "$from"); all_down
  from=$(now_ms); at_once; least=$(since "$from"); all_down
  [ "$in_turn" = no ] || expect "gpusliced starts" daemon start
  all_up # with what it sees of that
  each rule > /etc/gpuslice/gpuslice.toml
  applied "$gpus GPUs, $1 $2"; ours=$took
  each made
  applied "with nothing to do"
  # It asks what a person could: the daemon twice, and the vendor's tool.
  from=$(now_ms); q gpuslice gpus; q gpuslice gpus; asks; floor=$(since "$from")
  expect "an apply that finds nothing to do takes at most twice what those questions take, and 100 ms" [ "$took" -le $((2 * floor + 100)) ]
  bound=$least; [ "$in_turn" = no ] || bound=$script
  say "$gpus GPUs, $1 $2: $ours ms; one after the other $script ms, all at once $least ms, an apply alone $took ms"
  if [ "$2" = 0 ]; then
    expect "what one after the other and two applies take, a fifth of that, and 200 ms, are enough" \
      [ $((10 * ours)) -le $((12 * (script + 2 * took) + 2000)) ]
    more=$((ours - bound))
    [ $more -ge $((2 * took)) ] || more=$((2 * took))
  else
    # Where the kernel holds nobody up, neither may we.
    [ $((4 * least)) -gt "$script" ] || expect "sooner than one after the other" [ "$ours" -lt "$script" ]
    expect "a tenth more than what is waited for, and $more ms and a fifth of that, are enough" \
      [ $((10 * ours)) -le $((11 * bound + 12 * more)) ]
  fi
  undo
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
in_turn=no
for gpus in $GPUS; do
  for bind in '' gpusim; do
    for delay in 0 $delays; do
      if [ "$bind" ]; then compare vf_probe_delay_ms $((delay / VFS)); else compare delay_ms "$delay"; fi
    done
  done
done

say "the same by NVIDIA's tool, which makes all VFs of one GPU, and of one model at a time"
other_host
expect "the GPUs come" load_gpusim "a40*8:vfs=$VFS" nvidia
: > /etc/gpuslice/gpuslice.toml
daemon start
all_up
all='"all"' bind='' in_turn=yes
asks() { nvidia-smi -q > /dev/null; }
make_vfs() { /usr/lib/nvidia/sriov-manage -e "$(address "$1")" > /dev/null; }
down() { /usr/lib/nvidia/sriov-manage -d "$(address "$1")" > /dev/null; }
for gpus in $GPUS; do
  for delay in 0 $delays; do compare delay_ms "$delay"; done
done

say "the same by AMD's driver, which makes the VFs of all GPUs while it is loaded"
daemon stop
wait_for 20 "nobody asks NVIDIA's driver anything" modprobe -r nvidia
all=''
asks() { :; }
make_all() { modprobe gim vf_num="$(each echo $VFS | cut -d' ' -f1 | paste -sd,)"; }
at_once() { make_all; }
all_down() { modprobe -r gim; }
undo() {
  daemon stop
  all_down
  : > /etc/gpuslice/gpuslice.toml
  rm -rf /etc/modprobe.d/gpuslice-gim.conf /etc/gim_config /var/lib/gpuslice/* /run/gpuslice/state/*
  daemon start
}
for gpus in $GPUS; do
  other_host
  expect "the GPUs come" load_gpusim "mi300x*$gpus"
  : > /etc/gpuslice/gpuslice.toml
  daemon start
  for delay in 0 $delays; do compare delay_ms "$delay"; done
done
