# 4096 VFs on 64 PFs: time to settled, memory and listing, beside udevadm settle and virsh nodedev-list
# group: scale
# order: 10
# needs: product
# long: yes
# limit: 6000
. /lab/scenarios/product.sh
# what 64 cards leave in the journal
EVIDENCE=600

kib() { awk '/VmRSS/ {print $2}' "/proc/$(systemctl show -p MainPID --value "$1")/status"; }
cpu_ms() { echo $(($(systemctl show -p CPUUsageNSec --value gpusliced.service) / 1000000)); } # with the children that write
since() { echo $(($(now_ms) - $1)); }
timed() { local from; from=$(now_ms); "$@" > /dev/null; since "$from"; }
available() { awk '/MemAvailable/ {print $2}' /proc/meminfo; }
links() { ls -d /sys/bus/pci/devices/????:00:00.0/virtfn* 2> /dev/null | wc -l; }
# How long after FROM the kernel has made COUNT VFs and udev has worked them off.
udev_done() { until is "$2" links; do sleep 0.5; done; udevadm settle -t 1800; since "$1" > udev; } # FROM COUNT
slices_json() { gpuslice slices --json; }
nodedevs() { virsh nodedev-list --cap pci; }
listed() { nodedevs | grep -vc '^pci_0000_'; } # PFs and VFs that libvirt has taken in by now; each new one takes it longer
long_settled() { gpuslice wait --settled --timeout 1800; }

say "gpusliced alone: $(kib gpusliced.service) KiB"
largest=0
for pfs in 4 16 64; do
  vfs=$((pfs * 64))
  for ((n = 1; n <= pfs; n++)); do
    printf '[[gpu]]\nmatch = { address = "%04x:00:00.0" }\nlayout = { vfs = 64 }\n' "$n"
  done > /etc/gpuslice/gpuslice.toml
  expect "the layouts of $pfs PFs are taken over" gpuslice apply
  before=$(available) cpu=$(cpu_ms) from=$(now_ms)
  expect "$pfs PFs come" load_gpusim "mi300x*$pfs:vfs=64" gpusim-pf
  udev_done "$from" $vfs & udev=$!
  # An emulated machine may be too slow for all of them; then it says how far it came. "settled" without them is wrong.
  if long_settled; then
    is $vfs links || gpuslice status --json
    expect_eq "$vfs VFs: in the kernel, when settled" $vfs "$(links)"
  else
    kill $udev
    [ $largest -ge 1024 ] || fail "$vfs VFs: not settled in time, $(links) are there"
    say "$vfs VFs are too many for this machine in that time: $(links) are there"
    break
  fi
  settled=$(since "$from") cpu=$(($(cpu_ms) - cpu))
  wait $udev
  expect_eq "$vfs VFs: slices" $vfs "$(count_all)"
  say "$vfs VFs: settled after $settled ms ($cpu ms of gpusliced's CPU time), udev after $(cat udev) ms; gpusliced has $(kib gpusliced.service) KiB"
  say "$vfs VFs: the machine has $(((before - $(available)) / vfs)) KiB less for each"
  say "$vfs VFs: slices --json $(timed slices_json) ms; virsh nodedev-list $(timed nodedevs) ms, and lists $(listed) of $((vfs + pfs)) by then"
  largest=$vfs
  [ $pfs = 64 ] || { expect "they go" unload_gpusim; udevadm settle -t 1800; }
done
ok "the most at once: $largest VFs"
