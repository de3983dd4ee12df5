# GIM's VFs after a reboot: nothing loads the driver but gpusliced, and an autostarted VM has its VF with no hand laid on
# group: boots
# order: 20
# needs: product
# long: yes
# limit: 600
. /lab/scenarios/product.sh

pci=/sys/bus/pci/devices a=0001:00:00.0 b=0002:00:00.0
option=/etc/modprobe.d/gpuslice-gim.conf kept=/var/lib/lab
vfs() { for pf in $a $b; do ls -d "$pci/$pf"/virtfn* 2> /dev/null | wc -l; done | paste -sd' '; }
# all but the number of the IOMMU group, which the kernel counts anew
slices_are() { rows slices -S -c "del(.iommu_group)" | sort; }
says() { journalctl -b -o cat --no-pager "$@"; }

case $PHASE in
  1)
    expect "the boot's cards go" other_host
    # from the next boot on these cards are what the machine has, and no driver of theirs is loaded by anybody
    echo 'options gpusim kinds=mi300x*2' > /etc/modprobe.d/gpusim.conf
    echo gpusim > /etc/modules-load.d/gpusim.conf
    expect "two MI300X come" load_gpusim 'mi300x*2'
    printf '[[gpu]]\nmatch = { vendor-device = "1002:74a1" }\nlayout = { vfs = 8 }\n' > /etc/gpuslice/gpuslice.toml
    expect "gpusliced starts" daemon start
    expect "gpuslice apply" q timeout 100 gpuslice apply
    expect_eq "VFs" "8 8" "$(vfs)"
    domain gimboot "" "" | define
    expect "gpuslice attach" q gpuslice attach gimboot amd-mi300x-vf8-cpx
    expect "autostart" virsh autostart gimboot
    start gimboot
    slices_are > $kept/slices
    rows claims -c '[.claim, .home]' > $kept/claims
    cp $option $kept/option
    next_boot
    reboot_now
    ;;
  2)
    trap clear_domains EXIT
    wait_for 120 "gpuslice-ready is through" is active systemctl is-active gpuslice-ready.service
    expect_eq "VFs" "8 8" "$(vfs)"
    expect "nobody else loads gim" not grep -rq '^ *gim' /etc/modules /etc/modules-load.d /usr/lib/modules-load.d
    expect "nor can udev" not grep -q ' gim$' "/lib/modules/$(uname -r)/modules.alias"
    expect_eq "the option" "$(cat $kept/option)" "$(cat $option)"
    expect_eq "the driver's" 8,8 "$(cat /sys/module/gim/parameters/vf_num)"
    expect "the GPUs are gim's" bound_to $pci/$a gim
    expect_eq "drivers of the VFs nobody has" "" \
      "$(for vf in $pci/$a/virtfn* $pci/$b/virtfn*; do basename "$(readlink "$vf/driver")"; done | sort -u | grep . | grep -vx vfio-pci)"
    wait_for 240 "the autostarted VM runs" running gimboot
    vf=$(home_of gimboot)
    expect "vfio-pci has its VF" bound_to "$pci/$vf" vfio-pci
    expect "QEMU has it open" holds_vfio gimboot
    wait_for 20 "the slice" is attached slice_state "vf:$vf"
    expect_eq "claims" "$(cat $kept/claims)" "$(rows claims -c '[.claim, .home]')"
    expect_eq "slices that are not as before" "" "$(diff $kept/slices <(slices_are))"
    expect_eq "failed units" "" "$(systemctl --failed --plain --no-legend | cut -d' ' -f1 | grep -v libvirt-guests)"
    expect "it was not refused first" not grep -q 'gpuslice: ' <(says -u libvirtd.service)
    expect "nothing is left to do" grep -q "already so" <(gpuslice plan)
    expect_eq "reads of reset_gpu" 0 "$(cat /sys/kernel/debug/gim/*/resets_read | sort -u)"
    destroy gimboot
    wait_for 20 "all is free" is 0 count_assigned
    ;;
esac
