// The C interface: checks what comes in, and lets no exception out.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#include "adapter.h"
#include "buffer.h"
#include "dispatch.h"
#include "embedway_kernels.h"
#include "encoder.h"
#include "kernels.h"

using namespace embedway;

namespace {

// Runs `body`; what it throws becomes a sentence, and `failed` the answer.
template <class Body, class Answer>
Answer guarded(char* error, Answer failed, Body body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    std::snprintf(error, EMBEDWAY_ERROR_BYTES, "out of memory");
  } catch (const std::exception& problem) {
    std::snprintf(error, EMBEDWAY_ERROR_BYTES, "%s", problem.what());
  }
  return failed;
}

const Target& required_target(const char* name) {
  const Target* target = find_target(name);
  if (!target) throw std::invalid_argument(std::string("this machine cannot run ") + name);
  return *target;
}

const TypeKernels& required_type(const Target& target, int32_t type) {
  if (type < 0 || type >= kGemmTypes || !target.types[type])
    throw std::invalid_argument(std::string(target.name) + " does not offer this GEMM type");
  return *target.types[type];
}

// ── attention, for models whose other layers are run elsewhere ──

struct AttentionJob {
  const embedway_attention_call& call;
  const TypeKernels& kernels;
  size_t scratch_bytes;
  std::atomic<int> next{0};
  std::atomic<bool> is_out_of_memory{false};
};

// Takes (sequence, key-value head) after (sequence, key-value head) until none is left.
void attend(void* data) {
  AttentionJob& job = *static_cast<AttentionJob*>(data);
  const embedway_attention_call& given = job.call;
  static thread_local Buffer scratch;
  try {
    scratch.reserve(job.scratch_bytes);
  } catch (const std::bad_alloc&) {
    job.is_out_of_memory = true;
    return;
  }
  const int64_t bytes = given.type == 0 ? 4 : 2;
  const int group = given.num_heads / given.num_kv_heads;
  AttentionCall call{};
  call.query_row = given.query_row, call.query_head = given.query_head;
  call.key_row = given.key_row, call.value_row = given.value_row;
  call.out_row = given.out_row, call.out_head = given.out_head;
  call.key_size = given.key_size, call.value_size = given.value_size;
  call.group = group;
  call.scale = given.scale, call.causal = given.causal, call.window = given.window;
  call.bias_row = given.bias_row, call.bias_head = given.bias_head;
  const auto at = [bytes](const void* base, int64_t values) { return (char*)base + values * bytes; };
  for (int i; (i = job.next.fetch_add(1)) < given.num_sequences * given.num_kv_heads;) {
    const int sequence = i / given.num_kv_heads, head = i % given.num_kv_heads;
    const int64_t row = given.cu_seqlens[sequence];
    call.length = given.cu_seqlens[sequence + 1] - given.cu_seqlens[sequence];
    call.query = at(given.query, row * given.query_row + head * group * given.query_head);
    call.key = at(given.key, row * given.key_row + head * given.key_head);
    call.value = at(given.value, row * given.value_row + head * given.value_head);
    call.out = at(given.out, row * given.out_row + head * group * given.out_head);
    call.bias = given.bias ? given.bias + head * group * given.bias_head : nullptr;
    job.kernels.attention(call, scratch.data());
  }
}

}  // namespace

extern "C" {

int32_t embedway_abi_version(void) { return EMBEDWAY_ABI_VERSION; }

const char* embedway_instruction_set(int32_t i) {
  const auto& targets = usable_targets();
  return i >= 0 && i < (int32_t)targets.size() ? targets[i]->name : nullptr;
}

int32_t embedway_offers(const char* instruction_set, int32_t gemm_type) {
  const Target* target = find_target(instruction_set);
  return target && gemm_type >= 0 && gemm_type < kGemmTypes && target->types[gemm_type];
}

void* embedway_encoder_new(const embedway_encoder_config* config, const char* instruction_set, int32_t gemm_type,
                           char* error) {
  return guarded(error, (void*)nullptr, [&]() -> void* {
    const Target& target = required_target(instruction_set);
    required_type(target, gemm_type);
    return new Encoder(*config, target, (GemmType)gemm_type);
  });
}

int32_t embedway_encoder_set_layer(void* encoder, int32_t layer, const embedway_layer* weights, char* error) {
  return guarded(error, 1, [&] {
    static_cast<Encoder*>(encoder)->set_layer(layer, *weights);
    return 0;
  });
}

int32_t embedway_encoder_run(void* encoder, const embedway_batch* batch, float* out, const int64_t* preempt_at,
                             void (*preempt)(void), char* error) {
  return guarded(error, 1, [&] {
    static_cast<Encoder*>(encoder)->run(*batch, {preempt_at, preempt}, out);
    return 0;
  });
}

void embedway_encoder_free(void* encoder) { delete static_cast<Encoder*>(encoder); }

void* embedway_adapter_new(const void* encoder, const embedway_layer_adapter* layers, char* error) {
  return guarded(error, (void*)nullptr,
                 [&]() -> void* { return new Adapter(static_cast<const Encoder*>(encoder)->fit(), layers); });
}

void embedway_adapter_free(void* adapter) { delete static_cast<Adapter*>(adapter); }

int32_t embedway_attention(const embedway_attention_call* call, const char* instruction_set, int32_t threads,
                           embedway_parallel parallel, char* error) {
  return guarded(error, 1, [&] {
    const TypeKernels& kernels = required_type(required_target(instruction_set), call->type);
    if (call->num_kv_heads < 1 || call->num_heads % call->num_kv_heads != 0)
      throw std::invalid_argument("num_heads must be a multiple of num_kv_heads");
    int longest = 0;
    for (int i = 0; i < call->num_sequences; i++)
      longest = std::max(longest, call->cu_seqlens[i + 1] - call->cu_seqlens[i]);
    AttentionJob job{*call, kernels, kernels.attention_scratch(longest, call->key_size, call->value_size)};
    if (parallel && threads > 1)
      parallel(attend, &job, (unsigned)threads, 0);
    else
      attend(&job);
    if (job.is_out_of_memory) throw std::bad_alloc();
    return 0;
  });
}

double embedway_linear(const float* x, const float* weight, const float* bias, int32_t rows, int32_t width,
                       int32_t depth, int32_t epilogue, const char* instruction_set, int32_t gemm_type, int32_t repeats,
                       float* out, char* error) {
  return guarded(error, -1.0, [&] {
    const TypeKernels& kernels = required_type(required_target(instruction_set), gemm_type);
    const int k = padded(depth), n = padded(width), spare_rows = 16;
    const bool adds = epilogue == (int32_t)Epilogue::kAdd, is_float = kernels.activation_bytes == sizeof(float);
    Buffer input, panels, output;
    input.reserve((size_t)(rows + spare_rows) * k * kernels.activation_bytes);
    panels.reserve((size_t)n * k * kernels.weight_bytes);
    output.reserve((size_t)rows * n * sizeof(float));
    std::vector<float> padded_bias(n, 0.f);
    std::copy_n(bias, width, padded_bias.begin());
    // bf16 is the upper half of a float; the input is rounded by the caller
    for (int r = 0; r < rows; r++)
      for (int i = 0; i < k; i++) {
        const float value = i < depth ? x[(size_t)r * depth + i] : 0.f;
        if (is_float)
          input.as<float>()[(size_t)r * k + i] = value;
        else
          std::copy_n(reinterpret_cast<const uint16_t*>(&value) + 1, 1, input.as<uint16_t>() + (size_t)r * k + i);
      }
    kernels.pack_weight({weight, width, depth, k, panels.data()}, 0, n / kernels.panel);
    const LinearCall call{input.data(),       rows,         k, n, panels.data(), padded_bias.data(),
                          (Epilogue)epilogue, output.data()};
    const int blocks = kernels.linear_blocks(rows, n);
    if (adds)
      for (int r = 0; r < rows; r++) std::copy_n(out + (size_t)r * width, width, output.as<float>() + (size_t)r * n);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; i++) kernels.linear(call, 0, blocks);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < width; c++) {
        const size_t from = (size_t)r * n + c;
        float value;
        if (adds || is_float) {
          value = output.as<float>()[from];
        } else {
          const uint32_t bits = (uint32_t)output.as<uint16_t>()[from] << 16;
          std::copy_n(reinterpret_cast<const float*>(&bits), 1, &value);
        }
        out[(size_t)r * width + c] = value;
      }
    return seconds / repeats;
  });
}

}  // extern "C"
