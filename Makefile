# A thin front for Meson and Ninja. Each target sets up what it needs first; scripts/setup does nothing where
# nothing is missing.

BUILD ?= build
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 600
SOAK_MINUTES ?= 10

export BUILD

.PHONY: all demo test check sanitize coverage bench soak soak-drivers soak-tests fuzz mutants mutants-generated install clean

all:
	@scripts/setup build
	@scripts/build $(BUILD)

# A server and 1,000 connections, every byte checked: see Tepal at work.
demo: all
	@scripts/demo

# Every test. The last line is "N passed, N failed, N skipped".
test:
	@scripts/setup build test
	@scripts/build $(BUILD)
	@scripts/test

# Formatting, clang-tidy, cppcheck, and builds without a warning.
check:
	@scripts/setup build check
	@scripts/check

# The tests under ASan and UBSan, then under TSan.
sanitize:
	@scripts/setup build test check
	@scripts/sanitize

# How much of src/ the tests reach: at least 95% of the lines and 85% of the branches.
coverage:
	@scripts/setup build test coverage
	@scripts/coverage

# Tepal beside loops written by hand on epoll and io_uring, libuv, Boost.Asio and libevent; more than an hour.
# BENCH=--quick is a look of fifteen minutes; bench/README.md says more.
bench:
	@scripts/setup build bench
	@scripts/build build-bench -Dbench=true -Dtests=false
	@BUILD=build-bench bench/run $(BENCH)

# Both of these, one after the other.
soak:
	@$(MAKE) --no-print-directory soak-drivers
	@$(MAKE) --no-print-directory soak-tests

# Each driver under load for SOAK_MINUTES: messages, what was lost, memory, descriptors.
soak-drivers:
	@scripts/setup build
	@scripts/build $(BUILD)
	@scripts/soak $(SOAK_MINUTES)

# The tests with every repetition count in full; hours.
soak-tests:
	@scripts/setup build test
	@scripts/build $(BUILD)
	@TEST_SOAK=1 tests/run

# Every fuzz target for FUZZ_SECONDS.
fuzz:
	@scripts/setup build check
	@scripts/fuzz $(FUZZ_SECONDS)

# Takes the fix for each known fault out in turn, and shows the test that notices.
mutants:
	@scripts/setup build test
	@scripts/mutants

# One-line changes of src/, one at a time, and which test notices; an hour. docs/mutants.md says what it showed.
mutants-generated:
	@scripts/setup build test
	@scripts/mutate

install:
	@scripts/setup build
	@scripts/build $(BUILD) -Dprefix=$(PREFIX)
	@meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf build build-* $(BUILD)
