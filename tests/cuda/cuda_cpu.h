// CUDA C on the CPU, for tests: the text that the device runs, compiled by a C++ compiler.
//
// Blocks run one after the other, in an order that the caller chooses. The threads of a block are fibers: a barrier
// switches to the next one. What is not seen: bank conflicts, weak memory order, divergence, speed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- functions of the device -------------------------------------------------------------------------------------
using std::max;
using std::min;
using std::log;
using std::scalbn;
using std::sqrt;

inline void sincospi(double x, double* sine, double* cosine) {
  x -= 2 * std::nearbyint(x / 2);
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}

template <class T>
inline T __ldg(const T* place) {
  return *place;
}

inline unsigned int __float_as_uint(float value) {
  unsigned int bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float __uint_as_float(unsigned int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, 8);
  return bits;
}

inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

inline long long __double2ll_rn(double value) { return std::isfinite(value) ? std::llrint(value) : 0; }

template <class T>
inline T atomicAdd(T* place, T value) {
  const T before = *place;
  *place += value;
  return before;
}

template <class T>
inline T atomicMax(T* place, T value) {
  const T before = *place;
  *place = std::max(before, value);
  return before;
}

// ---- fibers ------------------------------------------------------------------------------------------------------
#if defined(__x86_64__) && !defined(CPU_UCONTEXT)
// Saves the registers that a function must keep, and exchanges stacks.
extern "C" void cpu_switch(void** from, void* to);
asm(R"(
.text
.weak cpu_switch
.type cpu_switch,@function
cpu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");

struct Fiber {
  void* stack = nullptr;

  void start(char* memory, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(memory + size);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    stack = top;
  }
  void switch_to(Fiber& other) { cpu_switch(&stack, other.stack); }
};
#else
#include <ucontext.h>

struct Fiber {
  ucontext_t context;

  void start(char* memory, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = memory;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  void switch_to(Fiber& other) { swapcontext(&context, &other.context); }
};
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_unpoison_memory_region(void const volatile*, size_t);
#define CPU_UNPOISON(place, size) __asan_unpoison_memory_region(place, size)
#else
#define CPU_UNPOISON(place, size) ((void)0)
#endif

// The threads of the block that runs.
struct Block {
  static constexpr size_t STACK = 64 * 1024;
  int size = 0, current = 0, alive = 0, n_stacks = 0;
  std::unique_ptr<char[]> stacks;
  std::vector<Fiber> fibers;
  std::vector<bool> done;
  Fiber caller;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;

  void go_to(int next) {
    const int before = current;
    if (next == before) return;
    current = next;
    threadIdx = dim3{(unsigned)next, 0, 0};
    fibers[before].switch_to(fibers[next]);
  }

  // The next living thread among `count` from `first` on.
  void next_of(int first, int count) {
    int next = current;
    do next = first + (next - first + 1) % count;
    while (done[next]);
    go_to(next);
  }

  void finish() {
    done[current] = true;
    if (--alive == 0) fibers[current].switch_to(caller);
    next_of(0, size);
  }

  void run(int threads, void (*function)(void*), void* data);
};

static Block cpu_block;

inline void cpu_entry() {
  cpu_block.body(cpu_block.argument);
  cpu_block.finish();
  std::abort();  // nobody comes back
}

inline void Block::run(int threads, void (*function)(void*), void* data) {
  size = alive = threads;
  body = function;
  argument = data;
  if (threads > n_stacks) stacks.reset(new char[STACK * (n_stacks = threads)]);
  CPU_UNPOISON(stacks.get(), STACK * n_stacks);
  fibers.resize(threads);
  done.assign(threads, false);
  for (int i = 0; i < threads; i++) fibers[i].start(stacks.get() + STACK * i, STACK, cpu_entry);
  current = 0;
  threadIdx = dim3{0, 0, 0};
  caller.switch_to(fibers[0]);
}

// A barrier holds for threads that all reach it: each goes on when all others have come as far.
inline void __syncthreads() { cpu_block.next_of(0, cpu_block.size); }

inline void __syncwarp() {
  const int first = cpu_block.current / 32 * 32;
  cpu_block.next_of(first, std::min(32, cpu_block.size - first));
}

// ---- launches ----------------------------------------------------------------------------------------------------
// order: 0 as they come, 1 reversed, more: shuffled by that seed.
inline std::vector<unsigned> cpu_order(unsigned blocks, unsigned order) {
  std::vector<unsigned> sequence(blocks);
  std::iota(sequence.begin(), sequence.end(), 0u);
  if (order == 1) std::reverse(sequence.begin(), sequence.end());
  if (order > 1) std::shuffle(sequence.begin(), sequence.end(), std::mt19937(order));
  return sequence;
}

template <class... A, size_t... I>
inline void cpu_launch(void (*kernel)(A...), unsigned blocks, unsigned threads, void** arguments, unsigned order,
                       std::index_sequence<I...>) {
  std::tuple<A...> values{(*static_cast<A*>(arguments[I]))...};
  auto thread = [&] { std::apply(kernel, values); };
  blockDim = dim3{threads, 1, 1};
  gridDim = dim3{blocks, 1, 1};
  for (unsigned block : cpu_order(blocks, order)) {
    blockIdx = dim3{block, 0, 0};
    cpu_block.run((int)threads, [](void* data) { (*static_cast<decltype(thread)*>(data))(); }, &thread);
  }
}

template <class... A>
inline void cpu_launch(void (*kernel)(A...), unsigned blocks, unsigned threads, void** arguments, unsigned order) {
  cpu_launch(kernel, blocks, threads, arguments, order, std::index_sequence_for<A...>{});
}

#define CPU_EXPORT(kernel)                                                                               \
  extern "C" void launch_##kernel(unsigned blocks, unsigned threads, void** arguments, unsigned order) { \
    cpu_launch(kernel, blocks, threads, arguments, order);                                               \
  }
