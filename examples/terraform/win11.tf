# A VM with a slice of a GPU, by the provider dmacvicar/libvirt 0.8.
#
# The provider defines the VM and starts it in one go, before libvirt's agent could add the device: so the device is in
# the definition too. A mediated device has the same name on every host; it is made when the VM starts. For another
# VM or profile (of a VF it is its address) take what this prints: gpuslice attach UUID PROFILE --print
terraform {
  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "~> 0.8.0"
    }
  }
}

provider "libvirt" {
  uri = "qemu:///system"
}

resource "libvirt_domain" "win11" {
  name    = "win11"
  memory  = 8192
  vcpu    = 4
  machine = "q35"

  disk {
    file = "/var/lib/libvirt/images/win11.qcow2"
  }

  # The provider has no words for a UUID, metadata and a device, so they are added to the XML. With a UUID of its own
  # the VM can be applied again also after a start that was refused, which leaves it defined.
  xml {
    xslt = <<-XSLT
      <xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
        <xsl:template match="@*|node()">
          <xsl:copy>
            <xsl:apply-templates select="@*|node()"/>
          </xsl:copy>
        </xsl:template>
        <xsl:template match="/domain">
          <xsl:copy>
            <xsl:apply-templates select="@*|node()"/>
            <uuid>4be47ad5-6e2f-4e0c-9d4a-1f6a3f0e1a12</uuid>
            <metadata>
              <gpuslice:claims xmlns:gpuslice="urn:gpuslice:domain:1">
                <gpuslice:claim name="gpu0" profile="nvidia-t4-8q"/>
              </gpuslice:claims>
            </metadata>
          </xsl:copy>
        </xsl:template>
        <xsl:template match="/domain/devices">
          <xsl:copy>
            <xsl:apply-templates select="@*|node()"/>
            <hostdev mode="subsystem" type="mdev" model="vfio-pci">
              <source>
                <address uuid="0d84ad93-8b39-5e80-919f-86ab290468e4"/>
              </source>
              <alias name="ua-gpuslice-gpu0"/>
            </hostdev>
          </xsl:copy>
        </xsl:template>
      </xsl:stylesheet>
    XSLT
  }
}
