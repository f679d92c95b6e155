// CUDA C on the CPU: what a kernel's text finds. Read before it, and compiled once (a precompiled header).
//
// Threads, barriers and blocks live in blocks.cpp. Not emulated: textures, cooperative groups, tensor cores,
// weak memory order, flushing of denormal numbers.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "blocks.h"

#define __CUDACC_RTC_EMULATED__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __restrict__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
// In a section of its own, so that it can be filled with NaN before every block.
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" __attribute__((weak, visibility("hidden"))) char __start_shared_memory[], __stop_shared_memory[];
#define EMULATOR_SHARED __start_shared_memory, __stop_shared_memory
#else
#define __shared__ static
#define EMULATOR_SHARED nullptr, nullptr
#endif

using dim3 = Shape;
extern "C" dim3 emulator_thread, emulator_block, emulator_block_size, emulator_grid_size;
#define threadIdx emulator_thread
#define blockIdx emulator_block
#define blockDim emulator_block_size
#define gridDim emulator_grid_size
static const int warpSize = 32;

extern "C" void emulator_barrier();
extern "C" void emulator_warp_barrier();
inline void __syncthreads() { emulator_barrier(); }
inline void __syncwarp(unsigned = 0) { emulator_warp_barrier(); }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- warps: every lane puts down its value, and takes one when all have done so

inline int emulator_lane_number() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
template <class T>
inline T emulator_shuffle(T value, int lane, int width) {
  static T values[1024];
  const int here = emulator_lane_number(), begin = here / width * width;
  const int count = blockDim.x * blockDim.y * blockDim.z;
  values[here] = value;
  emulator_warp_barrier();
  const bool there = lane >= 0 && lane < width && begin + lane < count;
  const T found = there ? values[begin + lane] : value;
  emulator_warp_barrier();
  return found;
}
template <class T>
inline T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  return emulator_shuffle(value, lane % width, width);
}
template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  return emulator_shuffle(value, (emulator_lane_number() % width) ^ mask, width);
}
template <class T>
inline T __shfl_up_sync(unsigned, T value, unsigned delta, int width = 32) {
  return emulator_shuffle(value, emulator_lane_number() % width - (int)delta, width);
}
template <class T>
inline T __shfl_down_sync(unsigned, T value, unsigned delta, int width = 32) {
  return emulator_shuffle(value, emulator_lane_number() % width + (int)delta, width);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  unsigned found = 0;
  for (int lane = 0; lane < 32; lane++) found |= unsigned(__shfl_sync(~0u, predicate, lane) != 0) << lane;
  return found;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

struct float2 {
  float x, y;
};
struct double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- numbers

template <class A, class B>
inline auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return (T)a > (T)b ? (T)a : (T)b;
}
template <class A, class B>
inline auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return (T)a < (T)b ? (T)a : (T)b;
}
using std::abs, std::acos, std::acosh, std::asin, std::asinh, std::atan, std::atan2, std::atanh, std::cbrt,
    std::ceil;
using std::copysign, std::cos, std::cosh, std::erf, std::exp, std::exp2, std::expm1, std::fabs, std::floor,
    std::fmax;
using std::fmin, std::fmod, std::frexp, std::hypot, std::isfinite, std::isinf, std::isnan, std::ldexp,
    std::log;
using std::log10, std::log1p, std::log2, std::modf, std::nextafter, std::pow, std::rint, std::scalbn,
    std::signbit;
using std::sin, std::sinh, std::sqrt, std::tan, std::tanh, std::trunc;
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline void sincospi(double x, double* sine, double* cosine) {
  x -= 2 * std::nearbyint(x / 2);
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline long long __double2ll_rn(double x) { return std::isfinite(x) ? std::llrint(x) : 0; }

template <class To, class From>
inline To emulator_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "");
  To bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulator_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline float __int_as_float(int x) { return emulator_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
inline unsigned short __float2half_rn(float x) { return emulator_bits<unsigned short>((_Float16)x); }
inline float __half2float(unsigned short x) { return (float)emulator_bits<_Float16>(x); }

// ---- memory: threads run one at a time, so every access is atomic

template <class T>
inline T __ldg(const T* place) {
  return *place;
}
template <class T>
inline T atomicAdd(T* place, T value) {
  const T before = *place;
  *place += value;
  return before;
}
inline float2 atomicAdd(float2* place, float2 value) {
  const float2 before = *place;
  place->x += value.x;
  place->y += value.y;
  return before;
}
template <class T>
inline T atomicMax(T* place, T value) {
  const T before = *place;
  *place = before > value ? before : value;
  return before;
}
template <class T>
inline T atomicMin(T* place, T value) {
  const T before = *place;
  *place = before < value ? before : value;
  return before;
}
template <class T>
inline T atomicExch(T* place, T value) {
  const T before = *place;
  *place = value;
  return before;
}
template <class T>
inline T atomicCAS(T* place, T expected, T value) {
  const T before = *place;
  if (before == expected) *place = value;
  return before;
}

// ---- what a launch asks of a compiled kernel

template <class... A>
struct KernelCall {
  static constexpr size_t sizes[] = {sizeof(A)..., 0};
  template <void (*kernel)(A...), size_t... I>
  static void call(void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
  }
};
template <class... A>
KernelCall<A...> kernel_call(void (*)(A...));
template <class... A>
std::index_sequence_for<A...> kernel_indices(void (*)(A...));

#define EMULATOR_EXPORT(kernel, barriers)                                                     \
  extern "C" KernelEntry entry_##kernel() {                                                   \
    using Call = decltype(kernel_call(kernel));                                               \
    auto call = +[](void** a) { Call::call<kernel>(a, decltype(kernel_indices(kernel)){}); }; \
    return {call, Call::sizes, EMULATOR_SHARED, barriers};                                    \
  }
