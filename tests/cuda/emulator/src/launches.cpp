// The driver: modules, functions and their launches.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "blocks.h"
#include "device.h"

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_BINARY = 209, NOT_FOUND = 500, LAUNCH_FAILED = 719 };
constexpr int DYNAMIC_SHARED_SIZE = 8;  // the attribute, as in cuda.h
constexpr unsigned SHARED_SIZE = 49152, MOST_SHARED_SIZE = 232448;

struct Function {
  std::string name;
  KernelEntry kernel;
  unsigned shared_size;  // bytes that a launch may ask for
};

// The arguments of a launch, which the caller may change as soon as it returns.
class Arguments {
 public:
  Arguments(const size_t* sizes, void** given) {
    size_t n_slots = 0;
    for (const size_t* size = sizes; *size; size++) n_slots += slots(*size);
    memory_.resize(n_slots);
    std::max_align_t* next = memory_.data();
    for (; *sizes; next += slots(*sizes++)) {
      std::memcpy(static_cast<void*>(next), *given++, *sizes);
      places.push_back(next);
    }
  }

  std::vector<void*> places;

 private:
  static size_t slots(size_t size) {
    return (size + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t);
  }

  std::vector<std::max_align_t> memory_;
};

bool is_possible(const Function& function, Shape grid, Shape block, unsigned shared_size) {
  const bool grid_fits = grid.count() && grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535;
  return grid_fits && block.count() && block.count() <= 1024 && block.z <= 64 &&
         shared_size <= function.shared_size;
}

}  // namespace

DRIVER(cuGetErrorName)(int, const char** text) { return *text = "CUDA_ERROR_EMULATED", SUCCESS; }
DRIVER(cuGetErrorString)(int error, const char** text) {
  *text = error == NOT_FOUND       ? "named symbol not found"
          : error == INVALID_VALUE ? "invalid argument"
          : error == LAUNCH_FAILED ? "unspecified launch failure"
                                   : "emulated error";
  return SUCCESS;
}
DRIVER(cuCtxGetCurrent)(void** context) { return *context = &current_device(), SUCCESS; }
DRIVER(cuCtxSetCurrent)(void*) { return SUCCESS; }
DRIVER(cuCtxGetDevice)(int* device) { return *device = 0, SUCCESS; }
DRIVER(cuStreamGetCtx)(void*, void** context) { return *context = &current_device(), SUCCESS; }

// An image is the path of a library that nvrtc.cpp has built.
DRIVER(cuModuleLoadData)(void** module, const void* image) {
  LOCK;
  if (current_device().capturing) counters.notes++;
  *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  if (!*module) std::fprintf(stderr, "emulator: %s\n", dlerror());
  return *module ? SUCCESS : NO_BINARY;
}
DRIVER(cuModuleUnload)(void*) { return SUCCESS; }  // tasks may still need it
DRIVER(cuModuleGetFunction)(void** function, void* module, const char* name) {
  void* entry = dlsym(module, (std::string("entry_") + name).c_str());
  if (!entry) return NOT_FOUND;
  *function = new Function{name, reinterpret_cast<KernelEntry (*)()>(entry)(), SHARED_SIZE};
  return SUCCESS;
}
DRIVER(cuModuleGetGlobal_v2)(void**, size_t*, void*, char*) { return NOT_FOUND; }
DRIVER(cuFuncGetAttribute)(int* value, int, void*) { return *value = 1024, SUCCESS; }
DRIVER(cuFuncSetAttribute)(void* function, int attribute, int value) {
  if (attribute != DYNAMIC_SHARED_SIZE) return SUCCESS;
  if (value < 0 || unsigned(value) > MOST_SHARED_SIZE) return INVALID_VALUE;
  static_cast<Function*>(function)->shared_size = value;
  return SUCCESS;
}
DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessor)(int* n, void*, int, size_t) { return *n = 2, SUCCESS; }
DRIVER(cuOccupancyMaxPotentialBlockSize)(int* grid, int* block, void*, void*, size_t, int) {
  return *grid = 264, *block = 256, SUCCESS;
}
DRIVER(cuLaunchKernel)
(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
 unsigned shared_size, void* stream_handle, void** given, void**) {
  LOCK;
  Device& device = current_device();
  Stream* stream = device.stream_of(stream_handle);
  const Function* function = static_cast<Function*>(handle);
  const Shape grid{gx, gy, gz}, block{bx, by, bz};
  counters.launches++;
  stream->copies_only = false;
  if (settings.trace >= 2) {
    std::fprintf(stderr, "emulator: %s, grid %u, block %u, stream %p%s\n", function->name.c_str(), gx, bx,
                 static_cast<void*>(stream), stream->capture ? ", captured" : "");
  }
  if (injected(settings.fail_launch)) return LAUNCH_FAILED;
  if (!is_possible(*function, grid, block, shared_size)) {
    std::fprintf(stderr, "emulator: invalid launch of %s\n", function->name.c_str());
    return INVALID_VALUE;
  }
  if (stream == &device.legacy && device.forbidden("a launch on the default stream")) {
    return cudaErrorStreamCaptureImplicit;
  }
  auto arguments = std::make_shared<Arguments>(function->kernel.sizes, given);
  device.enqueue(stream,
                 [=] { run_grid(function->kernel, arguments->places.data(), grid, block, settings.order); });
  return SUCCESS;
}
