# The packages beside VMs that run: purge, first install, upgrade, remove; no VM notices, and plain hostdevs stay what they are
# group: main
# order: 60
# needs: product
# limit: 300
. /lab/scenarios/product.sh
cp -a /etc/gpuslice config
devices=/sys/bus/mdev/devices link=/etc/libvirt/hooks/qemu.d/10-gpuslice snippet=/var/lib/vz/snippets/gpuslice-proxmox-hook
theirs=22222222-2222-3333-4444-555555555502

apt() { q env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y --no-install-recommends --allow-downgrades -o APT::Sandbox::User=root "$@" < /dev/null; }
install_debs() { apt install /lab/packages/"$1"/*.deb; } # REVISION
# What apt has them do, without the seconds that it takes to think.
unpack() { q dpkg -i /lab/packages/"$1"/*.deb; }
version() { dpkg-query -W -f '${db:Status-Status} ${Version}' gpuslice; }
# The boot's host again, also for scenarios after one that failed half way.
cleanup() {
  clear_domains
  mdevctl undefine -u $theirs
  [[ "$(version)" = "installed "*-1 ]] || unpack 1
  daemon stop
  rm -rf /var/lib/gpuslice/* /run/gpuslice/state/*
  cp -a config/. /etc/gpuslice/
  daemon start
  modprobe -r mtty
}
trap cleanup EXIT
count_vfs() { vfs_of "$1" | wc -l; }
main_pid() { systemctl show -P MainPID "$1"; }
libvirt=$(virsh version > /dev/null; main_pid libvirtd.service)
same_libvirt() { expect_eq "libvirtd was not restarted" "$libvirt" "$(main_pid libvirtd.service)"; }
runs_on() { expect_eq "$1 runs on" "$2" "$(qemu_of "$1")"; } # DOMAIN PID
all_run_on() { runs_on plain "$plain"; runs_on whole "$whole"; runs_on ours "$ours"; }
pci=/sys/bus/pci/devices

[ -e /usr/sbin/mdevctl ] || ln -s "$(command -v mdevctl)" /usr/sbin/mdevctl
all_up
expect_eq "libvirtd's AppArmor profile" "libvirtd (enforce)" "$(profile_of "$libvirt")"
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2

say "purge"
expect "purge" q dpkg --purge gpuslice-proxmox gpuslice-libvirt gpuslice
for path in $link $snippet /var/lib/gpuslice /run/gpuslice /etc/gpuslice /usr/bin/gpuslice /usr/sbin/gpuslice-qemu-hook; do
  expect "$path is gone" gone $path
done
expect_eq "links that enabled units" "" "$(find /etc/systemd/system -name '*gpuslice*')"
same_libvirt
expect "mdevctl start" mdevctl start -u $theirs -p mtty -t mtty-2
domain plain "" "$(mdev_device $theirs)" | define
expect "libvirt starts VMs without us" virsh start plain
plain=$(qemu_of plain)
# VFs are there already, and libvirt manages the one of this VM
theirs_vf=$(basename "$(readlink $pci/0001:00:00.0/virtfn7)")
domain whole "" "$(pci_device "$theirs_vf" yes)" | define
expect "also those with a VF" virsh start whole
whole=$(qemu_of whole)
expect "libvirt has bound it" bound_to "$pci/$theirs_vf" vfio-pci

say "first install, beside a VM with passthrough"
expect "apt install" install_debs 1
same_libvirt
runs_on plain "$plain"
runs_on whole "$whole"
expect_eq "the hook" /usr/sbin/gpuslice-qemu-hook "$(readlink $link)"
expect_eq "the hookscript" /usr/sbin/gpuslice-proxmox-hook "$(readlink $snippet)"
for unit in gpusliced.socket gpusliced.service gpuslice-libvirt-agent.service gpuslice-ready.service; do
  expect "$unit is enabled" systemctl is-enabled $unit
done
for unit in gpusliced.socket gpusliced.service gpuslice-libvirt-agent.service; do
  wait_for 20 "$unit is active" systemctl is-active $unit
done
wait_for 10 "its mdev is foreign" is foreign slice_state mdev:$theirs
wait_for 10 "so is the VF" is foreign slice_state "vf:$theirs_vf"
cp -a config/. /etc/gpuslice/
expect "gpuslice apply" gpuslice apply
expect "the VF is as it was" bound_to "$pci/$theirs_vf" vfio-pci
define_mdev ours mtty-2
expect "attach a VF too" q gpuslice attach ours amd-74a1-vf8 --name vf0
wait_for 20 "it names a VF" is 1 count_vfs ours
vf=$(vfs_of ours)
start ours
ours=$(qemu_of ours) id=$(domain_uuid ours)
mdev=$(mdev_uuid "$id" gpu0)
both_attached() { expect_eq "both claims" "attached attached" "$(claim_state "$id/gpu0") $(claim_state "$id/vf0")"; }
both_attached

say "upgrade under a slice"
before=$(main_pid gpusliced.service)
expect "apt install of the next revision" install_debs 2
expect_eq "revision" 2 "$(version | sed 's/.*-//')"
expect "the daemon is another process" not is "$before" main_pid gpusliced.service
same_libvirt
all_run_on
wait_for 20 "the claim is attached" is attached claim_state "$id/gpu0"
both_attached
expect_eq "steps to what is applied" 0 "$(gpuslice plan --json | jq '.steps | length')"
expect "what a person wrote is there" cmp config/gpuslice.toml /etc/gpuslice/gpuslice.toml

say "remove under a slice, and beside a VM that is off"
domain off "" "" | define
expect "attach a VF" q gpuslice attach off amd-74a1-vf8
wait_for 20 "it names a VF" is 1 count_vfs off
off=$(vfs_of off)
# a person of another scenario may have bound it
if [ -e "$pci/$off/driver" ]; then w '' "$pci/$off/driver_override"; w "$off" "$pci/$off/driver/unbind"; fi
expect "no driver has it" gone "$pci/$off/driver"
# libvirt looks for hooks only when it starts or is told to
reloads() { journalctl -b -o cat _PID=1 UNIT=libvirtd.service | grep -c '^Reloaded '; }
before=$(reloads)
expect "remove" q dpkg --remove gpuslice-proxmox gpuslice-libvirt gpuslice
same_libvirt
all_run_on
expect "the hook is gone" gone $link
expect "the hookscript is gone" gone $snippet
expect "what a person wrote is there" present /etc/gpuslice/gpuslice.toml
expect "what was promised is there" present /run/gpuslice/state
expect "libvirt was told" [ "$(reloads)" -gt "$before" ]
destroy ours
expect "its mdev is there" present "$devices/$mdev"
expect "its VF is bound" bound_to "$pci/$vf" vfio-pci
expect "as plain passthrough it starts again" virsh start ours
expect_eq "VFIO groups QEMU has open" 2 "$(open_vfio ours)"
expect "and so does the one that was off" virsh start off
expect "with its VF" holds_vfio off
expect "virsh destroy off" q virsh destroy off
runs_on plain "$plain"
runs_on whole "$whole"

say "installed again, its VM is found"
ours=$(qemu_of ours)
expect "installed again" unpack 1
all_up
wait_for 20 "the claim is attached" is attached claim_state "$id/gpu0"
wait_for 20 "so is that of the VF" is attached claim_state "$id/vf0"
all_run_on
destroy ours
wait_for 20 "the mdev goes with its VM" gone "$devices/$mdev"
wait_for 20 "the VF is free" is free slice_state "vf:$vf"
expect "and bound to nothing" gone "$pci/$vf/driver"
destroy whole
wait_for 20 "libvirt gave its VF back and it is free" is free slice_state "vf:$theirs_vf"
