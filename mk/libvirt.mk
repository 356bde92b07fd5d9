# SPDX-License-Identifier: MIT OR Apache-2.0

LIBVIRT_PACKAGES = libvirt-dev libvirt-daemon libvirt-clients:virsh

.PHONY: check-libvirt
check-libvirt: libvirt-deps private ## test the bridge to libvirt against a private libvirtd
	$(MESON) test -C $(private) --no-rebuild --print-errorlogs --suite libvirt

.PHONY: bench-libvirt
bench-libvirt: libvirt-deps private ## measure the bridge to libvirt, and write the table in docs/libvirt.md
	bench/libvirt $(private) 7

.PHONY: libvirt-deps
libvirt-deps:
	@build-aux/install-deps $(LIBVIRT_PACKAGES)
