# What people do to VMs with an mdev and a VF, for the scenarios that do it with VFs of one kind each. They say
#   vf_profile, pool_profile    of the VFs; on VFs of the second, of which there are four, no other claim lives
#   gpu                         the parent of VFs of the first
#   given VF, fallow VF         whether it is as a VM has it, and as one that was given back
#   managed                     code of the refusal of one with managed='yes', where it is refused
#   outlives_start DOMAIN       returns when a VM may end without harm to its VF
. /lab/scenarios/product.sh

# owns DOMAIN MDEV-CLAIM : its definition carries the mdev of its own claim, and a VF that no other definition carries
owns() {
  local id vf; id=$(uuid_of "$1") vf=$(home_of "$1")
  [ "$(mdev_of "$1")" = "$(mdev_uuid "$id" "$2")" ] && [[ $vf = *:* ]] && [ "$(claims_with "$vf")" = "$id/vf0" ]
}
claims_with() { rows claims --arg a "$1" 'select(.home | index($a)) | .claim'; }
# runs_with DOMAIN : both its claims are attached
runs_with() {
  expect_eq "$1: its mdev" attached "$(claim_state "$(uuid_of "$1")/gpu0")"
  expect_eq "$1: its VF" attached "$(claim_state "$(uuid_of "$1")/vf0")"
  expect "$1 is given it" given "$(home_of "$1")"
}
# keeps DOMAIN VF : whatever its definition says, it runs with its mdev and that VF, which are what its claims have
keeps() {
  local id; id=$(uuid_of "$1")
  expect_eq "claims of $1" "gpu0 attached mdev:$(mdev_uuid "$id" gpu0), vf0 attached vf:$2" "$(rows claims --arg o "$id/" \
    'select(.claim | startswith($o)) | "\(.claim | ltrimstr($o)) \(.state) \(.slices | join(" "))"' | sort | paste -sd, | sed 's/,/, /')"
  expect "the VF as it is given" given "$2"
  expect_eq "QEMU has both open" 2 "$(open_vfio "$1")"
}
# edit DOMAIN SED-SCRIPT : what a person does with virsh edit
edit() {
  virsh dumpxml --inactive "$1" > edit.xml
  sed -i "$2" edit.xml
  expect "virsh define of the edited $1" virsh define edit.xml
}
claims_of() { rows claims --arg o "$1" 'select(.claim | startswith($o)) | .claim' | sort | paste -sd ' '; }

say "rename"
define_mdev one mtty-2
expect "attach" gpuslice attach one $vf_profile --name vf0
wait_for 20 "one has its own" owns one gpu0
id=$(domain_uuid one) vf=$(home_of one)
expect "virsh domrename" virsh domrename one uno
wait_for 20 "the claim knows the new name" is uno field claims claim "$id/gpu0" owner_name
expect_eq "its VF" "$vf" "$(home_of uno)"

say "a clone by virt-clone, both started"
expect "virt-clone" q virt-clone --original uno --name klon --auto-clone
wait_for 30 "klon has its own" owns klon gpu0
expect "uno keeps its own" owns uno gpu0
start uno
start klon
runs_with uno
runs_with klon

say "a copy of a running one's XML, with the agent away"
systemctl stop gpuslice-libvirt-agent
virsh dumpxml klon | sed "/<uuid>/d; s/<name>klon</<name>copy</" | define
refused copy claim-copied
systemctl start gpuslice-libvirt-agent
wait_for 30 "copy has its own" owns copy gpu0
expect "klon runs on" running klon
runs_with klon
start copy
runs_with copy
ends copy
virsh undefine copy

say "undefined while it runs, and defined again with its UUID"
id=$(uuid_of klon) vf=$(home_of klon)
virsh dumpxml --inactive klon > klon.xml
expect "virsh undefine" virsh undefine klon
keeps klon "$vf"
expect "virsh define" virsh define klon.xml
wait_for 20 "it has its own" owns klon gpu0
expect_eq "the same VF" "$vf" "$(home_of klon)"
ends klon

say "undefined while it is shut off, and defined again"
expect "virsh undefine" virsh undefine klon
wait_for 20 "its claims are kept" is orphaned claim_state "$id/vf0"
expect "virsh define" virsh define klon.xml
wait_for 20 "it has its own" owns klon gpu0
expect_eq "the same VF" "$vf" "$(home_of klon)"

# has_own : klon has its own devices, as nothing else has them
has_own() { wait_for 30 "$1" owns klon gpu0; expect_eq "its VF" "$vf" "$(home_of klon)"; }
# to MDEV VF : its hostdevs name these
to() {
  local d b s f
  IFS=':.' read -r d b s f <<< "$2"
  edit klon "/<hostdev .*type='mdev'/,/<\/source>/s/uuid='[^']*'/uuid='$1'/
    /<hostdev .*type='pci'/,/<\/source>/s/<address .*/<address domain='0x$d' bus='0x$b' slot='0x$s' function='0x$f'\/>/"
}
no_devices="/<hostdev /,/<\/hostdev>/d"
no_metadata="/<metadata>/,/<\/metadata>/d"
is_managed="/type='pci'/s/managed='no'/managed='yes'/"
# left_managed : as somebody has chosen it, which some VFs do not serve
left_managed() {
  expect_eq "managed='yes' is left as it was chosen" "$vf" "$(vf_of klon yes)"
  [ ! "${managed:-}" ] || refused klon "$managed"
}
claims_end() {
  wait_for 20 "the claims are over" is "" claims_of "$id"
  wait_for 20 "and the devices with them" not has_hostdev klon
  expect "what else was edited is as it was edited" grep -q "<memory unit='KiB'>66560<" /etc/libvirt/qemu/klon.xml
}
# ask_again WHERE : by virsh metadata alone, in its definition (--config) or in what runs (--live)
ask_again() {
  expect "virsh metadata $1" virsh metadata klon urn:gpuslice:domain:1 --key gpuslice $1 \
    --set "<claims><claim name='vf0' profile='$vf_profile'/><claim name='gpu0' profile='mtty-2'/></claims>"
}

say "edited by hand"
edit klon "$no_devices; s/<memory unit='KiB'>65536</<memory unit='KiB'>66560</"
has_own "devices that were removed come back"
to "$(mdev_of uno)" "$(home_of uno)"
has_own "another's are exchanged for its own"
other=$(slices_of $gpu | grep -vF -e "$vf" -e "$(home_of uno)" | tail -n 1); other=${other#vf:}
to "$(uuidgen)" "$other"
has_own "so are those that nobody has"
edit klon "$is_managed"
left_managed
say "its metadata removed"
edit klon "$no_metadata"
claims_end
say "metadata alone"
ask_again --config
wait_for 30 "klon has its own" owns klon gpu0
vf=$(home_of klon)
start klon
keeps klon "$vf"

say "edited while it runs: devices removed"
edit klon "$no_devices"
keeps klon "$vf"
ends klon "$vf"
has_own "they come back"
start klon
keeps klon "$vf"
say "changed to another's"
to "$(mdev_of uno)" "$(home_of uno)"
keeps klon "$vf"
ends klon "$vf"
has_own "they are exchanged for its own"
start klon
keeps klon "$vf"
runs_with uno
say "managed='yes'"
edit klon "$is_managed"
keeps klon "$vf"
ends klon "$vf"
left_managed
[ ! "${managed:-}" ] || edit klon "s/managed='yes'/managed='no'/"
start klon
keeps klon "$vf"
say "its metadata removed while it runs"
edit klon "$no_metadata"
keeps klon "$vf"
expect "virsh metadata --remove --live" virsh metadata klon urn:gpuslice:domain:1 --remove --live
keeps klon "$vf"
outlives_start klon
destroy klon
# With managed='yes' libvirt may have left it on vfio-pci: it does so with one that it passed with managed='no' before.
wait_for 30 "its VF is free" is free slice_state "vf:$vf"
claims_end
start klon
say "metadata alone while it runs"
ask_again --live
asks_live() { grep -q "claim name='vf0'" /run/libvirt/qemu/klon.xml; }
wait_for 20 "what nothing is plugged in for is taken out again" not asks_live
expect_eq "and is no claim" "" "$(claims_of "$id")"
ask_again --config
wait_for 20 "what the next start is to have is one" is idle states_of klon
expect_eq "it runs without" 0 "$(open_vfio klon)"
destroy klon
wait_for 30 "klon has its own" owns klon gpu0

say "a snapshot, reverted"
# libvirt has nothing to snapshot without a disk
disk=/var/lib/libvirt/images/klon.qcow2
qemu-img create -q -f qcow2 $disk 1M
expect "virsh attach-disk" virsh attach-disk klon $disk vda --subdriver qcow2 --config
expect "virsh snapshot-create-as" q virsh snapshot-create-as klon before
expect "detach" gpuslice detach klon gpu0
wait_for 20 "the claim is over" is "" claim_state "$id/gpu0"
expect "virsh snapshot-revert" q virsh snapshot-revert klon before
wait_for 20 "klon has its own again" owns klon gpu0
start klon
runs_with klon
say "a snapshot of one that runs, which can be of its disk alone"
out=$(virsh snapshot-create-as klon all 2>&1) && fail "its memory was saved"
expect "${out##*error: }" grep -qi 'migrat' <<< "$out"
expect "virsh snapshot-create-as --disk-only" q virsh snapshot-create-as klon running --disk-only
runs_with klon
say "reverted while it runs, which ends it"
vf=$(home_of klon)
outlives_start klon
expect "virsh snapshot-revert" q virsh snapshot-revert klon before
expect "it is off" not running klon
wait_for 30 "its VF is free" is free slice_state "vf:$vf"
expect "nothing is left in it" fallow "$vf"
wait_for 20 "klon has its own" owns klon gpu0
expect "virsh snapshot-revert" q virsh snapshot-revert klon running
wait_for 20 "klon has its own" owns klon gpu0
expect_eq "its VF" "$vf" "$(home_of klon)"
expect_eq "and nothing of a run" 0 "$(grep -c gpuslice:run /etc/libvirt/qemu/klon.xml)"
for snapshot in running before; do expect "virsh snapshot-delete" virsh snapshot-delete klon $snapshot --metadata; done
rm ${disk%.*}.*

say "transient"
id=$(domain_uuid gone)
# create VF : it names that for its claim
create() {
  domain gone "$(claim gpu0 mtty-2 | sed "s,</gpuslice:claims>,<gpuslice:claim name='vf0' profile='$vf_profile'/>&,")" \
    "$(mdev_device "$(mdev_uuid "$id" gpu0)" ua-gpuslice-gpu0)$(pci_device "$1" no ua-gpuslice-vf0)" > gone.xml
  virsh create gone.xml
}
out=$(create "$(home_of uno)" 2>&1) && fail "it has the VF of uno"
expect "another's VF is refused: ${out##*gpuslice: }" grep -q 'gpuslice: claim-copied: ' <<< "$out"
expect_eq "and nothing is left of its claims" "" "$(claims_of "$id")"
expect "virsh create" q create "$other"
expect_eq "its claims" "attached attached" "$(claim_state "$id/gpu0") $(claim_state "$id/vf0")"
expect "it is given its VF" given "$other"
outlives_start gone
destroy gone
wait_for 20 "its claims are over" is "" claims_of "$id"
wait_for 30 "its VF is free" is free slice_state "vf:$other"
expect "nothing is left in it" fallow "$other"

say "saved with its VF, which cannot be"
out=$(virsh managedsave uno 2>&1) && fail "it was saved"
expect "it is refused: ${out##*error: }" grep -qi 'migrat' <<< "$out"
runs_with uno
ends uno
virsh undefine uno; virsh undefine klon

say "two of a pool on one VF, started at once"
# Five claims share the four VFs of the second GPU.
for n in {1..5}; do
  domain pool$n "" "" | define
  expect "attach --pool" gpuslice attach pool$n $pool_profile --pool
done
sharers() { for n in {1..5}; do echo "$(home_of pool$n) pool$n"; done | sort | awk '$1 == last { print other, $2 } { last = $1; other = $2 }'; }
wait_for 20 "two share a VF" test "$(sharers)"
read -r first second <<< "$(sharers)"
vf=$(home_of "$first")
(virsh start "$first" > first.out 2>&1) & starting=$!
virsh start "$second" > second.out 2>&1 || true
wait $starting || true
cat first.out second.out
if running "$first"; then loser=$second; else loser=$first first=$second; fi
expect "one of them runs" running "$first"
expect "the other was refused" not running "$loser"
expect "because of that" grep -q 'gpuslice: taken: ' <(cat first.out second.out)
expect_eq "its VF" "$(domain_uuid "$first")/gpu0" "$(slice_claim "vf:$vf")"
wait_for 20 "the other is given another VF" moved "$loser" "$vf"
start "$loser"
