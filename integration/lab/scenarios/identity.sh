# What people do to VMs: rename, clone, copy, edit, revert, undefine and define again, transient: each keeps or gets its own slice
# group: restart
# order: 1
# needs: product
# limit: 700
. /lab/scenarios/product.sh
cleanup() { clear_domains; systemctl start gpuslice-libvirt-agent; modprobe -r mtty; }
trap cleanup EXIT

gpu=0001:00:00.0 vf_profile=amd-74a1-vf8 pool_profile=amd-74a1-vf4
given() { bound_to "/sys/bus/pci/devices/$1" vfio-pci; }
fallow() { gone "/sys/bus/pci/devices/$1/driver"; }
outlives_start() { :; }
all_up
modprobe mtty
wait_for 10 "mtty-2 is a profile" is 12 free_of mtty-2
. /lab/scenarios/people.sh
