# A VM that was saved with a VF goes on with it; where another VM has that, it is given another by libvirt's hook, or is refused
# group: main
# order: 36
# needs: product
# limit: 240
. /lab/scenarios/product.sh
trap clear_domains EXIT

vf_profile=amd-74a1-vf8 others=7
given() { bound_to "/sys/bus/pci/devices/$1" vfio-pci; }
fallow() { gone "/sys/bus/pci/devices/$1/driver"; }
outlives_start() { :; }
all_up
. /lab/scenarios/saving.sh
