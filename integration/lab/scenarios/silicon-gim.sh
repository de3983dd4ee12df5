# AMD's stand-in drivers answer as the simulator does: VFs from a module's option, partitions, refusals that look like success
# group: main
# order: 95
# limit: 400
# product: no
. /lab/conformance/on-kernel.sh

# Facts that only these drivers can tell, each at its place in the script.

# The simulator has no modules to look into.
aside_aliases() { fact lab.gim.aliases "$(modinfo -F alias gim | wc -l)"; }

# The load waits for the GPUs here, unless the stand-in is told not to.
aside_ready() { expect_eq "the load's last word" 'AMD GIM is Running' "$(said 'AMD GIM is Running')"; }

# A text that grows while it is read, of which gpuslice takes nothing, and the stand-in's own account.
aside_memory() {
  fact lab.gim.memory.caps.grow "$(for n in 1 2; do awk '$1 == "profile_index" {t = 1; next} t {$1=$2=$3=""; sub(/[0-9]* ?\[.*/, ""); print}' $pci/$mi350/accelerator_partition_profile_config | xargs; done | paste -sd'|')"
  fact lab.gim.framebuffer "$(cat /sys/kernel/debug/gim/$a/vf_fb_mb)"
}

# Files that gpuslice neither reads nor writes.
aside_guards() {
  local line="sed -n 2p $pci/$a/guard_threshold"
  w '1 0 2 7 9' /sys/kernel/debug/gim/$a/guard
  fact lab.gim.guard.vf "$(sed -n 3p $pci/$a/guard_status | tr '\t' ' ')"
  fact lab.gim.guard.threshold.bad "$(errno_of flr=a $pci/$a/guard_threshold) $($line | tr '\t' ' ')"
  fact lab.gim.guard.threshold.hex "$(errno_of flr=a,ex=b,ext=10,int=ff $pci/$a/guard_threshold) $($line | tr '\t' ' ')"
  fact lab.gim.self_switch "$(text_of $pci/$a/self_switch) $(errno_of 1 $pci/$a/self_switch) $(text_of $pci/$a/self_switch) $(errno_of x $pci/$a/self_switch)"
}

# A reset from elsewhere.
aside_resetting() {
  w 1 /sys/kernel/debug/amdgpu/$a/resetting
  fact lab.amdgpu.compute.resetting "$(errno_of CPX $pci/$a/current_compute_partition)"
  w 0 /sys/kernel/debug/amdgpu/$a/resetting
}

conform amd
expect "gpusim unloads" unload_gpusim
no_warnings
