# Second boot of the same disk, with a PF that needs 40 s: VFs, claims and an autostarted VM are there with no hand laid on
# group: restart
# order: 30
# needs: product
# limit: 300
. /lab/scenarios/product.sh

case $PHASE in
  1)
    all_up
    for n in 1 2 3 4 5; do
      domain life$n "$(claim gpu0 nvidia-gpusim-8q)" \
        "$(power_button life$n)$(mdev_device "$(mdev_uuid "$(domain_uuid life$n)" gpu0)" ua-gpuslice-gpu0)" | define
      start life$n
    done
    domain auto "" "" | define
    expect "a VF of the slow PF" gpuslice attach auto amd-74a1-vf4
    expect "autostart" virsh autostart auto
    rows claims .claim | sort > /var/lib/lab/claims
    # from the next boot on the second PF comes late
    sed -i 's/mi300x\*2/mi300x,mi300x:present_delay_ms=40000/' /etc/modprobe.d/gpusim.conf
    # they end at once when they are told to
    echo SHUTDOWN_TIMEOUT=60 >> /etc/default/libvirt-guests
    wait_for 60 "they wait for their power buttons" is 5 await_button life{1..5}
    next_boot
    reboot_now
    ;;
  2)
    trap clear_domains EXIT
    wait_for 150 "the slow PF is there" present /sys/bus/pci/devices/0002:00:00.0
    wait_for 100 "its VFs return" is 4 count_slices 0002:00:00.0
    wait_for 60 "the VFs of the others" is 8 count_slices 0001:00:00.0
    expect_eq "claims" "$(cat /var/lib/lab/claims)" "$(rows claims .claim | sort)"
    wait_for 120 "the autostarted VM runs" running auto
    expect_eq "its claim" attached "$(rows claims --arg o "$(domain_uuid auto)" 'select(.claim | startswith($o)) | .state')"
    expect_eq "slices of the VMs that ran at power-off" 1 "$(count_assigned)"
    expect_eq "how they ended" "5 stopped" \
      "$(gpuslice history --json | jq -r '.[] | select(.owner_name | startswith("life")) | .reason // "not"' | sort | uniq -c | awk '{print $1, $2}' | paste -sd' ')"
    ended_in_order
    expect_eq "mdevs" "" "$(ls /sys/bus/mdev/devices)"
    ;;
esac
