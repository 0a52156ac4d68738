# SPDX-License-Identifier: LGPL-2.1-or-later
#
# install, uninstall. DESTDIR and PREFIX as usual.

BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/memd
UNITDIR ?= $(PREFIX)/lib/systemd/system
D = $(DESTDIR)

INSTALL_BIN := memd memctl memd-run memd-agent
INSTALL_HEADERS := $(wildcard include/memd/*.h)
INSTALL_DOCS := README.md CHANGELOG.md LICENSE $(wildcard docs/*.md)
INSTALL_EXAMPLES := $(wildcard docs/examples/*)
# memvm stays in the build directory, and its page here
MANPAGES := $(filter-out docs/man/memvm.%,$(wildcard docs/man/*.[1-8]))
UNITS := memd.service memd-agent.service
man_path = $(MANDIR)/man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))

INSTALLED = $(addprefix $(BINDIR)/,$(INSTALL_BIN)) \
	$(LIBDIR)/memd/libmemd-preload.so $(LIBDIR)/libmemd.a $(LIBDIR)/libmemd.so $(LIBDIR)/$(SONAME) $(LIBDIR)/libmemd.so.$(VERSION) \
	$(LIBDIR)/pkgconfig/memd.pc $(addprefix $(INCLUDEDIR)/memd/,$(notdir $(INSTALL_HEADERS))) \
	$(foreach m,$(MANPAGES),$(call man_path,$(m))) $(addprefix $(UNITDIR)/,$(UNITS)) \
	$(addprefix $(DOCDIR)/,$(notdir $(INSTALL_DOCS))) $(addprefix $(DOCDIR)/examples/,$(notdir $(INSTALL_EXAMPLES)))

# Directories that install had to make are noted, so that uninstall takes away those and no others.
INSTALL_DIRS = $(BINDIR) $(LIBDIR)/pkgconfig $(LIBDIR)/memd $(INCLUDEDIR)/memd $(UNITDIR) $(DOCDIR)/examples \
	$(sort $(foreach m,$(MANPAGES),$(dir $(call man_path,$(m)))))
MADE = $(D)$(LIBDIR)/memd/made-directories

# paths in the .pc and the unit file are those of the installed system, without DESTDIR
FILL = sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' \
	-e 's|@INCLUDEDIR@|$(INCLUDEDIR)|g' -e 's|@VERSION@|$(VERSION)|g'

.PHONY: install uninstall
install: $(LIBRARIES) $(addprefix $(B)/,$(INSTALL_BIN))
	$(Q)new=$$(for d in $(INSTALL_DIRS:/%=%); do \
		while [ "$$d" != . ] && [ ! -d "$(D)/$$d" ]; do echo "/$$d"; d=$$(dirname "$$d"); done; done); \
		install -d $(addprefix $(D),$(INSTALL_DIRS)) && \
		for d in $$new; do echo "$$d"; done | cat - $$(ls $(MADE) 2>/dev/null) | LC_ALL=C sort -ru >$(MADE).new && \
		mv $(MADE).new $(MADE)
	$(Q)install -m 755 $(addprefix $(B)/,$(INSTALL_BIN)) $(D)$(BINDIR)
	$(Q)install -m 644 $(B)/libmemd.a $(D)$(LIBDIR)
	$(Q)install -m 755 $(B)/libmemd-preload.so $(D)$(LIBDIR)/memd
	$(Q)install -m 755 $(B)/libmemd.so.$(VERSION) $(D)$(LIBDIR)
	$(Q)ln -sf libmemd.so.$(VERSION) $(D)$(LIBDIR)/$(SONAME)
	$(Q)ln -sf $(SONAME) $(D)$(LIBDIR)/libmemd.so
	$(Q)install -m 644 $(INSTALL_HEADERS) $(D)$(INCLUDEDIR)/memd
	$(Q)$(FILL) dist/memd.pc.in >$(D)$(LIBDIR)/pkgconfig/memd.pc
	$(Q)$(foreach u,$(UNITS),$(FILL) dist/$(u).in >$(D)$(UNITDIR)/$(u) &&) :
	$(Q)chmod 644 $(D)$(LIBDIR)/pkgconfig/memd.pc $(addprefix $(D)$(UNITDIR)/,$(UNITS))
	$(Q)$(foreach m,$(MANPAGES),install -D -m 644 $(m) $(D)$(call man_path,$(m)) &&) :
	$(Q)install -m 644 $(INSTALL_DOCS) $(D)$(DOCDIR)
	$(Q)install -m 644 $(INSTALL_EXAMPLES) $(D)$(DOCDIR)/examples
	@echo 'installed memd $(VERSION) in $(D)$(PREFIX)'

uninstall:
	$(Q)rm -f $(addprefix $(D),$(INSTALLED))
	$(Q)made=$$(cat $(MADE) 2>/dev/null); rm -f $(MADE); for d in $$made; do \
		[ ! -d "$(D)$$d" ] || rmdir --ignore-fail-on-non-empty "$(D)$$d"; done
