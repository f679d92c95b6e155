// What all parts of the emulated device share: tasks, counters, settings, failures that are asked for.
#pragma once
#include <cstddef>
#include <functional>

using Task = std::function<void()>;

// Numbers that tests read (emulator.counters); the order is that of COUNTERS in control.py.
struct Counters {
  long launches;        // of kernels, also into graphs
  long graph_launches;  // of whole graphs
  long captured;        // tasks that went into graphs
  long copies;          // in any direction
  long waits;           // of the host
  long allocations, frees;
  long plans, transforms;  // of cuFFT
  long products;           // of cuBLAS
  long bytes, most_bytes;  // of device memory: at present, and at most
  long notes;  // what CUDA lets pass, but does not do what was meant; functions that are not emulated
};

// What tests change (emulator.settings); the order is that of SETTINGS in control.py.
struct Settings {
  long devices;      // 1, or 0: CuPy finds none
  long late;         // 1: a task runs when somebody waits for it, 0: at once
  long order;        // of blocks and threads: 0 as they come, 1 reversed, more: shuffled by that seed
  long memory;       // bytes of the device
  long fail_malloc;  // the n-th allocation from now on fails, and those after it; 0: none
  long fail_pinned;  // the same for pinned memory
  long fail_plan;    // for plans of cuFFT
  long fail_launch;  // for launches of kernels
  long fail_times;   // how many fail before all is well again (CuPy tries to allocate three times); 0: all
  long journal;      // 1: streams note what happens (emulator.journal)
  long trace;        // on stderr, 1: every call that is an error, 2: every launch, 3: every compilation
};

extern "C" {
extern Counters emulator_counters;
extern Settings emulator_settings;
// Queue a task in a stream, or add it to the graph that is being captured; takes ownership.
void emulator_enqueue(void* stream, Task* task);
// Something that is not emulated is asked for: said on stderr, whatever the settings.
int emulator_missing(const char* name, int error);
}

// Whether the failure that was asked for is due now; `countdown` is one of the settings fail_...
inline bool injected(long& countdown) {
  if (countdown == 0 || (countdown > 1 && countdown--)) return false;
  long& times = emulator_settings.fail_times;
  if (times > 0 && --times == 0) countdown = 0;
  return true;
}
