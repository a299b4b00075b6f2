BIN := .venv/bin
SERVICES := store vmd dns synjitsu reaper web
MEMBERS := protocol runtime services/store services/vmd services/dns services/synjitsu services/reaper services/web .

GUESTS := build/guests
TOOLS := build/tools
DIST ?= dist

.PHONY: setup setup-run setup-libvirt guests guests-if-possible up test test-unit simulate test-wires test-suite test-net test-libvirt test-lxd test-docker test-qemu test-systemd test-compose test-prometheus test-browser test-newcomer test-left-out test-xen fuzz fuzz-peers lint bench bench-footprint bench-dns bench-store bench-scale bench-synjitsu bench-unikernel bench-engines bench-libvirt bench-web bench-page docs-screenshots install deb dist docs pins clean
# Everything that is installed goes into .venv. `make up` needs only what the suite runs with; the rest, for tests and lint,
# is added by `make setup`, on which `make test` depends. pip is quiet but for errors: what its configuration may warn of is
# not news to somebody who wants to see the suite.
PIP_INSTALL := $(BIN)/pip install -qq --disable-pip-version-check
SOURCES := pyproject.toml $(wildcard protocol/pyproject.toml runtime/pyproject.toml services/*/pyproject.toml)
setup: .venv/ready
.venv/ready: .venv/can-run requirements-dev.txt
	@echo "Installing what tests and lint need ..."
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@

# The last step compiles the modules that a start imports, and all of ours. pip would compile every module of every
# library, most of which are never imported; it would not compile ours, which it links to; and with
# PYTHONDONTWRITEBYTECODE each start of a process would compile ours again, a fifth of the time until it works.
setup-run: .venv/can-run
.venv/can-run: requirements.txt requirements-build.txt $(SOURCES)
	@echo "Making .venv, for everything that is installed ..."
	@python3 -m venv .venv
	@$(BIN)/pip uninstall -qq -y --disable-pip-version-check setuptools  # of Python 3.11's venv; nothing here needs its 7 MB
	@echo "Installing the libraries, whose hashes are compared ..."
	@$(PIP_INSTALL) --no-compile --require-hashes -r requirements.txt -r requirements-build.txt
	@echo "Installing Jitsu from this checkout ..."
	@$(PIP_INSTALL) --no-compile --no-deps --no-build-isolation $(patsubst %,-e ./%,$(MEMBERS))
	@echo "Compiling ..."
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import jitsu.main$(foreach each,$(SERVICES),, jitsu_$(each).main)"
	@$(BIN)/python -m compileall -q protocol runtime services jitsu
	@touch $@

# Another apt or dpkg may be at work; apt-get waits for dpkg's lock (apt.conf(5), DPkg::Lock::Timeout), but not for that of
# the package lists or of the archives, so one lock of our own keeps our own calls apart, and a failed call is tried again.
APT_WAIT_S ?= 600
APT_GET := APT_WAIT_S=$(APT_WAIT_S) deploy/apt-get-waiting

# What libvirt's binding and real guests need; as root on Debian it is installed.
LIBVIRT_PACKAGES := libvirt-daemon-system libvirt-clients libvirt-dev qemu-system-x86 linux-image-cloud-amd64 busybox-static pkg-config gcc iproute2
setup-libvirt: .venv/libvirt-ready
.venv/libvirt-ready: .venv/ready requirements-libvirt.txt
	dpkg -s $(LIBVIRT_PACKAGES) >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install $(LIBVIRT_PACKAGES) >/dev/null </dev/null; }
	$(BIN)/pip install -q --require-hashes -r requirements-libvirt.txt
	touch $@

# A guest that boots in a millisecond, and stand-ins for Solo5's programs that run it: guests/README.md. Needs gcc.
guests: $(GUESTS)/jitsu-guest
$(GUESTS)/jitsu-guest: $(wildcard guests/unikernel/*.[ch] guests/unikernel/build guests/unikernel/images/*)
	guests/unikernel/build $(GUESTS)

# Without gcc, or a libc to link with, a guest in Python takes its place.
guests-if-possible:
	@! command -v gcc >/dev/null || $(MAKE) --no-print-directory -s guests || echo "the guest in C cannot be built: see above"

# The suite on this machine, with the mock hypervisor. ARGS="..." are given to `jitsu up`.
up: setup-run guests-if-possible
	@$(BIN)/jitsu up $(ARGS)

ROOT_TIERS := test-net test-libvirt test-lxd test-docker test-qemu test-systemd test-compose test-prometheus test-browser
# Every tier; at the end of each stands what was left out and why, which in CI is a failure.
test: setup
	@$(MAKE) --no-print-directory --output-sync=target -j2 lint test-unit
	@$(MAKE) --no-print-directory test-wires
	@$(MAKE) --no-print-directory test-suite
	@if [ "$$(id -u)" != 0 ]; then echo "left out: $(ROOT_TIERS): they need root" && [ -z "$$CI" ]; \
	elif ! command -v apt-get >/dev/null; then echo "left out: $(ROOT_TIERS): they need Debian" && [ -z "$$CI" ]; \
	else for tier in $(ROOT_TIERS); do $(MAKE) --no-print-directory $$tier || exit; done; fi

OTHER_TIERS := suite or net or libvirt or lxd or docker or qemu or xen or systemd or compose or prometheus or newcomer or browser
# None of tests/system is a unit test (tests/conftest.py holds to that), so its modules are not even read.
test-unit: setup
	$(BIN)/pytest -q --ignore=tests/system -m "not (wires or exhaustive or $(OTHER_TIERS))" -n 2

# Whole suites on virtual time, to which anything happens: SEEDS=1000 tries as many courses, SEED=17 one of them again.
SEED ?= 0
simulate: SEEDS ?= $(if $(filter command line,$(origin SEED)),1,300)
simulate: setup
	JITSU_SIMULATION_SEED=$(SEED) JITSU_SIMULATION_SEEDS=$(SEEDS) $(BIN)/pytest -q -n 2 tests/simulation/test_random.py

# Single wires against real sockets, files and programs, and every property with all of its examples.
test-wires: setup
	JITSU_EXAMPLES=all $(BIN)/pytest -q -m "(wires or exhaustive or property) and not ($(OTHER_TIERS))" -n 2 --durations=5

# Those that hold to durations have the machine to themselves.
test-suite: setup
	$(BIN)/pytest -q -m "suite and not alone" -n 2 --durations=5
	$(BIN)/pytest -q -m "suite and alone" --durations=5

# As root: hosts, bridges and guests in network namespaces that the tests make.
test-net: setup guests
	$(BIN)/pytest -q -m "net and not alone" -n 2 --durations=5
	$(BIN)/pytest -q -m "net and alone" --durations=5

# As root: libvirt's test driver, and QEMU guests on a bridge in a network namespace, without KVM unless that works.
test-libvirt: setup-libvirt
	$(BIN)/pytest -q -m libvirt --durations=5

# As root: an LXD of its own in a network namespace, with containers, and a cluster of three.
LXD_PACKAGES := lxd lxd-client lxcfs dnsmasq-base busybox-static iproute2
test-lxd: setup
	dpkg -s $(LXD_PACKAGES) >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install $(LXD_PACKAGES) >/dev/null </dev/null; }
	$(BIN)/pytest -q -m lxd --durations=5

# As root: a dockerd and a Podman of their own in network namespaces, with containers.
DOCKER_PACKAGES := docker.io docker-compose curl dnsutils podman netavark runc busybox-static iproute2
test-docker: setup
	dpkg -s $(DOCKER_PACKAGES) >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install $(DOCKER_PACKAGES) >/dev/null </dev/null; }
	$(BIN)/pytest -q -m docker --durations=5

# As root: QEMU processes of the kind qemu, on a bridge in a network namespace, without KVM unless that works.
QEMU_PACKAGES := qemu-system-x86 ovmf qemu-guest-agent linux-image-cloud-amd64 busybox-static iproute2
test-qemu: setup
	dpkg -s $(QEMU_PACKAGES) >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install $(QEMU_PACKAGES) >/dev/null </dev/null; }
	unshare -n $(BIN)/pytest -q -m qemu --durations=5

# As root: what docs/how-to/operate.md says, on a machine with systemd, libvirt and QEMU; debootstrap and systemd-nspawn are
# installed when absent.
test-systemd: setup-libvirt
	$(BIN)/pytest -q -m systemd --durations=5

# As root: compose.yaml, with a dockerd of its own; docker.io, docker-compose and debootstrap are installed when absent.
test-compose: setup
	$(BIN)/pytest -q -s -m compose -o faulthandler_timeout=0 --durations=5

# As root if Debian's prometheus is not installed yet: deploy/prometheus and deploy/grafana with a real Prometheus and suite.
test-prometheus: setup
	dpkg -s prometheus >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install --no-install-recommends prometheus >/dev/null </dev/null; }
	$(BIN)/pytest -q -m prometheus --durations=5

# As root if Debian's Chromium is not installed yet: every function of the web page, in that browser.
CHROMIUM_PACKAGES := chromium fonts-dejavu-core
test-browser: setup
	@$(chromium)
	$(BIN)/pytest -q -m browser --durations=5
define chromium
dpkg -s $(CHROMIUM_PACKAGES) >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install --no-install-recommends $(CHROMIUM_PACKAGES) >/dev/null </dev/null; }
endef

# The pictures of the tour, made by the test that looks at them.
docs-screenshots: setup
	@$(chromium)
	JITSU_SCREENSHOTS=docs/pictures $(BIN)/pytest -q tests/system/browser/test_pictures.py

# As root: README.md's two commands, the second of which is `make test`, by somebody who is not root in a bare Debian.
test-newcomer: setup
	$(BIN)/pytest -q -s -m newcomer -o faulthandler_timeout=0

# As root: of lint, unit and suite what test-newcomer has left out.
test-left-out: setup
	$(BIN)/pytest -q -n 2 @.cache/left-out

# As root: a Xen dom0 in QEMU's emulation, with this machine's root file system and this checkout in it.
XEN_PACKAGES := lz4 xen-hypervisor-4.17-amd64 xen-utils-4.17 xenstore-utils linux-image-amd64 libvirt-daemon-driver-xen
test-xen: setup-libvirt
	dpkg -s $(XEN_PACKAGES) >/dev/null 2>&1 || { $(APT_GET) update && $(APT_GET) install $(XEN_PACKAGES) >/dev/null </dev/null; }
	$(BIN)/python -m tests.xen.dom0

# Ten million packets that nobody meant, and 200,000 queries while sends fail; SEED=N gives others, PACKETS=N and QUERIES=N fewer.
fuzz: setup
	FUZZ_PACKETS=$(or $(PACKETS),10000000) FUZZ_SEED=$(or $(SEED),1) $(BIN)/pytest -q tests/dns/test_fuzz.py -o timeout=0 -o faulthandler_timeout=0
	FUZZ_QUERIES=$(or $(QUERIES),200000) $(BIN)/pytest -q tests/dns/test_send_fuzz.py tests/runtime/test_send_fuzz.py -o faulthandler_timeout=0

# As root: ten minutes in which each key sends every kind of request, right and wrong ones, while others go on working;
# SEED=N gives others, SECONDS=N fewer.
fuzz-peers: setup
	FUZZ_SECONDS=$(or $(SECONDS),600) FUZZ_SEED=$(or $(SEED),1) $(BIN)/pytest -q -s tests/system/test_peers_fuzz.py -o timeout=0 -o faulthandler_timeout=0

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# With JITSU_BENCH_BRIEF=1 each is done in seconds, only to see that it works.
bench: setup
	$(BIN)/python -m bench.cold_start

# Half a minute: imports, memory at rest, and how long `jitsu up` and `jitsu status` take.
bench-footprint: setup
	$(BIN)/python -m bench.footprint

# Some minutes; the peers that are not installed are left out: bind9 knot nsd pdns-server pdns-backend-bind dnsmasq-base dnsperf.
bench-dns: setup
	$(BIN)/python -m bench.dns_warm
	$(BIN)/python -m bench.dns_large

# Some minutes: a history of 100,000 changes.
bench-store: setup
	$(BIN)/python -m bench.store

# Ten minutes and more: ten thousand VMs under load, and each service killed once.
bench-scale: setup
	$(BIN)/python -m bench.scale

# Ten minutes, as root. TENDER= and IMAGE= take a real tender and its image; ROWS="alone synjitsu first-frame port
# not-pooled at-once" measures only some of them.
bench-unikernel: setup
	$(BIN)/python -m bench.unikernel

# Some minutes, as root.
bench-synjitsu: setup
	$(BIN)/python -m bench.synjitsu

# Some minutes, as root: each kind of which the engine is installed. KINDS="command solo5" measures only these.
bench-engines: setup guests
	$(BIN)/python -m bench.engines $(KINDS)

# A minute: twenty readers of 2,000 VMs' events, without a browser.
bench-web: setup
	$(BIN)/python -m bench.web

# Two minutes: a page with 2,000 VMs in Chromium, and how long a change takes until it is seen.
bench-page: setup
	@$(chromium)
	$(BIN)/python -m bench.page

# A minute, as root.
bench-libvirt: setup-libvirt
	$(BIN)/python -m bench.libvirt

# The suite for a machine with systemd: programs, units, manual pages, completions, /etc/jitsu. DESTDIR=... for packages;
# WITH="libvirt-python pyxs" for what else is to be there; MACHINE=aarch64 for another machine than this one, whose wheels pip
# fetches then. All that Python imports is in a virtual environment of the system's python3, which sees the system's own
# packages too, for example python3-libvirt.
PREFIX := $(DESTDIR)/usr
LIB := $(PREFIX)/lib/jitsu
MACHINE ?= $(shell uname -m)
SYSTEM_PYTHON ?= $(if $(DESTDIR),/usr/bin/python3,$(shell command -v python3))
PYTHON_MINOR = $(shell $(BIN)/python -c 'import sys; print(sys.version_info.minor)')
SITE = $(LIB)/lib/python3.$(PYTHON_MINOR)/site-packages
OTHER_MACHINE = $(if $(filter $(shell uname -m),$(MACHINE)),,--only-binary=:all: --implementation cp \
  --python-version 3.$(PYTHON_MINOR) $(foreach each,2014 _2_26 _2_28,--platform manylinux$(each)_$(MACHINE)))
INSTALL = $(BIN)/pip install -qq --disable-pip-version-check --upgrade --target $(SITE)
install: setup-run
	@mkdir -p $(PREFIX)/bin $(PREFIX)/lib/systemd/system $(PREFIX)/lib/sysusers.d $(PREFIX)/lib/tmpfiles.d $(DESTDIR)/etc/jitsu $(LIB)/bin $(SITE)
	@ln -sf $(SYSTEM_PYTHON) $(LIB)/bin/python3
	@printf 'home = %s\ninclude-system-site-packages = true\nversion = 3.%s\n' $(dir $(SYSTEM_PYTHON)) $(PYTHON_MINOR) > $(LIB)/pyvenv.cfg
	@echo "Installing the libraries into $(LIB) ..."
	@$(INSTALL) --no-deps --require-hashes $(OTHER_MACHINE) -r requirements.txt
	@echo "Installing Jitsu into $(LIB) ..."
	@$(INSTALL) --no-deps --no-build-isolation $(patsubst %,./%,$(MEMBERS))
	@[ -z "$(WITH)" ] || $(INSTALL) $(WITH)
	@rm -rf $(SITE)/bin
	@for each in jitsu $(SERVICES:%=jitsu-%); do \
	  printf '#!/bin/sh\nexec /usr/lib/jitsu/bin/python3 -P -m %s.main "$$@"\n' $$(echo $$each | tr - _) \
	    > $(PREFIX)/bin/$$each && chmod 755 $(PREFIX)/bin/$$each; done
	@printf '#!/bin/sh\nexec /usr/lib/jitsu/bin/python3 -P -m jitsu_vmd.hypervisors.solo5.wires.launcher "$$@"\n' \
	  > $(PREFIX)/bin/jitsu-solo5 && chmod 755 $(PREFIX)/bin/jitsu-solo5
	@for each in wake answers; do \
	  printf '#!/bin/sh\nexec /usr/lib/jitsu/bin/python3 -I -m jitsu_vmd.hypervisors.command.programs.%s "$$@"\n' $$each \
	    > $(PREFIX)/bin/jitsu-$$each && chmod 755 $(PREFIX)/bin/jitsu-$$each; done
	@mkdir -p $(PREFIX)/share/jitsu && cp -r deploy/examples deploy/prometheus deploy/grafana $(PREFIX)/share/jitsu
	@echo "Installing units, manual pages and completions ..."
	@install -m 644 deploy/systemd/jitsu*.service deploy/systemd/jitsu*.socket deploy/systemd/jitsu.target $(PREFIX)/lib/systemd/system
	@install -m 644 deploy/systemd/jitsu.sysusers $(PREFIX)/lib/sysusers.d/jitsu.conf
	@install -m 644 deploy/systemd/jitsu.tmpfiles $(PREFIX)/lib/tmpfiles.d/jitsu.conf
	@[ -e $(DESTDIR)/etc/jitsu/jitsu.toml ] || install -m 640 deploy/jitsu.toml $(DESTDIR)/etc/jitsu/jitsu.toml
	@$(BIN)/python -m deploy.man $(PREFIX)/share/man
	@mkdir -p $(PREFIX)/share/bash-completion/completions $(PREFIX)/share/zsh/vendor-completions
	@_JITSU_COMPLETE=source_bash $(BIN)/jitsu > $(PREFIX)/share/bash-completion/completions/jitsu
	@_JITSU_COMPLETE=source_zsh $(BIN)/jitsu > $(PREFIX)/share/zsh/vendor-completions/_jitsu

# The same as a package for Debian: DIST/jitsu_VERSION_ARCH.deb. DEB_ARCH=arm64 builds the one for that architecture anywhere.
deb: setup-run
	@echo "Building the Debian package into $(DIST) ..."
	@deploy/deb/build $(DIST)

# What is installed without this checkout: a wheel and an sdist of each distribution, the versions of the libraries that they
# were tested with, and a bill of materials (CycloneDX) of an installation of all that. What to do with them is in
# docs/how-to/install.md.
dist: setup-run $(TOOLS)/ready
	@echo "Building wheels and sdists into $(DIST) ..."
	@$(BIN)/python -m deploy.dist $(DIST)
	@cp requirements.txt $(DIST)/requirements.txt
	@echo "Writing the bill of materials ..."
	@rm -rf build/installed && python3 -m venv --without-pip build/installed
	@$(BIN)/pip --python build/installed/bin/python install -qq --no-compile --require-hashes -r requirements.txt
	@$(BIN)/pip --python build/installed/bin/python install -qq --no-compile --no-deps --no-index $(DIST)/*.whl
	@$(TOOLS)/bin/cyclonedx-py environment build/installed --pyproject pyproject.toml --output-reproducible \
	  -o $(DIST)/jitsu-sbom.cdx.json
	@sed -i 's|file://$(abspath $(DIST))/||' $(DIST)/jitsu-sbom.cdx.json

# What `make dist` and `make pins` are done with.
$(TOOLS)/ready: requirements-tools.txt
	@echo "Installing the tools of make dist ..."
	@python3 -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements-tools.txt
	@touch $@

# Pages that are made from the code.
docs: setup
	$(BIN)/python -m deploy.pages

# New versions of everything: those of the checkout's own tools go with those that it is developed with.
COMPILE := $(TOOLS)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
  --no-annotate --no-emit-index-url --no-emit-find-links
pins: $(TOOLS)/ready
	$(COMPILE) -o requirements-dev.txt requirements-dev.in
	$(COMPILE) -o requirements-libvirt.txt requirements-libvirt.in
	for part in requirements requirements-build requirements-tools; do \
	  $(COMPILE) -c requirements-dev.txt -o $$part.txt $$part.in || exit; done

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
