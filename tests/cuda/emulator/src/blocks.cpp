// Blocks run one after the other, in an order that a test chooses. Threads of a block are fibers: a barrier
// switches to the next one, so a thread that passes where a barrier is missing finds what others have not
// written yet: NaN, with which shared memory is filled before every block. Order 0 finds values that come
// from later threads, order 1 those of earlier ones.
#include "blocks.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

extern "C" Shape emulator_thread, emulator_block, emulator_block_size, emulator_grid_size;
Shape emulator_thread, emulator_block, emulator_block_size, emulator_grid_size;

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_unpoison_memory_region(void const volatile*, size_t);
#else
static void __asan_unpoison_memory_region(void const volatile*, size_t) {}
#endif

// ---- fibers: a thread of a block with its own stack

#if defined(__x86_64__) && !defined(CPU_UCONTEXT)
// Saves the registers that a function must keep, and exchanges stacks.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
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

class Fiber {
 public:
  void start(char* memory, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(memory + size);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    stack_ = top - 6;  // registers: their first values do not matter
  }
  void switch_to(Fiber& other) { emulator_switch(&stack_, other.stack_); }

 private:
  void* stack_ = nullptr;
};
#else
#include <ucontext.h>

class Fiber {
 public:
  void start(char* memory, size_t size, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = memory;
    context_.uc_stack.ss_size = size;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void switch_to(Fiber& other) { swapcontext(&context_, &other.context_); }

 private:
  ucontext_t context_;
};
#endif

// ---- blocks

namespace {

constexpr size_t STACK = 64 * 1024;
constexpr unsigned WARP = 32;

std::vector<unsigned> permutation(unsigned count, unsigned order) {
  std::vector<unsigned> found(count);
  std::iota(found.begin(), found.end(), 0u);
  if (order == 1) std::reverse(found.begin(), found.end());
  if (order > 1) std::shuffle(found.begin(), found.end(), std::mt19937(order));
  return found;
}

Shape place(size_t index, Shape within) {
  const size_t row = index / within.x;
  return {unsigned(index % within.x), unsigned(row % within.y), unsigned(row / within.y)};
}

// The threads of a block, in the order in which they take turns; the threads of a warp follow each other.
struct Block {
  std::unique_ptr<char[]> stacks;
  size_t n_stacks = 0;
  std::vector<Fiber> fibers;
  std::vector<Shape> threads;
  std::vector<unsigned> warp_begin, warp_end;
  std::vector<char> done;
  Fiber caller;
  unsigned current = 0, alive = 0;
  const KernelEntry* kernel = nullptr;
  void** arguments = nullptr;

  void arrange(Shape block, unsigned order) {
    const unsigned count = block.count(), warps = (count + WARP - 1) / WARP;
    threads.clear(), warp_begin.clear(), warp_end.clear();
    for (unsigned warp : permutation(warps, order)) {
      const unsigned first = warp * WARP, lanes = std::min(WARP, count - first), begin = threads.size();
      for (unsigned lane : permutation(lanes, order)) {
        threads.push_back(place(first + lane, block));
        warp_begin.push_back(begin), warp_end.push_back(begin + lanes);
      }
    }
    if (count > n_stacks) stacks.reset(new char[STACK * (n_stacks = count)]);
    fibers.resize(count);
  }

  void run();

  void go_to(unsigned next) {
    const unsigned before = current;
    if (next == before) return;
    current = next;
    emulator_thread = threads[next];
    fibers[before].switch_to(fibers[next]);
  }

  // The next living thread among those from `begin` to `end`.
  void next_of(unsigned begin, unsigned end) {
    unsigned next = current;
    do next = next + 1 == end ? begin : next + 1;
    while (done[next]);
    go_to(next);
  }

  void finish() {
    done[current] = 1;
    if (--alive == 0) fibers[current].switch_to(caller);
    next_of(0, threads.size());
  }
};

Block running;

void begin_thread() {
  running.kernel->call(running.arguments);
  running.finish();
  std::abort();  // nobody comes back
}

void Block::run() {
  alive = threads.size();
  done.assign(alive, 0);
  __asan_unpoison_memory_region(stacks.get(), STACK * n_stacks);  // frames that were never left
  for (unsigned i = 0; i < alive; i++) fibers[i].start(stacks.get() + STACK * i, STACK, begin_thread);
  current = 0;
  emulator_thread = threads[0];
  caller.switch_to(fibers[0]);
}

}  // namespace

extern "C" void emulator_barrier() { running.next_of(0, running.threads.size()); }

extern "C" void emulator_warp_barrier() {
  running.next_of(running.warp_begin[running.current], running.warp_end[running.current]);
}

void run_grid(const KernelEntry& kernel, void** arguments, Shape grid, Shape block, unsigned order) {
  emulator_block_size = block;
  emulator_grid_size = grid;
  running.kernel = &kernel;
  running.arguments = arguments;
  if (kernel.barriers) running.arrange(block, order);
  const std::vector<unsigned> threads = permutation(kernel.barriers ? 0 : block.count(), order);
  for (unsigned index : permutation(grid.count(), order)) {
    emulator_block = place(index, grid);
    if (kernel.shared_begin) {
      std::memset(kernel.shared_begin, 0xff, kernel.shared_end - kernel.shared_begin);
    }
    if (kernel.barriers) {
      running.run();
      continue;
    }
    for (unsigned thread : threads) {
      emulator_thread = place(thread, block);
      kernel.call(arguments);
    }
  }
}

extern "C" void emulator_run(KernelEntry (*entry)(), void** arguments, unsigned n_blocks, unsigned n_threads,
                             unsigned order) {
  run_grid(entry(), arguments, {n_blocks, 1, 1}, {n_threads, 1, 1}, order);
}
