// NVRTC: kernels are built by the machine's C++ compiler; the "device code" is the path of the library.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "emulator.h"

namespace {

struct Program {
  std::string source, library, log;
};

std::string folder = ".", compiler;  // of compiled kernels; the command that makes one

std::string without_comments(const std::string& text) {
  return std::regex_replace(text, std::regex("//[^\n]*"), "");
}

std::set<std::string> kernels(const std::string& text) {
  static const std::regex kernel(R"(__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\()");
  std::set<std::string> found;
  for (std::sregex_iterator i(text.begin(), text.end(), kernel), end; i != end; ++i) found.insert((*i)[1]);
  return found;
}

// Shared memory whose size is given at the launch: as much as there may be.
std::string fixed_sizes(const std::string& text) {
  if (text.find("extern __shared__") == std::string::npos) return text;
  static const std::regex dynamic(R"(extern\s+__shared__\s+([^;\[]+?)\s*(\w+)\s*\[\])");
  return std::regex_replace(text, dynamic, "__shared__ $1 $2[232448 / sizeof($1)]");
}

// The options that begin like this, without the folders of CUDA's own headers.
std::string chosen(int count, const char** options, const char* beginning) {
  std::string found;
  for (int i = 0; i < count; i++) {
    const std::string option = options[i];
    const bool of_cuda = option.find("nvidia/cu") != std::string::npos || option.find("/cuda") == 2;
    if (option.rfind(beginning, 0) == 0 && !of_cuda) found += " '" + option + "'";
  }
  return found;
}

int build(Program& program, const std::string& definitions, const std::string& headers) {
  const std::string text = without_comments(program.source);
  const bool of_cupy = text.find("#include <cupy/") != std::string::npos;
  const bool waits = text.find("__sync") != std::string::npos || text.find("_sync(") != std::string::npos;
  const char* barriers = waits ? "true" : "false";
  std::string whole = of_cupy ? "#include \"cupy_kernel.h\"\n" : "#include \"kernel.h\"\n";
  whole += fixed_sizes(program.source) + "\n";
  for (auto& kernel : kernels(text)) whole += "EMULATOR_EXPORT(" + kernel + ", " + barriers + ")\n";

  char key[40];
  std::snprintf(key, sizeof key, "%016zx%016zx", std::hash<std::string>()(whole),
                std::hash<std::string>()(definitions));
  program.library = folder + "/" + key + ".so";
  if (access(program.library.c_str(), R_OK) == 0) return 0;
  const std::string own = folder + "/" + key + "." + std::to_string(getpid());  // others may build it, too
  std::ofstream(own + ".cpp") << whole;
  if (emulator_settings.trace >= 3) std::fprintf(stderr, "emulator: compile %s\n", own.c_str());
  const std::string command =
      compiler + definitions + headers + " '" + own + ".cpp' -o '" + own + ".tmp' 2> '" + own + ".log'";
  if (std::system(command.c_str())) {
    std::ifstream log(own + ".log");
    program.log.assign(std::istreambuf_iterator<char>(log), {});
    std::fprintf(stderr, "emulator: %s.cpp: %s\n", own.c_str(), program.log.substr(0, 2000).c_str());
    return 6;
  }
  std::rename((own + ".tmp").c_str(), program.library.c_str());
  for (const char* end : {".cpp", ".log"}) unlink((own + end).c_str());
  return 0;
}

}  // namespace

extern "C" void emulator_compile_with(const char* command, const char* kept_in) {
  compiler = command;
  folder = kept_in;
}

#define NVRTC(name) extern "C" int name
NVRTC(nvrtcVersion)(int* major, int* minor) { return *major = 12, *minor = 9, 0; }
NVRTC(nvrtcGetNumSupportedArchs)(int* count) { return *count = 1, 0; }
NVRTC(nvrtcGetSupportedArchs)(int* architectures) { return architectures[0] = 90, 0; }
NVRTC(nvrtcCreateProgram)
(Program** program, const char* source, const char*, int, const char**, const char**) {
  *program = new Program{source, "", ""};
  return 0;
}
NVRTC(nvrtcDestroyProgram)(Program** program) {
  delete *program;
  return 0;
}
NVRTC(nvrtcCompileProgram)(Program* program, int count, const char** options) {
  return build(*program, chosen(count, options, "-D"), chosen(count, options, "-I"));
}
NVRTC(nvrtcAddNameExpression)(Program*, const char*) { return emulator_missing("a name expression", 11); }
NVRTC(nvrtcGetLoweredName)(Program*, const char* name, const char** found) { return *found = name, 0; }
NVRTC(nvrtcGetPTXSize)(Program* program, size_t* size) { return *size = program->library.size() + 1, 0; }
NVRTC(nvrtcGetPTX)(Program* program, char* text) {
  std::strcpy(text, program->library.c_str());
  return 0;
}
NVRTC(nvrtcGetCUBINSize)(Program* program, size_t* size) { return nvrtcGetPTXSize(program, size); }
NVRTC(nvrtcGetCUBIN)(Program* program, char* text) { return nvrtcGetPTX(program, text); }
NVRTC(nvrtcGetProgramLogSize)(Program* program, size_t* size) { return *size = program->log.size() + 1, 0; }
NVRTC(nvrtcGetProgramLog)(Program* program, char* text) {
  std::strcpy(text, program->log.c_str());
  return 0;
}
NVRTC(nvrtcGetLTOIRSize)(Program*, size_t*) { return 7; }
NVRTC(nvrtcGetLTOIR)(Program*, char*) { return 7; }
extern "C" const char* nvrtcGetErrorString(int) { return "the kernel does not compile"; }
