# Makes and caches what a boot needs:
#   $cache/tree-KEY     rootfs and buildroot, see tree.sh
#   $cache/image-KEY    base.img, vmlinuz, initrd.img
#   $cache/modules-KEY  the kernel modules, laid out as in the guest

. "$lab/host/tree.sh"

make_image() {
  local out=$1 root=$1/root
  cp -a --reflink=auto "$trees/rootfs" "$root"
  cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
  cp "$root"/boot/initrd.img-* "$out/initrd.img"
  rm -rf "$root"/boot/* "$root"/dev/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc
  bash "$lab/guest/prepare" "$root"
  truncate -s 4G "$out/base.img"
  mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 -d "$root" "$out/base.img"
  rm -rf "$root"
}

kernel_version() { basename "$trees"/rootfs/usr/lib/modules/*; }

# depmod runs here, once, rather than in every guest: it takes seconds under emulation. It prefers "updates" to the kernel's
# own modules, of which one has a name of ours (amdgpu).
make_modules() {
  local out=$1 b=$trees/buildroot k work base
  k=$(kernel_version)
  rm -rf "$b"/root/modules.*
  work=$(mktemp -d "$b/root/modules.XXXXXX")
  base=${work#"$b"}
  cp -r "$lab/gpusim/." "$work"
  mkdir "$work/samples"
  cp "$b"/usr/src/linux-source-6.12/samples/vfio-mdev/{mtty.c,mdpy.c,mdpy-defs.h,mbochs.c} "$work/samples"
  echo 'obj-m := mtty.o mdpy.o mbochs.o' > "$work/samples/Kbuild"
  echo 'obj-m += samples/' >> "$work/Kbuild"
  chroot "$b" make -s -C "/lib/modules/$k/build" "M=$base" modules
  mkdir "$work/built"
  find "$work" -name '*.ko' -exec mv {} "$work/built" \;
  chroot "$b" find "$base/built" -name '*.ko' -exec strip --strip-debug {} +
  mkdir -p "$work/lib/modules" "$out/usr/lib/modules/$k/updates"
  cp -a "$trees/rootfs/usr/lib/modules/$k" "$work/lib/modules/"
  mkdir "$work/lib/modules/$k/updates"
  cp "$work"/built/*.ko "$work/lib/modules/$k/updates/"
  chroot "$b" depmod -b "$base" "$k"
  cp "$work"/built/*.ko "$out/usr/lib/modules/$k/updates/"
  cp "$work/lib/modules/$k"/modules.* "$out/usr/lib/modules/$k/"
  rm -rf "$work"
}

# Sets trees; makes them if they are missing.
ensure_tree() {
  trees=$cache/tree-$(key "$lab/packages" "$lab/host/tree.sh")
  [ -d "$trees" ] || say "building the guest's file system from packages (about 3 minutes, once)"
  made "$trees" make_tree
}

# Sets trees, image, modules; makes what is missing.
ensure_image() {
  prune
  ensure_tree
  image=$cache/image-$(echo "$trees" | key - "$lab/guest/prepare" "$lab/guest/lab-init")
  [ -d "$image" ] || say "building the disk image"
  made "$image" make_image
  modules=$cache/modules-$(find "$lab/gpusim" -type f | sort | xargs -d '\n' cat | key - <(echo "$trees") "$lab/host/image.sh")
  [ -d "$modules" ] || say "building gpusim, its drivers, mtty, mdpy, mbochs"
  made "$modules" make_modules
  say "image ready ($(kernel_version))"
}
