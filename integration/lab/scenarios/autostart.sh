# VMs that autostart on two thirds as many slices: those run with one each, the others were refused with the reason; when some stop, they start
# group: boots
# order: 30
# needs: product
# long: yes
# limit: 3000
. /lab/scenarios/product.sh

# 60 VMs on 40 slices: 16 mdevs for 24 of them, and VFs whose claims share them, 12 plain ones for 18 VMs and 12 that take a
# type for 18.
MDEVS=16 VFS=12 MDEV_VMS=24 VF_VMS=36
SLICES=$((MDEVS + VFS * 2)) VMS=$((MDEV_VMS + VF_VMS))
cards=mi300x:vfs=$VFS,t4,l40s:vfs=$VFS
# keep NAME : a domain with little memory, from its XML, to be defined with all others by one virsh
keep() { sed "s,<memory unit='MiB'>64<,<memory unit='MiB'>16<," > "$1.xml"; }
mdev_vms() { for ((n = 1; n <= MDEV_VMS; n++)); do echo "am$n"; done; }
plain_vms() { for ((n = 1; n <= VF_VMS / 2; n++)); do echo "av$n"; done; }
typed_vms() { for ((n = 1; n <= VF_VMS / 2; n++)); do echo "at$n"; done; }
vf_vms() { plain_vms; typed_vms; }
those_that() { local name; while read -r name; do ! "$@" "$name" || echo "$name"; done; } # COMMAND… ; names on stdin
run_now() { { mdev_vms; vf_vms; } | those_that running | wc -l; }
# Each VM that runs has one slice, and no slice has two.
each_has_its_own() {
  expect_eq "VMs that run" $SLICES "$(run_now)"
  wait_for 120 "slices that are attached" is $SLICES attached
  expect_eq "owners of them" $SLICES "$(rows slices 'select(.state == "attached") | .claim' | sort -u | wc -l)"
  expect_eq "VMs without a device" "" "$({ mdev_vms; vf_vms; } | those_that running | those_that not holds_vfio | paste -sd' ')"
  expect_eq "mdevs" $MDEVS "$(ls /sys/bus/mdev/devices | wc -l)"
}
attached() { rows slices 'select(.state == "attached") | .slice' | wc -l; }
all_long_running() { [ -z "$(those_that not long_running < stop)" ]; }
# refusals CODE : of how many VMs libvirtd said so at autostart
refusals() { journalctl -b -o cat --no-pager -u libvirtd.service | grep -c "Failed to autostart VM .*gpuslice: $1: "; }
started() { those_that not running < start | sed 's/^/start /' | virsh; [ -z "$(those_that not running < start)" ]; }

case $PHASE in
  1)
    expect "the boot's cards go" other_host
    echo "options gpusim kinds=$cards" > /etc/modprobe.d/gpusim.conf
    printf 'nvidia\ngpusim-pf\n' > /etc/modules-load.d/gpusim.conf
    expect "an MI300X, a T4 and an L40S come" load_gpusim $cards nvidia gpusim-pf
    for gpu in 1002:74a1 10de:26b9; do
      printf '[[gpu]]\nmatch = { vendor-device = "%s" }\nlayout = { vfs = %s }\n' $gpu $VFS
    done > /etc/gpuslice/gpuslice.toml
    expect "gpusliced starts" daemon start
    all_up
    wait_for 20 "room for mdevs" is $MDEVS free_of nvidia-t4-1q
    for name in $(mdev_vms); do
      domain "$name" "$(claim gpu0 nvidia-t4-1q)" "$(mdev_device "$(mdev_uuid "$(domain_uuid "$name")" gpu0)" ua-gpuslice-gpu0)" | keep "$name"
    done
    for name in $(vf_vms); do domain "$name" "" "" | keep "$name"; done
    { mdev_vms; vf_vms; } | sed 's/.*/define &.xml; autostart &/' | virsh > /dev/null
    for name in $(plain_vms); do gpuslice attach "$name" amd-74a1-vf$VFS --pool || fail "attach $name"; done
    for name in $(typed_vms); do gpuslice attach "$name" nvidia-l40s-4q --pool || fail "attach $name"; done
    expect_eq "VMs that are to start" $VMS "$(ls /etc/libvirt/qemu/autostart | wc -l)"
    expect_eq "claims" $VMS "$(rows claims .claim | wc -l)"
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
    expect_eq "refused, since the VF is another's by now" $((VF_VMS - VFS * 2)) "$(refusals taken)"
    expect_eq "their claims say it" "$((MDEV_VMS - MDEVS)) no-capacity, $((VF_VMS - VFS * 2)) taken" \
      "$(rows claims 'select(.state == "idle") | .last_refusal.code' | sort | uniq -c | sort -n | sed 's/^ *//' | paste -sd, | sed 's/,/, /g')"

    say "as many stop as were refused"
    mdev_vms | those_that running | sed -n "1,$((MDEV_VMS - MDEVS))p" > stop
    for kind in plain_vms typed_vms; do $kind | those_that running | sed -n "1,$((VF_VMS / 2 - VFS))p" >> stop; done
    { mdev_vms; vf_vms; } | those_that not running > start
    wait_for 60 "those that stop have run for a while" all_long_running
    sed 's/^/destroy /' stop | virsh > /dev/null
    wait_for 120 "their slices are free" is $((SLICES - $(wc -l < stop))) attached
    # one that shares VFs may be refused once more, and is given a free one by that
    wait_for 600 "all that had been refused start" started
    each_has_its_own
    expect_eq "all that had been refused run" "" "$(those_that not running < start | paste -sd' ')"
    ;;
esac
