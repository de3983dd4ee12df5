# 4096 VFs on 64 PFs: time to settled, memory and listing, beside udevadm settle and virsh nodedev-list
# group: scale
# order: 10
# needs: product
# long: yes
# limit: 1500
. /lab/scenarios/product.sh

daemon_kib() { awk '/VmRSS/ {print $2}' "/proc/$(systemctl show -p MainPID --value gpusliced.service)/status"; }
timed() { local from; from=$(now_ms); "$@" > /dev/null; echo $(($(now_ms) - from)); }
udev_settled() { udevadm settle -t 600; }
slices_json() { gpuslice slices --json; }
nodedevs() { virsh nodedev-list --cap pci; }
long_settled() { gpuslice wait --settled --timeout 600; }

say "daemon alone: $(daemon_kib) KiB"
for pfs in 4 16 64; do
  for ((n = 1; n <= pfs; n++)); do
    printf '[[gpu]]\nmatch = { address = "%04x:00:00.0" }\nlayout = { vfs = 64 }\n' "$n"
  done > /etc/gpuslice/gpuslice.toml
  systemctl restart gpusliced.service
  wait_for 30 "gpusliced serves" timeout 5 gpuslice status
  from=$(now_ms)
  load_gpusim "mi300x*$pfs:vfs=64" gpusim-pf
  wait_for 600 "$pfs PFs: all slices are listed" is $((pfs * 64)) count_all
  say "$pfs PFs: settled $(timed long_settled) ms later, $(($(now_ms) - from)) ms after the first event, $(daemon_kib) KiB"
  say "$pfs PFs: udevadm settle $(timed udev_settled) ms, slices --json $(timed slices_json) ms, virsh nodedev-list $(timed nodedevs) ms"
  unload_gpusim
  udev_settled
done
