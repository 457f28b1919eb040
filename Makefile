# A thin front for CMake and its presets.
#   make demo    install what is missing, build, and take a physics data set through the small trained model
#   make test    build with and without sanitizers, run every test in both
.PHONY: all deps build demo test bench clean format

PRESET ?= cpu-release
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

all: build

deps:
	@scripts/deps.sh

build: deps
	@cmake --preset $(PRESET)
	@cmake --build --preset $(PRESET) -j $(JOBS)

demo: deps
	@cmake --preset $(PRESET)
	@cmake --build --preset $(PRESET) -j $(JOBS) --target ebb
	@scripts/demo.sh build/$(PRESET)/bin/ebb

test: build
	@cmake --preset cpu-debug
	@cmake --build --preset cpu-debug -j $(JOBS)
	@ctest --preset cpu-debug -j $(JOBS)
	@ctest --preset $(PRESET) -j $(JOBS)

bench: deps
	@cmake --preset $(PRESET)
	@cmake --build --preset $(PRESET) -j $(JOBS) --target bench
	@build/$(PRESET)/bin/bench ops

clean:
	rm -rf build

format:
	git ls-files '*.c' '*.h' '*.cu' | xargs clang-format -i
