# Hot-plug of an mdev and a VF into a running domain and out again; what the guest keeps, what libvirt refuses, a stop
# group: main
# order: 35
# needs: product
# limit: 360
. /lab/scenarios/product.sh
cleanup() { clear_domains; modprobe -r mtty; }
trap cleanup EXIT

# ports COUNT : free root ports, which libvirt leaves no domain without being asked
ports() {
  local n
  echo "<controller type='pci' index='0' model='pcie-root'/>"
  for ((n = 1; n <= $1; n++)); do echo "<controller type='pci' index='$n' model='pcie-root-port'/>"; done
}
# No guest system runs in these domains. With native hot-plug a slot nobody has powered up lets go at once; with ACPI's,
# QEMU waits for a guest that never answers.
answering() {
  domain "$1" "" "$(ports 3)" | sed "s|^<domain type='qemu'>|<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>|
    s|</domain>|<qemu:commandline><qemu:arg value='-global'/><qemu:arg value='ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'/></qemu:commandline></domain>|"
}

plugged_vf() { virsh dumpxml "$1" | tr -d '\n' | sed -nE "s/.*<source> *<address domain='0x(....)' bus='0x(..)' slot='0x(..)' function='0x(.)'\/> *<\/source> *<alias name='ua-gpuslice-$2'.*/\1:\2:\3.\4/p"; }
carries() { virsh dumpxml ${3:-} "$1" | grep -q "ua-gpuslice-$2"; }
asks() { virsh dumpxml ${3:-} "$1" | grep -q "claim name=[\"']$2[\"']"; }
changed() { timeout 60 "$@" --json | jq -r .changed; }
# refused_live CODE WORD COMMAND… : our refusal with that code, and a word of libvirt's or ours in it
refused_live() {
  local code=$1 word=$2 out; shift 2
  if out=$(timeout 60 "$@" --json); then fail "$* was done: $out"; fi
  echo "$out"
  expect_eq "$* is refused" "$code" "$(jq -r .refusal.code <<< "$out")"
  expect "it says $word" grep -q "$word" <<< "$out"
  hint=$(jq -r '.refusal.hint // ""' <<< "$out")
  expect "with a hint" [ "$hint" ]
}

all_up
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
id=$(domain_uuid live1) mdev=$(mdev_uuid "$(domain_uuid live1)" serial)
answering live1 | define
refused_live bad-request "does not run" gpuslice attach live1 mtty-2 --live
start live1

say "an mdev, into this run only"
expect "attach --live" q gpuslice attach live1 mtty-2 --name serial --live
expect "QEMU has it open" holds_vfio live1
expect_eq "claim" attached "$(claim_state "$id/serial")"
expect_eq "free" 11 "$(free_of mtty-2)"
expect "the running domain carries it" carries live1 serial
expect "and asks for it" asks live1 serial
expect "the definition does not" not carries live1 serial --inactive
expect_eq "again changes nothing" false "$(changed gpuslice attach live1 mtty-2 --name serial --live)"

say "a VF of igb, into run and definition"
free=$(free_of intel-10c9-vf7)
expect "attach --live --config" q gpuslice attach live1 intel-10c9-vf7 --name net --live --config
address=$(plugged_vf live1 net)
expect "vfio-pci has the VF" bound_to "/sys/bus/pci/devices/$address" vfio-pci
expect_eq "the slice" attached "$(slice_state "vf:$address")"
expect_eq "VFIO groups QEMU has open" 2 "$(open_vfio live1)"
expect "the definition carries it too" carries live1 net --inactive
expect "and asks for it" asks live1 net --inactive

say "restarts of agent and daemon change nothing"
systemctl restart gpuslice-libvirt-agent gpusliced
all_up
expect_eq "claim" attached "$(claim_state "$id/serial")"
expect_eq "the slice" attached "$(slice_state "vf:$address")"

say "out again"
expect "detach --live" q gpuslice detach live1 serial --live
wait_for 20 "the mdev is gone" gone "/sys/bus/mdev/devices/$mdev"
wait_for 10 "capacity is back" is 12 free_of mtty-2
wait_for 10 "the claim is over" is "" claim_state "$id/serial"
expect "the running domain does not ask for it" not asks live1 serial
expect_eq "again changes nothing" false "$(changed gpuslice detach live1 serial --live)"
expect "detach --live --config" q gpuslice detach live1 net --live --config
wait_for 20 "the VF is free" is free slice_state "vf:$address"
wait_for 10 "capacity is back" is "$free" free_of intel-10c9-vf7
expect "the definition does not carry it" not carries live1 net --inactive
expect_eq "the claim is over" "" "$(claim_state "$id/net")"

say "unplugged behind our back"
expect "attach --live" q gpuslice attach live1 amd-74a1-vf8 --name back --live
address=$(plugged_vf live1 back)
expect_eq "the slice" attached "$(slice_state "vf:$address")"
expect "virsh detach-device-alias" virsh detach-device-alias live1 ua-gpuslice-back --live
wait_for 30 "the VF is free" is free slice_state "vf:$address"

say "a plain hostdev, which no hook tells of"
plain=$(slices_of 0001:00:00.0 | tail -n 1); plain=${plain#vf:}
pci_device "$plain" yes > plain.xml
holder_of() { field slices slice "vf:$1" holder; }
expect "virsh attach-device" virsh attach-device live1 plain.xml --live
wait_for 20 "the VF is live1's" is live1 holder_of "$plain"
expect_eq "without a claim" foreign "$(slice_state "vf:$plain")"
expect "virsh detach-device" virsh detach-device live1 plain.xml --live
wait_for 30 "the VF is free, though live1 runs on" is free slice_state "vf:$plain"

say "a domain destroyed with what was plugged in"
expect "attach an mdev" q gpuslice attach live1 mtty-2 --name serial --live
expect "attach a VF" q gpuslice attach live1 amd-74a1-vf8 --name gpu --live
address=$(plugged_vf live1 gpu)
expect_eq "assigned slices" 2 "$(count_assigned)"
destroy live1
wait_for 20 "the mdev is gone" gone "/sys/bus/mdev/devices/$mdev"
wait_for 20 "the VF is free" is free slice_state "vf:$address"
expect "and not bound" not bound_to "/sys/bus/pci/devices/$address" vfio-pci
wait_for 20 "no claim is left" is "" claim_state "$id/gpu"
expect_eq "assigned slices" 0 "$(count_assigned)"
start live1
expect "the next run has none of them" not carries live1 gpu
destroy live1

say "a guest that does not answer, and a domain whose ports are used up"
other=$(domain_uuid live2) mdev=$(mdev_uuid "$(domain_uuid live2)" serial)
domain live2 "" "$(ports 1)" | define
start live2
expect "its only port" q gpuslice attach live2 mtty-2 --name serial --live
refused_live unsupported "PCI slot" gpuslice attach live2 amd-74a1-vf8 --name gpu --live
port=$(grep -o '<controller [^>]*/>' <<< "$hint")
expect_eq "assigned slices" 1 "$(count_assigned)"
expect_eq "no claim is left of it" "" "$(claim_state "$other/gpu")"
expect "nor in the domain" not asks live2 gpu
refused_live timeout "has not let go" gpuslice detach live2 serial --live & waits=$!
expect "another domain is served" q gpuslice attach live1 mtty-2 --name meanwhile
expect "while the guest is awaited" kill -0 $waits
expect "and served again" q gpuslice detach live1 meanwhile
wait $waits || fail "detach from the guest that does not answer: see above"
expect_eq "the claim" attached "$(claim_state "$other/serial")"
expect "the mdev stays" present "/sys/bus/mdev/devices/$mdev"
destroy live2
wait_for 20 "the mdev is gone" gone "/sys/bus/mdev/devices/$mdev"
wait_for 20 "no claim is left" is "" claim_state "$other/serial"
expect_eq "assigned slices" 0 "$(count_assigned)"

say "what the hint of used-up ports says"
virsh dumpxml --inactive live2 > live2.xml
sed -i "s,</devices>,$port&," live2.xml
expect "virsh define with $port" virsh define live2.xml
start live2
expect "the port that it had" q gpuslice attach live2 mtty-2 --name serial --live
expect "and what was refused" q gpuslice attach live2 amd-74a1-vf8 --name gpu --live
expect_eq "the claim" attached "$(claim_state "$other/gpu")"
destroy live2
wait_for 20 "all is given back" is 0 count_assigned
