# The file systems everything else is made of, from Debian packages only: rootfs (the guest; its QEMU also runs the lab)
# and buildroot (compiler and headers of its kernel). One step makes both, so that they can never be of two kernel versions.

mirror() { awk '/^URIs:/ {print $2; exit} /^deb / {print $2; exit}' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2> /dev/null; }

make_tree() {
  local out=$1 from guest build
  from=${MIRROR:-$(mirror)}
  guest=$(grep -v '^#' "$lab/packages" | paste -sd,)
  # A small initramfs of exactly what finds the root disk: the stock one costs 10 s of an emulated boot.
  mmdebstrap --variant=minbase --components=main --include="$guest" \
    --essential-hook='mkdir -p "$1/usr/share/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"' \
    --essential-hook='echo MODULES=list > "$1/usr/share/initramfs-tools/conf.d/lab"' \
    --essential-hook='printf "virtio_pci\nvirtio_blk\next4\n" > "$1/usr/share/initramfs-tools/modules.d/lab"' \
    "$suite" "$out/rootfs" ${from:+"$from"} & guest=$!
  mmdebstrap --variant=apt --components=main \
    --include=linux-headers-amd64,linux-source-6.12,make,gcc,libc6-dev,xz-utils,kmod \
    "$suite" "$out/buildroot" ${from:+"$from"} & build=$!
  wait $guest && wait $build || return 1
  tar xf "$out/buildroot/usr/src/linux-source-6.12.tar.xz" -C "$out/buildroot/usr/src" --wildcards 'linux-source-6.12/samples/vfio-mdev*'
  rm -f "$out"/buildroot/usr/src/linux-source-6.12.tar.xz "$out"/*/var/cache/apt/archives/*.deb
}
