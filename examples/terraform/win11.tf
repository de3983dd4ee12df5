# A VM with a slice of a GPU, by the provider dmacvicar/libvirt 0.8. libvirt's agent adds the device.
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

  # The provider has no word for metadata, so it is added to the XML.
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
            <metadata>
              <gpuslice:claims xmlns:gpuslice="urn:gpuslice:domain:1">
                <gpuslice:claim name="gpu0" profile="nvidia-a40-8q"/>
              </gpuslice:claims>
            </metadata>
          </xsl:copy>
        </xsl:template>
      </xsl:stylesheet>
    XSLT
  }
}
