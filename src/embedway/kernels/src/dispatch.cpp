#include "dispatch.h"

#include <cstring>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace embedway {

// EMBEDWAY_TARGETS lists what was compiled, as X(name) X(name) …, best first (compile.py).
#define X(instruction_set)    \
  namespace instruction_set { \
  extern const Target target; \
  }
EMBEDWAY_TARGETS
#undef X

namespace {

#if defined(__x86_64__)
// AMX needs the CPU's bits, the kernel's saving of its registers (XCR0), and the kernel's leave for this process.
bool has_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!(d & kAmxBf16) || !(d & kAmxTile)) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return false;  // OSXSAVE
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  if ((low & kTileState) != kTileState) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Clang 14 has no name for it.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
// Nor for this.
bool has_avx512_bf16() {
  unsigned a, b, c, d;
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvx512Bf16);
}
#endif

#if defined(__aarch64__)
bool has_neon_bf16() {
#if defined(__linux__)
  constexpr unsigned long kHwcap2Bf16 = 1ul << 14;
  return getauxval(AT_HWCAP2) & kHwcap2Bf16;
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &value, &size, nullptr, 0) == 0 && value;
#else
  return false;
#endif
}
#endif

bool machine_has(const char* target) {
  const auto is = [target](const char* name) { return std::strcmp(target, name) == 0; };
#if defined(__x86_64__)
  if (is("amx")) return has_avx512_bf16() && has_amx();
  if (is("amx_emulated") || is("avx512_bf16")) return has_avx512_bf16();
  if (is("avx512")) return has_avx512();
  if (is("avx2")) return has_avx2();
#elif defined(__aarch64__)
  if (is("neon_bf16")) return has_neon_bf16();
#endif
  return is("baseline");
}

}  // namespace

const std::vector<const Target*>& usable_targets() {
  static const std::vector<const Target*> targets = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    std::vector<const Target*> found;
#define X(instruction_set) \
  if (machine_has(instruction_set::target.name)) found.push_back(&instruction_set::target);
    EMBEDWAY_TARGETS
#undef X
    return found;
  }();
  return targets;
}

const Target* find_target(const char* name) {
  for (const Target* target : usable_targets())
    if (!name || std::strcmp(target->name, name) == 0) return target;
  return nullptr;
}

}  // namespace embedway
