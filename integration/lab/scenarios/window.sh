# virt-manager's real window: what is picked in its dialogs becomes a claim, its Start gives the slices, its error says why not
# group: main
# order: 47
# needs: product
# window: yes
# long: yes
# limit: 1200
. /lab/scenarios/product.sh
relay=
cleanup() { [ -z "$relay" ] || kill "$relay"; clear_domains; boot_host; }
trap cleanup EXIT

# no addresses of other scenarios' cards
mi300x=0023:00:00.0 t4=0024:00:00.0
pick_of() { field profiles profile "$1" pick | jq -r '.[0]'; }
listed() { tr a-f A-F <<< "${1%.*}:${1##*.}"; } # an address as virt-manager lists it
own() { mdev_uuid "$(domain_uuid "$1")" "$2"; }
claim_of() { claim_state "$(domain_uuid "$1")/$2"; }
vf_of() { field claims claim "$(domain_uuid "$1")/$2" home | jq -r '.[0]'; }
node_of() { virsh nodedev-list --cap mdev | grep -F "${1//-/_}"; }
mark() { virsh dumpxml --inactive "$1" | grep -c "ua-gpuslice"; }

# window STEP WORD… : a step in virt-manager's window (see window/driver), done by the lab's host; prints what it says
window() {
  local reply IFS=$'\t'
  tell "window $*"
  IFS= read -r -t 200 reply <&9
  echo "${reply#* }"
  [ "${reply%% *}" = ok ]
}
# sees WHAT STEP WORD…
sees() {
  local what=$1 said; shift
  if said=$(window "$@"); then ok "$what${said:+: $said}"; else window dump; window shot failed; fail "$what: $said"; fi
}
# add KIND ROW [PICTURE] : Add Hardware, and that row of what is listed for the kind
add() {
  sees "Add Hardware" press add-hardware
  sees "a window" front "Add New Virtual Hardware"
  sees "the kind" choose 0 "$1"
  sees "the device" choose 1 "$2"
  [ -z "${3:-}" ] || sees "a picture" shot "$3" 830 400
  sees "Finish" press Finish
}
details() { # VM : of what is chosen in the list
  sees "Open" press Open
  sees "a window" front "$1 on QEMU/KVM"
  sees "Details" press Details
}
to_list() {
  sees "File" press File
  sees "View Manager" press "View Manager"
  sees "the list" front "Virtual Machine Manager"
}
yes() { # QUESTION
  sees "the question" says "$1"
  sees "Yes" press Yes
}
force_off() {
  sees "a menu" press Menu
  sees "Force Off" press "Force Off"
  yes "force poweroff '$1'"
}

expect "the boot's cards go" other_host
expect "an MI300X and a T4 come" load_gpusim mi300x:vfs=4:domain=0x23,t4:domain=0x24 gpusim-pf nvidia
cat > /etc/gpuslice/gpuslice.toml << X
[[gpu]]
match = { address = "$mi300x" }
layout = { vfs = 4 }
[[gpu]]
match = { address = "$t4" }
layout = { park = { nvidia-t4-8q = 1 } }
X
expect "gpusliced starts" daemon start
all_up
parked=$(pick_of nvidia-t4-8q) parked=${parked#mdev:}
vf=$(pick_of amd-74a1-vf4) vf=${vf#vf:}
wait_for 20 "libvirt lists the parked one" node_of "$parked"
domain win10 "" "" | define
domain win11 "" "" | define
port="<controller type='pci' model='pcie-root-port'/>"
domain media "" "<controller type='pci' model='pcie-root'/>$port$port$port" | define

say "virt-manager connects"
expect "a socket on the host" host_monitor "chardev-add socket,id=libvirt,path=/mnt/window/libvirt,server=on,wait=off"
expect "and its port here" host_monitor "device_add virtserialport,chardev=libvirt,name=libvirt"
wait_for 20 "it is there" test -c /dev/virtio-ports/libvirt
connected() { grep -h -A 2 "name: libvirt" /sys/kernel/debug/virtio-ports/* | grep -q "host_connected: 1"; }
sees "it starts" open "qemu+unix:///system?socket=/mnt/libvirt"
wait_for 90 "it connects" connected
socat GOPEN:/dev/virtio-ports/libvirt UNIX-CONNECT:/run/libvirt/libvirt-sock < /dev/null 9>&- &
relay=$!
sees "it lists the VMs" choose vm-list win11

say "picked in its dialogs"
details win11
add "MDEV Host Device" "mdev_${parked//-/_}" mdev
sees "it shows the VM's own" choose hw-list "MDEV $(own win11 gpu0)"
expect_eq "which is a claim" idle "$(claim_of win11 gpu0)"
add "PCI Host Device" "$(listed "$vf")" pci
wait_for 20 "so is the VF" is idle claim_of win11 gpu1
expect_eq "and stays" "$vf" "$(vf_of win11 gpu1)"

say "Start"
sees "Run" press Run
wait_for 90 "it runs" running win11
expect_eq "it has its mdev" "$(domain_uuid win11)/gpu0" "$(slice_claim "mdev:$(own win11 gpu0)")"
expect_eq "and its VF" "$(domain_uuid win11)/gpu1" "$(slice_claim "vf:$vf")"
expect_eq "claims" "attached attached" "$(claim_of win11 gpu0) $(claim_of win11 gpu1)"
sees "the VF" choose hw-list "PCI $vf"
sees "a picture" shot running 829 500

say "another VM picks the same VF"
to_list
sees "the other" choose vm-list win10
details win10
add "PCI Host Device" "$(listed "$vf")"
yes "already in use by other guests ['win11']"
sees "a window" front "win10 on QEMU/KVM"
wait_for 20 "it is a claim" is idle claim_of win10 gpu0
other=$(vf_of win10 gpu0)
expect "of another VF" not test "$other" = "$vf"
sees "which it shows" choose hw-list "PCI $other"

say "a start is refused"
expect "gpuslice attach" gpuslice attach win10 nvidia-t4-16q
sees "Run" press Run
sees "the reason" says "gpuslice: no-capacity: "
sees "a picture" shot refused
sees "Close" press Close
sees "a window" front "win10 on QEMU/KVM"
expect "gpuslice detach" gpuslice detach win10 gpu1

say "removed in the window, it comes back as long as it is asked for"
sees "the VF" choose hw-list "PCI $other"
sees "Remove" press config-remove
yes "remove this device"
sees "a window" front "win10 on QEMU/KVM"
wait_for 20 "it is there" is 1 mark win10
sees "and shown" choose hw-list "PCI $other"
expect "gpuslice detach" gpuslice detach win10
wait_for 20 "it is gone" is 0 mark win10

say "added to a VM that runs"
to_list
sees "the VM" choose vm-list media
details media
sees "Run" press Run
wait_for 90 "it runs" running media
add "MDEV Host Device" "mdev_${parked//-/_}"
sees "a window" front "media on QEMU/KVM"
sees "it is in" choose hw-list "MDEV $parked"
wait_for 20 "it is known as its" is attached slice_state "mdev:$parked"
force_off media
sees "now it has its own" choose hw-list "MDEV $(own media gpu0)"
wait_for 20 "the parked one is back" is parked slice_state "mdev:$parked"
expect_eq "the claim" idle "$(claim_of media gpu0)"

say "Force Off gives all back"
to_list
sees "the VM" choose vm-list win11
details win11
force_off win11
wait_for 30 "the VF" is free slice_state "vf:$vf"
wait_for 20 "the mdev" is "" slice_state "mdev:$(own win11 gpu0)"
expect_eq "claims" "idle idle" "$(claim_of win11 gpu0) $(claim_of win11 gpu1)"
