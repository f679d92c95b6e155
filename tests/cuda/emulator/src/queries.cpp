// What the runtime tells of itself, of errors and of the device.
#include <cstring>

#include "device.h"

RUNTIME(cudaGetDeviceCount)(int* count) {
  *count = settings.devices;
  return *count ? cudaSuccess : refuse(cudaErrorNoDevice, "cudaGetDeviceCount");
}
RUNTIME(cudaGetDevice)(int* device) { return *device = 0, cudaSuccess; }
RUNTIME(cudaSetDevice)(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
RUNTIME(cudaDriverGetVersion)(int* version) { return *version = 12090, cudaSuccess; }
RUNTIME(cudaRuntimeGetVersion)(int* version) { return *version = 12090, cudaSuccess; }
RUNTIME(cudaPeekAtLastError)() { return last_error; }
RUNTIME(cudaGetLastError)() { return std::exchange(last_error, cudaSuccess); }
RUNTIME(cudaProfilerStart)() { return cudaSuccess; }
RUNTIME(cudaProfilerStop)() { return cudaSuccess; }
RUNTIME(cudaDeviceGetLimit)(size_t* value, cudaLimit) { return *value = 0, cudaSuccess; }
RUNTIME(cudaDeviceSetLimit)(cudaLimit, size_t) { return cudaSuccess; }
RUNTIME(cudaDeviceCanAccessPeer)(int* value, int, int) { return *value = 0, cudaSuccess; }

extern "C" const char* emulated_cudaGetErrorName(cudaError_t error) {
#define NAMED(name) \
  case name: return #name
  switch (error) {
    NAMED(cudaSuccess);
    NAMED(cudaErrorInvalidValue);
    NAMED(cudaErrorMemoryAllocation);
    NAMED(cudaErrorInvalidDevice);
    NAMED(cudaErrorNoDevice);
    NAMED(cudaErrorIllegalState);
    NAMED(cudaErrorNotReady);
    NAMED(cudaErrorIllegalAddress);
    NAMED(cudaErrorNotSupported);
    NAMED(cudaErrorStreamCaptureUnsupported);
    NAMED(cudaErrorStreamCaptureInvalidated);
    NAMED(cudaErrorStreamCaptureIsolation);
    NAMED(cudaErrorStreamCaptureImplicit);
    default: return "another cudaError";
  }
}
extern "C" const char* emulated_cudaGetErrorString(cudaError_t error) {
  return emulated_cudaGetErrorName(error);
}
const char* cudaGetErrorName(cudaError_t error) { return emulated_cudaGetErrorName(error); }

// Those of an H200, as far as CuPy asks.
RUNTIME(cudaDeviceGetAttribute)(int* value, int attribute, int) {
  static const std::map<int, int> known = {
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrMultiProcessorCount, 132},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxGridDimX, 2147483647},
      {cudaDevAttrMaxGridDimY, 65535},
      {cudaDevAttrMaxGridDimZ, 65535},
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxSharedMemoryPerBlock, 49152},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrMaxBlockDimX, 1024},
      {cudaDevAttrMaxBlockDimY, 1024},
      {cudaDevAttrMaxBlockDimZ, 64},
  };
  const auto found = known.find(attribute);
  *value = found == known.end() ? 0 : found->second;
  return cudaSuccess;
}
RUNTIME(cudaGetDeviceProperties_v2)(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "emulated H200");
  properties->totalGlobalMem = settings.memory;
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->sharedMemPerBlock = 49152;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  return cudaSuccess;
}
