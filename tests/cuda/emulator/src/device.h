// The state of an emulated device: its streams, its memory, and the capture that is going on.
#pragma once
#include <cuda_runtime_api.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "emulator.h"

// A function of the runtime: CuPy's own is redirected to it (redirect.cpp).
#define RUNTIME(name) extern "C" cudaError_t emulated_##name
// A function of the driver, which CuPy finds by its name.
#define DRIVER(name) extern "C" int name
// Host threads take turns.
#define LOCK std::lock_guard<std::recursive_mutex> locked(mutex)

// Nothing below is seen by the other libraries of the emulated device.
#pragma GCC visibility push(hidden)

struct Graph {
  std::vector<Task> tasks;
};

// A queue of tasks.
struct Stream {
  bool blocking = true;  // ordered with the legacy default stream
  std::deque<Task> waiting;
  size_t queued = 0, done = 0;     // how many tasks so far
  std::unique_ptr<Graph> capture;  // where tasks go instead, while the stream is captured
  bool spoiled = false;            // something was asked for that a capture does not allow
  bool copies_only = true;

  void push(Task task) { waiting.push_back(std::move(task)), queued++; }
  void run_until(size_t mark);
  void run() { run_until(queued); }
};

// A point in the order of a stream.
struct Event {
  Stream* stream = nullptr;
  size_t mark = 0;
  bool captured = false;
  long number = 0;
};

// Addresses of allocations, and their sizes.
using Blocks = std::map<const char*, size_t>;

struct Device {
  Stream legacy;  // the default stream
  std::vector<Stream*> streams{&legacy};
  Stream* capturing = nullptr;
  Blocks memory;

  Stream* stream_of(void* handle);
  void enqueue(Stream* stream, Task task);
  void run_all();
  // Whether a capture forbids something; `stream`: null for what concerns the whole device.
  bool forbidden(const char* what, Stream* stream = nullptr);
};

extern std::recursive_mutex mutex;
extern cudaError_t last_error;
inline Counters& counters = emulator_counters;
inline Settings& settings = emulator_settings;

Device& current_device();
// Remember an error, and return it.
cudaError_t refuse(cudaError_t error, const char* what);
// A line for the journal.
void note(const std::string& what);

#pragma GCC visibility pop
