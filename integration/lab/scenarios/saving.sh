# A VM that is saved with a VF and comes back, for the scenarios that do it with VFs of one kind each. No VF of the lab can be saved; so the
# image is that of the same VM without one, and says that it had it. The scenarios say
#   vf_profile, others     what VFs they are, and how many of them other VMs ask for, one after the other: all but one
#   given VF, fallow VF, outlives_start DOMAIN    as in the head of people.sh

# saved_with IMAGE XML : the image tells of the claims and devices of that definition
saved_with() {
  python3 - "$1" "$2" << 'P'
import re, struct, sys
image, definition = (open(name, 'rb').read() for name in sys.argv[1:])
# libvirt's head: magic, version, length of what follows, ran, format, where in it the cookie is; then the XML, the cookie, the memory
layout = '=16s19I'
start = struct.calcsize(layout)
head = list(struct.unpack(layout, image[:start]))
told, memory = image[start:start + head[2]], image[start + head[2]:]
domain, cookie = (part.split(b'\0')[0] for part in (told[:head[5]], told[head[5]:]))
of = lambda element: b''.join(re.findall(b'<%s[ >].*?</%s>' % (element, element), definition, re.S))
domain = domain.replace(b'</uuid>', b'</uuid>' + of(b'metadata')).replace(b'</devices>', of(b'hostdev') + b'</devices>')
told = domain + b'\0' + cookie + b'\0'
head[2], head[5] = len(told), len(domain) + 1
open(sys.argv[1], 'wb').write(struct.pack(layout, *head) + told + memory)
P
}
# came_with VF : it runs with that
came_with() {
  expect_eq "its claim" "attached vf:$1" "$(rows claims --arg c "$(domain_uuid sav)/vf0" 'select(.claim == $c) | "\(.state) \(.slices | join(" "))"')"
  expect "the VF as it is given" given "$1"
  expect "QEMU has it open" has_open sav "/sys/bus/pci/devices/$1"
}

say "managed save and start, with a VF"
domain sav "" "" | define
expect "attach" gpuslice attach sav $vf_profile --name vf0
wait_for 20 "it has a VF" has_home sav
vf=$(home_of sav)
virsh dumpxml --inactive sav > sav.xml
sed "/<hostdev /,/<\/hostdev>/d; /<metadata>/,/<\/metadata>/d" sav.xml > without.xml
expect "it runs without" q virsh create without.xml
expect "virsh managedsave" q virsh managedsave sav
saved_with /var/lib/libvirt/qemu/save/sav.save sav.xml
cp /var/lib/libvirt/qemu/save/sav.save sav.image
start sav
came_with "$vf"
ends sav "$vf"

say "restored where another VM runs with its VF"
# asks DOMAIN COUNT
asks() { domain "$1" "" "" | define; expect "attach" gpuslice attach "$1" $vf_profile --name vf0 --count "$2"; }
n=0
for count in $others; do asks other$((++n)) $count; done
virsh undefine sav
asks one 1
wait_for 20 "its VF is another's" is "$vf" home_of one
start one
out=$(virsh restore sav.image 2>&1) && fail "it was restored with a VF of somebody else's"
expect "it is refused: ${out##*gpuslice: }" grep -q 'gpuslice: no-capacity: ' <<< "$out"
expect "gpuslice detach" gpuslice detach other1
expect "virsh restore" q virsh restore sav.image
now=$(field claims claim "$(domain_uuid sav)/vf0" slices | jq -r ".[0]"); now=${now#vf:}
expect "it has another VF: $now" not test "$now" = "$vf"
came_with "$now"
expect_eq "whose its own was" "attached $(domain_uuid one)/vf0" "$(slice_state "vf:$vf") $(slice_claim "vf:$vf")"
ends sav "$now"
ends one "$vf"
