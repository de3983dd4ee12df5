# VFs of igb and gpusim in domains: managed='no' bound by us, managed='yes' by libvirt for a user who wrote it
# group: main
# order: 30
# needs: product
# limit: 240
. /lab/scenarios/product.sh
trap clear_domains EXIT

pci=/sys/bus/pci/devices
driver_of() { readlink "$pci/$1/driver" | sed 's,.*/,,'; }
all_up
for pair in vfa=amd-74a1-vf8 vfi=intel-10c9-vf7; do
  vm=${pair%=*} profile=${pair#*=}
  say "$vm: $profile"
  domain "$vm" "" "" | define
  free=$(free_of "$profile")
  expect "gpuslice attach" q gpuslice attach "$vm" "$profile"
  expect "attach again is already so" gpuslice attach "$vm" "$profile"
  address=$(home_of "$vm")
  expect "the domain names a VF with managed='no'" [ -n "$address" ]
  expect "and has our alias" grep -q "alias name='ua-gpuslice-" <(virsh dumpxml --inactive "$vm")
  start "$vm"
  expect "vfio-pci has the VF" bound_to "$pci/$address" vfio-pci
  expect "QEMU has it open" holds_vfio "$vm"
  expect_eq "the slice" attached "$(slice_state "vf:$address")"
  expect_eq "free" $((free - 1)) "$(free_of "$profile")"
  destroy "$vm"
  wait_for 20 "the slice is free" is free slice_state "vf:$address"
  wait_for 5 "capacity is back" is "$free" free_of "$profile"
  start "$vm"
  expect "the same VF again" bound_to "$pci/$address" vfio-pci
  if [ "$vm" = vfa ]; then
    say "the GPU is drained"
    expect "its VM is named" grep -q vfa <(gpuslice drain 0001:00:00.0 2>&1)
    gpuslice drain 0001:00:00.0 --wait 60 > drain.out 2>&1 & draining=$!
    expect "nobody else gets it" grep "error: cordoned: " <(gpuslice attach vfa $profile --name more 2>&1)
  fi
  destroy "$vm"
done
expect "the drain is over when its VM is: $(cat drain.out)" wait $draining
expect "gpuslice uncordon" gpuslice uncordon 0001:00:00.0

say "who had what"
tenures() { gpuslice history vfa --json | jq -r '.[] | select(.reason == "stopped" and .parent == "0001:00:00.0") | .slice' | sort -u; }
expect_eq "both runs of vfa, on its VF" "2 vf:$(home_of vfa)" "$(gpuslice history vfa --json | jq '[.[] | select(.reason == "stopped")] | length') $(tenures)"
expect "the journal has it by fields" grep -q stopped <(journalctl -b -o cat --output-fields=GPUSLICE_REASON GPUSLICE_DOMAIN=vfa GPUSLICE_SLICE="vf:$(home_of vfa)")

say "managed='yes' by the user"
# the VFs of the second are bound from the start, as its layout says
for pair in 0001:00:00.0= 0000:01:00.0=vfio-pci; do
  pf=${pair%=*} driver=${pair#*=}
  address=$(slices_of "$pf" | tail -n 1); address=${address#vf:}
  domain "vfu$driver" "" "$(pci_device "$address" yes)" | define
  # libvirt takes no device twice: between taking the plain one out and putting the claim's own in, the domain has none.
  wait_for 20 "the agent has adopted it" grep -q "<alias name='ua-gpuslice-gpu0'/>" "/etc/libvirt/qemu/vfu$driver.xml"
  start "vfu$driver"
  expect "vfio-pci has the VF" bound_to "$pci/$address" vfio-pci
  expect "the slice is not free" not is free slice_state "vf:$address"
  destroy "vfu$driver"
  wait_for 20 "libvirt gave it back and it is free" is free slice_state "vf:$address"
  wait_for 20 "its driver is as before: $driver" is "$driver" driver_of "$address"
done
