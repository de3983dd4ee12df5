# VMs that autostart on two thirds as many slices: those run with one each, the others were refused with the reason; when some stop, they start
# group: boots
# order: 30
# needs: product
# long: yes
# limit: 3000
. /lab/scenarios/product.sh

# 60 VMs on 40 slices: 24 mdevs for 36 of them, and 16 VFs for 24 whose claims share them.
CARDS=2 VFS=16
MDEVS=$((CARDS * 12)) MDEV_VMS=$((CARDS * 18)) VF_VMS=$((VFS * 3 / 2))
SLICES=$((MDEVS + VFS)) VMS=$((MDEV_VMS + VF_VMS))
# keep NAME : a domain with little memory, from its XML, to be defined with all others by one virsh
keep() { sed "s,<memory unit='MiB'>64<,<memory unit='MiB'>16<," > "$1.xml"; }
mdev_vms() { for ((n = 1; n <= MDEV_VMS; n++)); do echo "am$n"; done; }
vf_vms() { for ((n = 1; n <= VF_VMS; n++)); do echo "av$n"; done; }
those_that() { local name; while read -r name; do ! "$@" "$name" || echo "$name"; done; } # COMMAND… ; names on stdin
run_now() { { mdev_vms; vf_vms; } | those_that running | wc -l; }
# Each VM that runs has one slice, and no slice has two.
each_has_its_own() {
  expect_eq "VMs that run" $SLICES "$(run_now)"
  wait_for 120 "slices that are attached" is $SLICES attached
  expect_eq "owners of them" $SLICES "$(rows slices | jq -r 'select(.state == "attached") | .claim' | sort -u | wc -l)"
  expect_eq "VMs without a device" "" "$({ mdev_vms; vf_vms; } | those_that running | those_that not holds_vfio | paste -sd' ')"
  expect_eq "mdevs" $MDEVS "$(ls /sys/bus/mdev/devices | wc -l)"
}
attached() { rows slices | jq -r 'select(.state == "attached") | .slice' | wc -l; }
# refusals CODE : of how many VMs libvirtd said so at autostart
refusals() { journalctl -b -o cat --no-pager -u libvirtd.service | grep -c "Failed to autostart VM .*gpuslice: $1: "; }
started() { those_that not running < start | sed 's/^/start /' | virsh; [ -z "$(those_that not running < start)" ]; }

case $PHASE in
  1)
    expect "the boot's cards go" other_host
    echo "options gpusim kinds=mi300x:vfs=$VFS,t4*$CARDS" > /etc/modprobe.d/gpusim.conf
    printf 'gpusim-pf\ngpusim-mdev\n' > /etc/modules-load.d/gpusim.conf
    expect "an MI300X and the T4 come" load_gpusim "mi300x:vfs=$VFS,t4*$CARDS" gpusim-pf gpusim-mdev
    printf '[[gpu]]\nmatch = { vendor-device = "1002:74a1" }\nlayout = { vfs = %s }\n' $VFS > /etc/gpuslice/gpuslice.toml
    expect "gpusliced starts" daemon start
    all_up
    wait_for 20 "room for mdevs" is $MDEVS free_of nvidia-gpusim-4q
    for name in $(mdev_vms); do
      domain "$name" "$(claim gpu0 nvidia-gpusim-4q)" "$(mdev_device "$(mdev_uuid "$(domain_uuid "$name")" gpu0)" ua-gpuslice-gpu0)" | keep "$name"
    done
    for name in $(vf_vms); do domain "$name" "" "" | keep "$name"; done
    { mdev_vms; vf_vms; } | sed 's/.*/define &.xml; autostart &/' | virsh > /dev/null
    for name in $(vf_vms); do gpuslice attach "$name" amd-74a1-vf$VFS --pool || fail "attach $name"; done
    expect_eq "VMs that are to start" $VMS "$(ls /etc/libvirt/qemu/autostart | wc -l)"
    expect_eq "claims" $VMS "$(rows claims | wc -l)"
    next_boot
    reboot_now
    ;;
  2)
    trap clear_domains EXIT
    # libvirt lets nobody in before it is through with them
    expect "libvirt is through" timeout 2400 virsh list
    say "that was $(cut -d' ' -f1 /proc/uptime) s after the boot"
    each_has_its_own
    expect_eq "refused, since all mdevs are taken" $((MDEV_VMS - MDEVS)) "$(refusals no-capacity)"
    expect_eq "refused, since the VF is another's by now" $((VF_VMS - VFS)) "$(refusals taken)"
    expect_eq "their claims say it" "$((VF_VMS - VFS)) taken, $((MDEV_VMS - MDEVS)) no-capacity" \
      "$(rows claims | jq -r 'select(.state == "idle") | .last_refusal.code' | sort | uniq -c | sort -n | sed 's/^ *//' | paste -sd, | sed 's/,/, /g')"

    say "as many stop as were refused"
    mdev_vms | those_that running | sed -n "1,$((MDEV_VMS - MDEVS))p" > stop
    vf_vms | those_that running | sed -n "1,$((VF_VMS - VFS))p" >> stop
    { mdev_vms; vf_vms; } | those_that not running > start
    sed 's/^/destroy /' stop | virsh > /dev/null
    wait_for 120 "their slices are free" is $((SLICES - $(wc -l < stop))) attached
    # one that shares VFs may be refused once more, and is given a free one by that
    wait_for 600 "all that had been refused start" started
    each_has_its_own
    expect_eq "all that had been refused run" "" "$(those_that not running < start | paste -sd' ')"
    ;;
esac
