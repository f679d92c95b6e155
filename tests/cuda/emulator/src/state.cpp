// Counters, settings, the journal and the last error; the device itself; and how CuPy gets here.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstring>

#include "device.h"

extern "C" {
Counters emulator_counters;
Settings emulator_settings = {/*devices*/ 0, /*late*/ 1, /*order*/ 0, /*memory*/ 4l << 30};
}

std::recursive_mutex mutex;
cudaError_t last_error = cudaSuccess;

Device& current_device() {
  static Device* device = new Device;  // never destroyed: CuPy still frees memory when the program ends
  return *device;
}

cudaError_t refuse(cudaError_t error, const char* what) {
  if (settings.trace >= 1) std::fprintf(stderr, "emulator: %s: %s\n", cudaGetErrorName(error), what);
  return last_error = error;
}

extern "C" int emulator_missing(const char* name, int error) {
  std::fprintf(stderr, "emulator: %s is not emulated\n", name);
  counters.notes++;
  return error;
}

static std::string journal;

void note(const std::string& what) {
  if (settings.journal) journal += what + "\n";
}

// What has happened since the last call; valid until the next one.
extern "C" const char* emulator_journal() {
  LOCK;
  static std::string taken;
  taken = std::exchange(journal, "");
  return taken.c_str();
}

// ---- the way in

namespace {

struct Wanted {
  const char* file;
  char* base;
};

int find_base(dl_phdr_info* info, size_t, void* data) {
  auto* wanted = static_cast<Wanted*>(data);
  if (std::strcmp(info->dlpi_name, wanted->file)) return 0;
  wanted->base = reinterpret_cast<char*>(info->dlpi_addr);
  return 1;
}

}  // namespace

// Let the function at this offset in a loaded library jump to another one. CuPy's wheel contains the CUDA
// runtime, so that nothing can be put in its place from outside.
extern "C" int emulator_redirect(const char* file, size_t offset, void* target) {
  Wanted wanted{file, nullptr};
  if (!dl_iterate_phdr(find_base, &wanted)) return 0;
  char* place = wanted.base + offset;
  unsigned char code[12] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0};  // movabs rax, target; jmp rax
  std::memcpy(code + 2, &target, 8);
  char* page = reinterpret_cast<char*>(reinterpret_cast<size_t>(place) & ~size_t(4095));
  if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) return 0;
  std::memcpy(place, code, sizeof code);
  return mprotect(page, 8192, PROT_READ | PROT_EXEC) == 0;
}
