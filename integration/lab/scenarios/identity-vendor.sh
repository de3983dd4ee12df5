# What scenarios identity and saved-vf do, with VFs of NVIDIA's, which take a type at each start and lose it after each
# group: main
# order: 71
# needs: product
# limit: 1200
# long: yes
. /lab/scenarios/product.sh
cleanup() { clear_domains; systemctl start gpuslice-libvirt-agent; modprobe -r mtty; boot_host; }
trap cleanup EXIT

# no address of other scenarios' cards
gpu=0015:00:00.0 vf_profile=nvidia-a40-12q others="1 1 1" pool_profile=nvidia-a40-12q managed=managed
pci=/sys/bus/pci/devices
type_of() { cat "$pci/$1/nvidia/current_vgpu_type"; }
given() { bound_to "$pci/$1" nvidia && is 563 type_of "$1"; }
fallow() { is 0 type_of "$1"; }
outlives_start() { wait_for 60 "$1 has run for a while" long_running "$1"; }
expect "the boot's cards go" other_host
expect "an A40 comes" load_gpusim a40:vfs=4:domain=0x15 nvidia
cat > /etc/gpuslice/gpuslice.toml << E
[[gpu]]
match = { address = "$gpu" }
layout = { vfs = "all" }
E
expect "gpusliced starts" daemon start
all_up
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
. /lab/scenarios/people.sh

say "a VF that takes a type, as a dialog writes it"
clear_domains
picked=$(slices_of $gpu | tail -n 1); picked=${picked#vf:}
wait_for 60 "it is free" is free slice_state "vf:$picked"
domain dialog "" "" | define
expect "virt-xml adds it" virt-xml dialog --add-device --hostdev "pci_$(tr ':.' '__' <<< "$picked")"
expect_eq "libvirt is to manage it" "$picked" "$(vf_of dialog yes)"
refused dialog managed
edit dialog "/<hostdev mode='subsystem' type='pci'/,/<\/hostdev>/d"
expect "gpuslice attach" gpuslice attach dialog $vf_profile --name vf0
wait_for 20 "it has a VF" has_home dialog
start dialog
expect "with the type" given "$(home_of dialog)"
ends dialog

say "picked for a VM that runs, which libvirt tries"
vf=$(home_of dialog)
port="<controller type='pci' model='pcie-root-port'/>"
domain late "" "<controller type='pci' model='pcie-root'/>$port" | define
start late
out=$(virt-xml late --add-device --hostdev "pci_$(tr ':.' '__' <<< "$vf")" --update 2>&1) && fail "it was plugged in"
expect "${out##*: }" grep -q "'/dev/vfio/[0-9]*' is not accessible" <<< "$out"
expect "its definition is as before" not has_hostdev late
wait_for 20 "the VF is given to nobody" is quarantined slice_state "vf:$vf"
expect "the GPU says why" grep "$vf has no VFIO device: it was taken off its driver once" <(field gpus parent $gpu reason)
refused dialog quarantined
wait_for 20 "its claim is given another" moved dialog "$vf"
start dialog
expect "with the type" given "$(home_of dialog)"
ends dialog
wait_for 120 "the VF is made anew when nobody uses one" is free slice_state "vf:$vf"
expect "and is its driver's" bound_to "$pci/$vf" nvidia

clear_domains
. /lab/scenarios/saving.sh
