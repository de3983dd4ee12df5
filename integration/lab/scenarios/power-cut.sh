# The machine loses power while VMs start and state is written; afterwards nothing is owed and starts work
# group: restart
# order: 20
# needs: product
. /lab/scenarios/product.sh

all_up
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
case $PHASE in
  1)
    for n in 1 2 3; do define_mdev cut$n mtty-2; done
    start cut1
    next_boot
    # the third start is under way when the power goes
    virsh start cut2 > /dev/null 2>&1 &
    wait_for 60 "cut2 is being prepared" present "/sys/bus/mdev/devices/$(mdev_uuid "$(domain_uuid cut2)" gpu0)"
    power_cut
    ;;
  2)
    trap clear_domains EXIT
    expect_eq "slices assigned after the cut" 0 "$(count_assigned)"
    expect_eq "state files kept aside as corrupt" "" "$(find /var/lib/gpuslice /run/gpuslice -name '*corrupt*')"
    expect "the claim of cut1 is remembered" grep -q "$(domain_uuid cut1)" <(rows claims .claim)
    start cut1
    start cut2
    ;;
esac
