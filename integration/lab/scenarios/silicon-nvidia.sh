# NVIDIA's stand-in driver and tools answer as the simulator does: vGPUs on VFs and PFs, sizes, MIG, sriov-manage
# group: main
# order: 96
# limit: 400
# product: no
. /lab/conformance/on-kernel.sh
. /lab/scenarios/domains.sh
trap 'clear_domains; with_udev' EXIT

# While a program has the GPU open through the vendor's library: the simulator has no such program.
aside_client() {
  fact lab.sriov-manage.client "$(sriov_manage -e $a40 5< "/sys/kernel/debug/nvidia/$a40/nvml")"
}

# The VF has a type: the simulator has no libvirt that could start a domain with it.
aside_domain() {
  domain vgpu "" "$(pci_device 0001:00:00.4 no)" | define
  expect "virsh start" virsh start vgpu
  expect "QEMU has it open" holds_vfio vgpu
  expect "nvidia has the VF" bound_to ${v}0 nvidia
  expect "virsh destroy" virsh destroy --graceful vgpu
  expect_eq "the type stays" 565 "$(text_of ${v}0/nvidia/current_vgpu_type)"
}

conform nvidia
expect "gpusim unloads" unload_gpusim
no_warnings
