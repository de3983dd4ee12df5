# libvirt domains for scenarios. They boot nothing: 64 MiB, no disk, emulated.

# domain_uuid NAME : the same name has the same UUID in every run.
domain_uuid() { uuidgen --sha1 -n @dns -N "$1.lab"; }

# mdev_uuid DOMAIN-UUID CLAIM [INDEX] : what an mdev of that claim is called; the namespace is the domain.
mdev_uuid() { uuidgen --sha1 -n "$1" -N "$2/${3:-0}"; }

# domain NAME METADATA DEVICES : prints the XML.
domain() {
  cat << X
<domain type='qemu'><name>$1</name><uuid>$(domain_uuid "$1")</uuid>${2:+<metadata>$2</metadata>}
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon model='none'/>
$3</devices></domain>
X
}

# claim NAME PROFILE : our metadata
claim() {
  echo "<gpuslice:claims xmlns:gpuslice='urn:gpuslice:domain:1'><gpuslice:claim name='$1' profile='$2'/></gpuslice:claims>"
}

# mdev_device UUID [ALIAS]
mdev_device() {
  echo "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='$1'/></source>${2:+<alias name='$2'/>}</hostdev>"
}

# pci_device ADDRESS MANAGED [ALIAS]
pci_device() {
  local d b s f
  IFS=':.' read -r d b s f <<< "$1"
  echo "<hostdev mode='subsystem' type='pci' managed='$2'><source><address domain='0x$d' bus='0x$b' slot='0x$s' function='0x$f'/></source>${3:+<alias name='$3'/>}</hostdev>"
}

# power_button NAME : a disk whose boot sector waits for the power button and turns the machine off, as a system does that
# was asked to shut down: bit 8 into PM1_EN (0x602); hlt until bit 8 of PM1_STS (0x600) is set; S5 into PM1_CNT (0x604).
power_button() {
  local image=/var/lib/libvirt/images/$1.img
  truncate -s 1M "$image"
  printf '\xb8\x00\x01\xba\x02\x06\xef\xfb\xf4\xba\x00\x06\xed\xf6\xc4\x01\x74\xf5\xb8\x00\x20\xba\x04\x06\xef\xf4\xeb\xfd' \
    | dd of="$image" conv=notrunc status=none
  printf '\x55\xaa' | dd of="$image" bs=1 seek=510 conv=notrunc status=none
  echo "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$image'/><target dev='sda' bus='sata'/></disk>"
}
# await_button NAME… : how many of them wait for it already
await_button() { printf "qemu-monitor-command %s --hmp 'i /h 0x602'\n" "$@" | virsh -q | grep -c '= 0x0100'; }

define() { # XML on stdin
  cat > define.xml
  virsh define define.xml > /dev/null || fail "virsh define: $(cat define.xml)"
}

# define_mdev NAME PROFILE : an ordinary domain with one mdev claim, written as attach writes it
define_mdev() {
  domain "$1" "$(claim gpu0 "$2")" "$(mdev_device "$(mdev_uuid "$(domain_uuid "$1")" gpu0)" ua-gpuslice-gpu0)" | define
}

# define_movable NAME PROFILE : the same with one of mtty, which can migrate and has to be told so; it says that it tracks dirty
# pages, and does not.
define_movable() {
  domain "$1" "$(claim gpu0 "$2")" "$(mdev_device "$(mdev_uuid "$(domain_uuid "$1")" gpu0)" ua-gpuslice-gpu0)" \
    | sed "s,<domain type='qemu'>,<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>,
        s,</domain>,<qemu:override><qemu:device alias='ua-gpuslice-gpu0'><qemu:frontend>\
<qemu:property name='x-device-dirty-page-tracking' type='string' value='off'/>\
<qemu:property name='enable-migration' type='string' value='on'/></qemu:frontend></qemu:device></qemu:override></domain>," | define
}

# libvirt's own files say at once what virsh takes a second of emulation to ask.
# vf_of DOMAIN [MANAGED] : the VF in its definition; home_of DOMAIN : the one that the agent has written
vf_of() { tr -d "\n" < "/etc/libvirt/qemu/$1.xml" | sed -nE "s/.*<hostdev mode='subsystem' type='pci' managed='${2:-[a-z]+}'[^>]*>.*<source> *<address domain='0x(....)' bus='0x(..)' slot='0x(..)' function='0x(.)'.*/\1:\2:\3.\4/p"; }
home_of() { vf_of "$1" no; }
has_home() { [[ $(home_of "$1") = *:* ]]; }
# moved DOMAIN FORMER [MANAGED] : it has another VF than that. While it is exchanged it has none for a moment.
moved() { local vf; vf=$(vf_of "$1" "${3:-no}"); [[ $vf = *:* && $vf != "$2" ]]; }
# vfs_of, mdevs_of DOMAIN : what all hostdevs of ours in its definition pass, in the order of their claim
ours_of() { # DOMAIN SED-EXPRESSION that prints index and device of one
  tr -d "\n" < "/etc/libvirt/qemu/$1.xml" | sed 's,</hostdev>,&\n,g' | sed -nE "$2" | sort -n | awk '{print $NF}'
}
vfs_of() { ours_of "$1" "s/.*<address domain='0x(....)' bus='0x(..)' slot='0x(..)' function='0x(.)'.*<alias name='ua-gpuslice-[a-z0-9]+(--([0-9]+))?'.*/\6 \1:\2:\3.\4/p"; }
mdevs_of() { ours_of "$1" "s/.*<address uuid='([0-9a-f-]+)'.*<alias name='ua-gpuslice-[a-z0-9]+(--([0-9]+))?'.*/\3 \1/p"; }
mdev_of() { tr -d "\n" < "/etc/libvirt/qemu/$1.xml" | sed -nE "s/.*<address uuid='([0-9a-f-]+)'.*/\1/p"; }

running() { grep -qs "<domstatus state='running'" "/run/libvirt/qemu/$1.xml"; }
uuid_of() { cat "/etc/libvirt/qemu/$1.xml" "/run/libvirt/qemu/$1.xml" 2> /dev/null | sed -nE 's,.*<uuid>(.*)</uuid>.*,\1,p' | head -n 1; }
qemu_of() { cat "/run/libvirt/qemu/$1.pid"; }

# long_running NAME : one that ends sooner is taken for one that has wedged the typed VF it has, which is kept back as long as VMs
# run beside it.
long_running() { [ "$(ps -o etimes= -p "$(qemu_of "$1")")" -ge 25 ]; }

# has_hostdev NAME : its definition has any
has_hostdev() { grep -q '<hostdev' "/etc/libvirt/qemu/$1.xml"; }

# open_vfio NAME : how many VFIO groups QEMU has open; holds_vfio NAME : it has one
open_vfio() { ls -l "/proc/$(qemu_of "$1")/fd" | grep -c '/dev/vfio/[0-9]'; }
holds_vfio() { open_vfio "$1" > /dev/null; }

# Leaves nothing of a scenario's domains behind. One virsh does all, since each is half a second.
clear_domains() {
  local file
  {
    for file in /run/libvirt/qemu/*.xml; do [ ! -e "$file" ] || echo "destroy $(basename "$file" .xml)"; done
    for file in /etc/libvirt/qemu/*.xml; do [ ! -e "$file" ] || echo "undefine $(basename "$file" .xml) --managed-save --nvram"; done
  } | virsh -q
}
