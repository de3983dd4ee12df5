# libvirt-guests with slices held: VMs are shut down or saved when the host goes down, and have their slices again after the boot
# group: boots
# order: 10
# needs: product
# long: yes
# limit: 1200
. /lab/scenarios/product.sh

settings=/etc/default/libvirt-guests kept=/var/lib/lab
# One with an mdev, two with VFs, one with a VF that takes a type, one that does not hear the shutdown request, one that can be saved.
vms="mdev1 vf1 vf2 typed deaf saves"
on_shutdown() { printf 'ON_BOOT=start\nON_SHUTDOWN=%s\nPARALLEL_SHUTDOWN=%s\nSHUTDOWN_TIMEOUT=30\n' "$1" "$2" > $settings; }

vm() { # NAME PROFILE
  domain "$1" "$(claim gpu0 "$2")" "$(power_button "$1")$(mdev_device "$(mdev_uuid "$(domain_uuid "$1")" gpu0)" ua-gpuslice-gpu0)"
}

# The same VMs run, each with a slice that is its own, and there is no other.
all_as_before() {
  local name
  for name in $vms; do
    wait_for 300 "$name runs" running "$name"
    expect "QEMU of $name has its slice open" holds_vfio "$name"
    wait_for 20 "its claim" is attached claim_state "$(domain_uuid "$name")/gpu0"
  done
  expect_eq "claims" "$(cat $kept/claims)" "$(claims_are)"
  expect_eq "slices assigned" "$(wc -w <<< "$vms")" "$(count_assigned)"
  expect_eq "mdevs" "$(cat $kept/mdevs)" "$(ls /sys/bus/mdev/devices)"
  expect_eq "VFs" "8 4 4" "$(for n in 1 2 5; do count_slices 000$n:00:00.0; done | paste -sd' ')"
  expect_eq "units that failed" "" "$(systemctl --failed --plain --no-legend | cut -d' ' -f1 | grep -v libvirt-guests)"
}
claims_are() { rows claims -c '[.claim, .profile, .slices]' | sort; }
# why_ended NAME : of its tenures that are over, the last
why_ended() { gpuslice history "$1" --json | jq -r '[.[] | select(.to)] | last | .reason'; }
# One that runs on after libvirt-guests has given up is killed by systemd. Whether libvirt is still there to see it is chance.
ends_with_the_host() {
  expect "the tenure of $1 ended with its VM or with the host: $(why_ended "$1")" grep -qxE 'stopped|vanished|rebooted' <(why_ended "$1")
}
ready_was_first() {
  local usec='systemctl show --value -p'
  expect "gpuslice-ready was through before libvirt-guests began" \
    [ "$($usec ActiveEnterTimestampMonotonic gpuslice-ready.service)" -le "$($usec ExecMainStartTimestampMonotonic libvirt-guests.service)" ]
}

# After a boot: those that ran do so again, and the shutdown before it was in order.
back_again() {
  trap clear_domains EXIT
  ready_was_first
  all_as_before
  journalctl -b -1 -u libvirt-guests.service --no-pager | tail -n 40
  ended_in_order
}

case $PHASE in
  1)
    all_up
    wait_for 20 "mtty-2 is a profile" is 12 free_of mtty-2
    vm mdev1 nvidia-t4-8q | define
    for pair in vf1=amd-74a1-vf8 vf2=amd-74a1-vf8 typed=nvidia-l40s-12q; do
      name=${pair%=*}
      domain $name "" "$(power_button $name)" | define
      expect "a VF of $name" gpuslice attach $name ${pair#*=}
    done
    define_mdev deaf nvidia-t4-8q
    # what mtty needs to be saved, as in the scenario saved
    vm saves mtty-2 | sed "s,<domain type='qemu'>,<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>,
      s,</domain>,<qemu:override><qemu:device alias='ua-gpuslice-gpu0'><qemu:frontend>\
<qemu:property name='x-device-dirty-page-tracking' type='string' value='off'/>\
<qemu:property name='enable-migration' type='string' value='on'/></qemu:frontend></qemu:device></qemu:override></domain>," | define
    for name in $vms; do start $name; done
    claims_are > $kept/claims
    ls /sys/bus/mdev/devices > $kept/mdevs
    expect_eq "slices assigned" "$(wc -w <<< "$vms")" "$(count_assigned)"
    on_shutdown shutdown 5
    next_boot
    reboot_now
    ;;
  2)
    back_again
    for name in mdev1 vf1 vf2 typed saves; do expect_eq "why the tenure of $name ended" stopped "$(why_ended $name)"; done
    ends_with_the_host deaf
    on_shutdown suspend 0
    trap - EXIT
    next_boot
    reboot_now
    ;;
  3)
    back_again
    expect_eq "why the tenure of the one that was saved ended" stopped "$(why_ended saves)"
    expect "it goes on from what was saved" grep -q "Suspending saves: done" <(journalctl -b -1 -u libvirt-guests.service --no-pager)
    # vfio devices cannot be saved, but mtty: libvirt refuses, libvirt-guests goes on, and they end with the host.
    for name in mdev1 vf1 vf2 typed deaf; do ends_with_the_host $name; done
    clear_domains
    rm -f /var/lib/libvirt/images/*.img
    wait_for 60 "all is given back" is 0 count_assigned
    expect_eq "mdevs" "" "$(ls /sys/bus/mdev/devices)"
    ;;
esac
