# The machine loses power while VMs start and state is written; afterwards nothing is owed, what was answered is so, and starts work
# group: restart
# order: 20
# needs: product
. /lab/scenarios/product.sh

all_up
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
gpu=0003:00:00.0 state=/var/lib/gpuslice
# One change after the other, each with a number; which have begun and which were answered is on the host, where it outlives the cut.
changes() {
  local n
  for ((n = 1; ; n++)); do
    echo $n >> begun
    gpuslice cordon $gpu --reason "change $n" > /dev/null && echo $n >> answered
  done
}
case $PHASE in
  1)
    for n in 1 2 3; do define_mdev cut$n mtty-2; done
    start cut1
    next_boot
    changes &
    wait_for 60 "changes are answered" grep -q 3 answered
    # the second start is under way when the power goes
    virsh start cut2 > /dev/null 2>&1 &
    wait_for 60 "cut2 is being prepared" present "/sys/bus/mdev/devices/$(mdev_uuid "$(domain_uuid cut2)" gpu0)"
    # In the middle of a write: the new text is there, and has not taken the place of the old one. No process is as quick.
    limit=$((SECONDS + 60))
    until [ -e $state/.claims.json.new ]; do [ $SECONDS -lt $limit ] || fail "no change is written"; done
    power_cut
    ;;
  2)
    trap clear_domains EXIT
    recorded=$(field gpus parent $gpu reason | grep -oE '[0-9]+$') begun=$(tail -n 1 begun) answered=$(tail -n 1 answered)
    say "change $begun had begun, $answered was answered, $recorded is recorded"
    expect "the last that was answered is recorded, or the one after it" [ "$answered" -le "$recorded" -a "$recorded" -le "$begun" ]
    expect_eq "state can be recorded, and none was corrupt" true \
      "$(gpuslice status --json | jq -r '.writable, (.warnings[] | select(test("corrupt")))' | paste -sd' ')"
    expect "gpuslice uncordon" gpuslice uncordon $gpu
    expect_eq "slices assigned after the cut" 0 "$(count_assigned)"
    expect_eq "state files kept aside as corrupt" "" "$(find $state /run/gpuslice -name '*corrupt*')"
    expect "the claim of cut1 is remembered" grep -q "$(domain_uuid cut1)" <(rows claims .claim)
    start cut1
    start cut2
    ;;
esac
