// How a grid runs (blocks.cpp); read by kernels, too.
#pragma once
#include <cstddef>

struct Shape {
  unsigned x, y, z;
  size_t count() const { return (size_t)x * y * z; }
};

// A compiled kernel.
struct KernelEntry {
  void (*call)(void** arguments);   // one thread
  const size_t* sizes;              // bytes of the arguments, which a launch copies; 0 ends the list
  char *shared_begin, *shared_end;  // shared memory; null if there is none
  bool barriers;                    // whether threads wait for each other
};

void run_grid(const KernelEntry& kernel, void** arguments, Shape grid, Shape block, unsigned order);
// For the caller of a single kernel (cpu_module.py).
extern "C" void emulator_run(KernelEntry (*entry)(), void** arguments, unsigned n_blocks, unsigned n_threads,
                             unsigned order);
