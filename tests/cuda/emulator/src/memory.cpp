// Memory and copies. New memory is NaN in every precision, and behind each allocation lies a guard.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "device.h"

namespace {

constexpr size_t GUARD = 256, ALIGNMENT = 512;
constexpr unsigned char GUARD_BYTE = 0xa5;
Blocks pinned_memory;

bool is_inside(const Blocks& blocks, const void* place) {
  auto next = blocks.upper_bound(static_cast<const char*>(place));
  if (next == blocks.begin()) return false;
  --next;
  return static_cast<const char*>(place) < next->first + next->second;
}

bool is_intact(const char* place, size_t size) {
  for (size_t i = 0; i < GUARD; i++) {
    if (static_cast<unsigned char>(place[size + i]) != GUARD_BYTE) return false;
  }
  return true;
}

char* allocate(size_t size, Blocks& blocks) {
  const size_t whole = (size + GUARD + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  char* place = static_cast<char*>(std::aligned_alloc(ALIGNMENT, whole));
  if (!place) return nullptr;
  std::memset(place, 0xff, size);
  std::memset(place + size, GUARD_BYTE, GUARD);
  blocks[place] = size;
  return place;
}

cudaError_t release(void* place, Blocks& blocks, const char* what) {
  current_device().run_all();
  const auto found = blocks.find(static_cast<char*>(place));
  if (found == blocks.end()) return refuse(cudaErrorInvalidValue, what);
  const bool intact = is_intact(found->first, found->second);
  blocks.erase(found);
  std::free(place);
  if (!intact) std::fprintf(stderr, "emulator: something wrote beyond the end of an allocation\n");
  return intact ? cudaSuccess : refuse(cudaErrorIllegalAddress, what);
}

// Pageable memory of the host is copied at once, and the host waits for what is copied into it.
cudaError_t copy(void* to, const void* from, size_t size, Stream* stream) {
  Device& device = current_device();
  const bool to_device = is_inside(device.memory, to), from_device = is_inside(device.memory, from);
  const bool to_pageable = !to_device && !is_inside(pinned_memory, to);
  const bool from_pageable = !from_device && !is_inside(pinned_memory, from);
  counters.copies++;
  if (!to_device)
    note("host reads");
  else if (!from_device)
    note(stream->copies_only && stream != &device.legacy ? "copy" : "upload");
  if ((from_pageable || to_pageable) && device.forbidden("a copy from or to pageable memory", stream)) {
    return last_error;
  }
  if (from_pageable) {
    auto kept = std::make_shared<std::string>(static_cast<const char*>(from), size);
    device.enqueue(stream, [=] { std::memcpy(to, kept->data(), size); });
  } else {
    device.enqueue(stream, [=] { std::memmove(to, from, size); });
  }
  if (to_pageable) {
    counters.waits++;
    stream->run();
  }
  return cudaSuccess;
}

}  // namespace

// How many allocations something wrote beyond.
extern "C" long emulator_overruns() {
  LOCK;
  current_device().run_all();
  long damaged = 0;
  for (auto& [place, size] : current_device().memory) damaged += !is_intact(place, size);
  return damaged;
}

RUNTIME(cudaMalloc)(void** place, size_t size) {
  LOCK;
  Device& device = current_device();
  if (device.forbidden("cudaMalloc")) return last_error;
  counters.allocations++;
  const bool fits = counters.bytes + (long)size <= settings.memory;
  if (injected(settings.fail_malloc) || !fits) return refuse(cudaErrorMemoryAllocation, "cudaMalloc");
  *place = allocate(size, device.memory);
  if (!*place) return refuse(cudaErrorMemoryAllocation, "the machine's own memory");
  counters.bytes += size;
  if (counters.bytes > counters.most_bytes) counters.most_bytes = counters.bytes;
  return cudaSuccess;
}
RUNTIME(cudaFree)(void* place) {
  LOCK;
  Device& device = current_device();
  if (!place) return cudaSuccess;
  if (device.forbidden("cudaFree")) return last_error;
  counters.frees++;
  const auto found = device.memory.find(static_cast<char*>(place));
  if (found != device.memory.end()) counters.bytes -= found->second;
  return release(place, device.memory, "cudaFree");
}
RUNTIME(cudaHostAlloc)(void** place, size_t size, unsigned) {
  LOCK;
  if (current_device().forbidden("cudaHostAlloc")) return last_error;
  if (injected(settings.fail_pinned)) return refuse(cudaErrorMemoryAllocation, "cudaHostAlloc");
  *place = allocate(size, pinned_memory);
  return *place ? cudaSuccess : refuse(cudaErrorMemoryAllocation, "cudaHostAlloc");
}
RUNTIME(cudaMallocHost)(void** place, size_t size) { return emulated_cudaHostAlloc(place, size, 0); }
RUNTIME(cudaFreeHost)(void* place) {
  LOCK;
  if (current_device().forbidden("cudaFreeHost")) return last_error;
  return place ? release(place, pinned_memory, "cudaFreeHost") : cudaSuccess;
}
RUNTIME(cudaMemGetInfo)(size_t* free, size_t* total) {
  LOCK;
  *free = settings.memory > counters.bytes ? settings.memory - counters.bytes : 0;
  *total = settings.memory;
  return cudaSuccess;
}
RUNTIME(cudaMemcpyAsync)(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t handle) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  if (stream == &device.legacy && device.forbidden("a copy on the default stream")) return last_error;
  return copy(to, from, size, stream);
}
RUNTIME(cudaMemcpy)(void* to, const void* from, size_t size, cudaMemcpyKind) {
  LOCK;
  Device& device = current_device();
  if (device.forbidden("cudaMemcpy")) return last_error;
  counters.waits++;
  copy(to, from, size, &device.legacy);
  device.legacy.run();
  return cudaSuccess;
}
RUNTIME(cudaMemsetAsync)(void* place, int value, size_t size, cudaStream_t handle) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(handle);
  if (stream == &device.legacy && device.forbidden("a memset on the default stream")) return last_error;
  stream->copies_only = false;
  device.enqueue(stream, [=] { std::memset(place, value, size); });
  return cudaSuccess;
}
RUNTIME(cudaMemset)(void* place, int value, size_t size) {
  return emulated_cudaMemsetAsync(place, value, size, nullptr);
}
RUNTIME(cudaPointerGetAttributes)(cudaPointerAttributes* found, const void* place) {
  LOCK;
  std::memset(found, 0, sizeof *found);
  found->type = is_inside(current_device().memory, place) ? cudaMemoryTypeDevice
                : is_inside(pinned_memory, place)         ? cudaMemoryTypeHost
                                                          : cudaMemoryTypeUnregistered;
  found->devicePointer = found->type ? const_cast<void*>(place) : nullptr;
  return cudaSuccess;
}
RUNTIME(cudaDeviceGetDefaultMemPool)(cudaMemPool_t* pool, int) {
  *pool = reinterpret_cast<cudaMemPool_t>(1);
  return cudaSuccess;
}
