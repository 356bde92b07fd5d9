# SPDX-License-Identifier: MIT OR Apache-2.0
# Short names for what cargo and meson do. Everything that is made goes to build/.

CARGO ?= cargo
MESON ?= meson
prefix ?= /usr/local
# Empty: meson's choice for this system.
libdir ?=
DESTDIR ?=

# The stages that `make check` runs; see build-aux/check.
STAGES ?= rust c guard

# Debian packages, each with the command that shows that it is there.
BUILD_PACKAGES = meson:meson ninja-build:ninja pkg-config:pkg-config
DEMO_PACKAGES = $(BUILD_PACKAGES) e2fsprogs:mke2fs
CHECK_PACKAGES = $(BUILD_PACKAGES) e2fsprogs:mke2fs g++:c++
# Without these, tests that need them are skipped.
CHECK_PACKAGES_OPTIONAL = valgrind:valgrind strace:strace xfsprogs:mkfs.xfs btrfs-progs:mkfs.btrfs \
    squashfs-tools:mksquashfs erofs-utils:mkfs.erofs mandoc:mandoc openssl:openssl abigail-tools:abidiff reuse:reuse \
    cmake:cmake python3-cffi libvirt-dev libvirt-daemon:libvirtd libvirt-clients:virsh \
    libgnutls28-dev libnbd-dev libnbd-bin:nbdcopy nbdkit:nbdkit qemu-utils:qemu-nbd gnutls-bin:certtool python3-libnbd \
    acl:setfacl attr:setfattr

# For `make packages`, beside Debian's own Rust, the same as for the oldest: only one of its versions can be installed.
PACKAGES_PACKAGES = build-essential dpkg-dev:dpkg-buildpackage debhelper:dh libnbd-dev libvirt-dev lintian:lintian debootstrap:debootstrap \
    iproute2:ip rpm:rpmbuild rpmlint:rpmlint

# The oldest Rust that Cargo.toml allows, as Debian 12 has it; it is called by its path beside any other.
OLDEST_RUST_PACKAGES = 'rustc-web=1.85*:/usr/bin/rustc' 'cargo-web=1.85*:/usr/bin/cargo' 'libstd-rust-web-dev=1.85*'

# The build that is installed, and the one that demo and check use.
release = build/release
private = build/private
private_prefix = $(CURDIR)/build/prefix

export CARGO

.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: demo
demo: demo-deps private ## send a real disk image through a daemon and back, and compare
	$(MESON) install -C $(private) --no-rebuild --quiet
	demo/run $(private_prefix)

.PHONY: check
check: check-deps ## run all tests; the last line sums them up
	@build-aux/check $(STAGES)

.PHONY: build
build: build-deps $(release)/build.ninja ## build the library for installation
	$(MESON) compile -C $(release)

.PHONY: build-deps
build-deps:
	@build-aux/install-deps --rust $(BUILD_PACKAGES)

.PHONY: install
install: build ## install it under $(DESTDIR)$(prefix)
	DESTDIR='$(DESTDIR)' $(MESON) install -C $(release) --no-rebuild

.PHONY: uninstall
uninstall: ## remove what `make install` installed
	ninja -C $(release) uninstall

.PHONY: dist
dist: $(private)/build.ninja ## make a tarball, with the crates in it, in build/private/meson-dist
	$(MESON) dist -C $(private) --no-tests --formats=xztar $(if $(ALLOW_DIRTY),--allow-dirty)

.PHONY: packages
packages: packages-deps ## make the tarball and the packages of the last commit, and test them
	@build-aux/check packages

.PHONY: packages-deps
packages-deps:
	@build-aux/install-deps --optional $(OLDEST_RUST_PACKAGES)
	@CARGO=/usr/bin/cargo build-aux/install-deps --rust $(CHECK_PACKAGES) --optional $(PACKAGES_PACKAGES)

.PHONY: header
header: ## write include/sparsestream.h from src/ffi
	$(CARGO) run --quiet --locked --manifest-path xtask/Cargo.toml --target-dir build/xtask -- header

.PHONY: abi
abi: abi-deps header ## record the C ABI in abi/, and write Debian's symbols file
	build-aux/abi record

.PHONY: fmt
fmt: ## format the Rust sources
	$(CARGO) fmt
	$(CARGO) fmt --manifest-path xtask/Cargo.toml

.PHONY: clean
clean: ## remove build/
	rm -rf build

# The directories of `make install`, kept so that others set it up anew.
settings = prefix=$(prefix) libdir=$(libdir)
ifneq ($(settings),$(shell cat $(release).settings 2>/dev/null))
.PHONY: $(release)/build.ninja
endif
$(release)/build.ninja:
	$(MESON) setup $(release) $(if $(wildcard $(release)/build.ninja),--reconfigure) --prefix='$(prefix)' \
	    $(if $(libdir),--libdir='$(libdir)') -Dtests=disabled -Dexamples=disabled
	@echo '$(settings)' > $(release).settings

# The build that demo and check share: installed nowhere but below build/. It is set up anew once packages were installed,
# since meson may find more then.
$(private)/build.ninja: $(wildcard build/installed-packages)
	$(MESON) setup $(private) $(if $(wildcard $(private)/build.ninja),--reconfigure) --prefix='$(private_prefix)' --libdir=lib --werror

.PHONY: private
private: $(private)/build.ninja
	$(MESON) compile -C $(private)

.PHONY: demo-deps
demo-deps:
	@build-aux/install-deps --rust $(DEMO_PACKAGES)

.PHONY: abi-deps
abi-deps:
	@build-aux/install-deps abigail-tools:abidiff

.PHONY: check-deps
check-deps:
	@build-aux/install-deps --rust $(CHECK_PACKAGES) --optional $(CHECK_PACKAGES_OPTIONAL)
ifneq ($(filter oldest,$(STAGES)),)
	@build-aux/install-deps --optional $(OLDEST_RUST_PACKAGES)
endif

# The prerequisites of one target, in the order they are named in: deps come before what needs them.
.NOTPARALLEL:

include $(wildcard mk/*.mk)
