# After a boot the units have brought up every VF the layouts ask for, and nothing else; who may change it is polkit's to say
# group: main
# order: 10
# needs: product
. /lab/scenarios/product.sh

pci=/sys/bus/pci/devices
usec() { systemctl show -p "$2" --value "$1"; }
vfs_of() { ls -d "$pci/$1"/virtfn* 2> /dev/null | wc -l; }

wait_for 100 "gpuslice-ready has finished" is active systemctl is-active gpuslice-ready.service
expect_eq "gpusliced" active "$(systemctl is-active gpusliced.service)"
expect_eq "units that failed" "" "$(systemctl --failed --plain --no-legend | cut -d' ' -f1)"
all_up
# the drivers are what `bind` of each layout says
for pair in 0001:00:00.0=8=amd-74a1-vf8= 0000:01:00.0=7=intel-10c9-vf7=vfio-pci; do
  IFS='=' read -r pf count profile driver <<< "$pair"
  expect_eq "VFs of $pf in the kernel" "$count" "$(vfs_of "$pf")"
  expect_eq "slices of $pf" "$count" "$(count_slices "$pf")"
  expect_eq "autoprobe of $pf" 0 "$(cat "$pci/$pf/sriov_drivers_autoprobe")"
  expect_eq "free $profile" "$count" "$(free_of "$profile")"
  expect_eq "drivers of the VFs" "$driver" "$(readlink "$pci/$pf"/virtfn*/driver | sed 's,.*/,,' | sort -u)"
  expect_eq "as shown" "$count $driver" "$(rows slices --arg p "$pf" 'select(.parent == $p) | .driver // ""' | sort | uniq -c | awk '{print $1, $2}')"
done
expect_eq "states" free "$(rows slices 'select(.mechanism == "sriov") | .state' | sort -u)"
expect_eq "a PF without a layout has VFs" 0 "$(vfs_of 0002:00:00.0)"

ready=$(usec gpuslice-ready.service ActiveEnterTimestampMonotonic)
last=0
for pf in 0001:00:00.0 0000:01:00.0; do
  # when udev had its bind event: a rule of this group
  read -r seen _ < "/run/lab-bound/$pf"
  seen=${seen/./}0
  [ "$seen" -gt $last ] && last=$seen
done
expect "udev had both" [ "$last" -gt 0 ]
say "$((ready / 1000 - last)) ms from the last PF's bind event to ready"
expect "libvirtd came after" [ "$(usec libvirtd.socket ActiveEnterTimestampMonotonic)" -gt 0 ]

say "gpuslice doctor"
# The GPU without a layout has no VFs, and a card of gpusim no BARs for any: that is so, and all that is found.
hook=/etc/libvirt/hooks/qemu.d/10-gpuslice t4=0003:00:00.0 stray=b0000000-0000-4000-8000-000000000001
expect_eq "of this host" vf-bars "$(doctors)"
rm $hook
expect_eq "without the hook" "hook-missing vf-bars" "$(doctors)"
expect_eq "gpuslice doctor --fix" "true 2" "$(gpuslice doctor --fix --json | jq -r '"\(.changed) \(.fixed | length)"')"
expect_eq "the hook" /usr/sbin/gpuslice-qemu-hook "$(readlink $hook)"
mdevctl define --auto --uuid $stray --parent $t4 --type nvidia-558
expect_eq "with an mdev that mdevctl makes at each boot" "mdevctl-auto vf-bars" "$(doctors)"
mdevctl undefine --uuid $stray --parent $t4
expect_eq "of this host" vf-bars "$(doctors)"

say "another user than root"
as_nobody() { runuser -u nobody -- "$@"; }
expect "lists slices" [ "$(as_nobody gpuslice slices --json | jq length)" -gt 0 ]
status=0 state=$(gpu_state $t4)
out=$(as_nobody gpuslice cordon $t4 --json) || status=$?
expect_eq "may not cordon" "4 not-permitted" "$status $(jq -r .refusal.code <<< "$out")"
expect_eq "$t4" "$state" "$(gpu_state $t4)"
rule=/etc/polkit-1/rules.d/10-lab.rules
cat > $rule << 'R'
polkit.addRule(function(action, subject) {
    if (action.id == "org.gpuslice1.apply" && subject.user == "nobody") { return polkit.Result.YES; }
});
R
wait_for 20 "may with a rule of polkit's" as_nobody gpuslice cordon $t4
expect_eq "$t4" cordoned "$(gpu_state $t4)"
expect "and uncordon" as_nobody gpuslice uncordon $t4
rm $rule
wait_for 20 "may not once the rule is gone" not as_nobody gpuslice uncordon $t4
