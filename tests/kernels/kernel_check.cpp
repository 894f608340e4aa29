// Compares the native library with the same computed in double, for every instruction set and type that the machine
// has, on random shapes and lengths: kernel_check [ROUNDS [SEED]]. A program of its own, so that it also runs under the
// sanitizers and under emulators of other machines (`make kernels-check`, `make kernels-arm`).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "embedway_kernels.h"

namespace {

typedef std::vector<float> Floats;
typedef std::vector<double> Doubles;

std::mt19937 generator;
int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
Floats random_floats(size_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

const char* const kTypes[] = {"float32", "bfloat16", "float16"};
// Largest error, relative to the largest value: rounding of the type over a few layers, never a wrong index.
const double kTolerances[] = {2e-5, 6e-2, 1e-2};

struct Layer {
  Floats qkv, qkv_bias, attention, attention_bias, norm1, norm1_bias, up, up_bias, down, down_bias, norm2, norm2_bias;
};

struct Model {
  embedway_encoder_config config{};
  Floats words, positions, types, norm, norm_bias, relative;
  std::vector<Layer> layers;
};

Model random_model(int threads) {
  Model model;
  embedway_encoder_config& c = model.config;
  c.num_heads = between(1, 4);
  c.hidden_size = c.num_heads * between(3, 70);
  c.intermediate_size = between(5, 200);
  c.num_layers = between(1, 3);
  c.activation = between(0, 2);
  c.layer_norm_epsilon = 1e-5f;
  c.first_position = between(0, 2);
  c.vocabulary = 50;
  c.positions = 300;
  c.threads = threads;
  const size_t h = c.hidden_size, i = c.intermediate_size;
  const auto gain = [](size_t n) {
    Floats values = random_floats(n, 0.1f);
    for (float& value : values) value += 1;
    return values;
  };
  model.words = random_floats(c.vocabulary * h, 1), model.positions = random_floats(c.positions * h, 1);
  if (between(0, 1)) model.types = random_floats(h, 1);
  if (between(0, 1)) {
    c.reach = c.positions - 1;
    model.relative = random_floats(c.num_heads * (2 * c.reach + 1), 1);
  }
  model.norm = gain(h), model.norm_bias = random_floats(h, 0.1f);
  for (int l = 0; l < c.num_layers; l++)
    model.layers.push_back({random_floats(3 * h * h, 1 / std::sqrt((float)h)), random_floats(3 * h, 0.1f),
                            random_floats(h * h, 1 / std::sqrt((float)h)), random_floats(h, 0.1f), gain(h),
                            random_floats(h, 0.1f), random_floats(i * h, 1 / std::sqrt((float)h)),
                            random_floats(i, 0.1f), random_floats(h * i, 1 / std::sqrt((float)i)),
                            random_floats(h, 0.1f), gain(h), random_floats(h, 0.1f)});
  c.word_table = model.words.data(), c.position_table = model.positions.data();
  c.token_type = model.types.empty() ? nullptr : model.types.data();
  c.norm_weight = model.norm.data(), c.norm_bias = model.norm_bias.data();
  c.relative_bias = model.relative.empty() ? nullptr : model.relative.data();
  return model;
}

// A LoRA adapter, and what the library reads of it.
struct LowRank {
  Floats down, up;
  int rank = 0;

  embedway_low_rank view() const { return {down.data(), up.data(), rank}; }
};
struct LayerAdapter {
  LowRank query, key, value, attention, up, down;

  embedway_layer_adapter view() const {
    return {query.view(), key.view(), value.view(), attention.view(), up.view(), down.view()};
  }
};
typedef std::vector<LayerAdapter> AdapterWeights;

LowRank random_low_rank(int in_features, int out_features) {
  if (between(0, 2) == 0) return {};
  const int rank = between(1, between(1, 4) == 1 ? 130 : 20);
  return {random_floats((size_t)rank * in_features, 1 / std::sqrt((float)in_features)),
          random_floats((size_t)out_features * rank, 0.5f / std::sqrt((float)rank)), rank};
}

AdapterWeights random_adapter(const embedway_encoder_config& c) {
  AdapterWeights adapter;
  const int h = c.hidden_size, i = c.intermediate_size;
  for (int l = 0; l < c.num_layers; l++)
    adapter.push_back({random_low_rank(h, h), random_low_rank(h, h), random_low_rank(h, h), random_low_rank(h, h),
                       random_low_rank(h, i), random_low_rank(i, h)});
  return adapter;
}

// Adds the product of a change to the rows of a weight from `first_row` on.
void add_change(Floats& weight, int first_row, int in_features, const LowRank& change) {
  const int out_features = change.rank ? (int)change.up.size() / change.rank : 0;
  for (int n = 0; n < out_features; n++)
    for (int k = 0; k < in_features; k++) {
      double sum = 0;
      for (int r = 0; r < change.rank; r++)
        sum += (double)change.up[(size_t)n * change.rank + r] * change.down[(size_t)r * in_features + k];
      weight[(size_t)(first_row + n) * in_features + k] += (float)sum;
    }
}

std::vector<Layer> changed_layers(const Model& model, const AdapterWeights& adapter) {
  const int h = model.config.hidden_size, i = model.config.intermediate_size;
  std::vector<Layer> layers = model.layers;
  for (size_t l = 0; l < layers.size(); l++) {
    add_change(layers[l].qkv, 0, h, adapter[l].query);
    add_change(layers[l].qkv, h, h, adapter[l].key);
    add_change(layers[l].qkv, 2 * h, h, adapter[l].value);
    add_change(layers[l].attention, 0, h, adapter[l].attention);
    add_change(layers[l].up, 0, h, adapter[l].up);
    add_change(layers[l].down, 0, i, adapter[l].down);
  }
  return layers;
}

// ── the reference ──

Doubles linear(const Doubles& x, const Floats& weight, const Floats& bias) {
  const size_t width = bias.size(), depth = weight.size() / width, rows = x.size() / depth;
  Doubles out(rows * width);
  for (size_t r = 0; r < rows; r++)
    for (size_t n = 0; n < width; n++) {
      double sum = bias[n];
      for (size_t k = 0; k < depth; k++) sum += x[r * depth + k] * weight[n * depth + k];
      out[r * width + n] = sum;
    }
  return out;
}

void norm(Doubles& x, const Floats& weight, const Floats& bias, double epsilon) {
  const size_t size = weight.size();
  for (size_t r = 0; r < x.size() / size; r++) {
    double* const row = &x[r * size];
    double mean = 0, variance = 0;
    for (size_t i = 0; i < size; i++) mean += row[i] / size;
    for (size_t i = 0; i < size; i++) variance += (row[i] - mean) * (row[i] - mean) / size;
    for (size_t i = 0; i < size; i++) row[i] = (row[i] - mean) / std::sqrt(variance + epsilon) * weight[i] + bias[i];
  }
}

double activate(double x, int activation) {
  if (activation == 0) return x / 2 * (1 + std::erf(x / std::sqrt(2)));
  if (activation == 1) return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  return std::max(x, 0.0);
}

// Adds each head's attention of one sequence's [length, 3 · hidden] to a [length, hidden].
Doubles attention(const Doubles& qkv, const embedway_encoder_config& c, int length) {
  const int hidden = c.hidden_size, size = hidden / c.num_heads;
  Doubles out((size_t)length * hidden);
  for (int head = 0; head < c.num_heads; head++)
    for (int i = 0; i < length; i++) {
      Doubles scores(length);
      double top = -1e300, total = 0;
      for (int j = 0; j < length; j++) {
        double dot = 0;
        for (int d = 0; d < size; d++)
          dot += qkv[(size_t)i * 3 * hidden + head * size + d] * qkv[(size_t)j * 3 * hidden + hidden + head * size + d];
        scores[j] = dot / std::sqrt((double)size);
        if (c.relative_bias) scores[j] += c.relative_bias[head * (2 * c.reach + 1) + j - i + c.reach];
        top = std::max(top, scores[j]);
      }
      for (double& score : scores) total += score = std::exp(score - top);
      for (int j = 0; j < length; j++)
        for (int d = 0; d < size; d++)
          out[(size_t)i * hidden + head * size + d] +=
              scores[j] / total * qkv[(size_t)j * 3 * hidden + 2 * hidden + head * size + d];
    }
  return out;
}

Doubles encode(const Model& model, const std::vector<Layer>& layers, const int32_t* ids, int length) {
  const embedway_encoder_config& c = model.config;
  const size_t h = c.hidden_size;
  Doubles x(length * h);
  for (int t = 0; t < length; t++)
    for (size_t i = 0; i < h; i++)
      x[t * h + i] = (double)model.words[ids[t] * h + i] + model.positions[(t + c.first_position) * h + i] +
                     (model.types.empty() ? 0 : model.types[i]);
  norm(x, model.norm, model.norm_bias, c.layer_norm_epsilon);
  for (const Layer& layer : layers) {
    const auto add = [&x](const Doubles& y) {
      for (size_t i = 0; i < x.size(); i++) x[i] += y[i];
    };
    add(linear(attention(linear(x, layer.qkv, layer.qkv_bias), c, length), layer.attention, layer.attention_bias));
    norm(x, layer.norm1, layer.norm1_bias, c.layer_norm_epsilon);
    Doubles up = linear(x, layer.up, layer.up_bias);
    for (double& value : up) value = activate(value, c.activation);
    add(linear(up, layer.down, layer.down_bias));
    norm(x, layer.norm2, layer.norm2_bias, c.layer_norm_epsilon);
  }
  return x;
}

// ── the checks ──

int failures = 0;

void compare(const std::string& what, const float* got, const Doubles& wanted, double tolerance) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < wanted.size(); i++) {
    worst = std::isfinite(got[i]) ? std::max(worst, std::fabs(got[i] - wanted[i])) : 1e300;
    largest = std::max(largest, std::fabs(wanted[i]));
  }
  if (worst <= tolerance * std::max(1.0, largest)) return;
  std::printf("%s: worst error %g of %g\n", what.c_str(), worst, largest);
  failures++;
}

// What runs in the midst of a batch, as often as `times` says.
struct Other {
  void* encoder;
  const embedway_batch* batch;
  Floats out;
  int times;
  int64_t at;
} other;

void run_other() {
  char error[EMBEDWAY_ERROR_BYTES] = "";
  if (--other.times == 0) other.at = INT64_MAX;
  failures += embedway_encoder_run(other.encoder, other.batch, other.out.data(), &other.at, run_other, error) != 0;
}

void check_encoder(const char* instruction_set, int type) {
  const Model model = random_model(between(1, 3));
  const embedway_encoder_config& c = model.config;
  char error[EMBEDWAY_ERROR_BYTES] = "";
  void* const encoder = embedway_encoder_new(&c, instruction_set, type, error);
  if (!encoder) {
    std::printf("%s: %s\n", instruction_set, error);
    failures++;
    return;
  }
  for (int l = 0; l < c.num_layers; l++) {
    const Layer& y = model.layers[l];
    const embedway_layer layer = {y.qkv.data(),   y.qkv_bias.data(),   y.attention.data(), y.attention_bias.data(),
                                  y.norm1.data(), y.norm1_bias.data(), y.up.data(),        y.up_bias.data(),
                                  y.down.data(),  y.down_bias.data(),  y.norm2.data(),     y.norm2_bias.data()};
    failures += embedway_encoder_set_layer(encoder, l, &layer, error) != 0;
  }
  std::vector<std::vector<Layer>> layers;  // by adapter, and the base model's behind them
  std::vector<const void*> adapters;
  for (int a = between(0, 3); a > 0; a--) {
    const AdapterWeights weights = random_adapter(c);
    std::vector<embedway_layer_adapter> views;
    for (const LayerAdapter& layer : weights) views.push_back(layer.view());
    adapters.push_back(embedway_adapter_new(encoder, views.data(), error));
    layers.push_back(changed_layers(model, weights));
    failures += !adapters.back();
  }
  layers.push_back(model.layers);
  const int num_adapters = (int)adapters.size();
  for (int round = 0; round < 3; round++) {
    std::vector<int32_t> ends{0}, ids, chosen;
    const int sequences = between(1, 6), longest = between(1, 3) == 1 ? 150 : 20;
    for (int s = 0; s < sequences; s++) ends.push_back(ends.back() + between(1, longest));
    for (int t = 0; t < ends.back(); t++) ids.push_back(between(0, c.vocabulary - 1));
    for (int s = 0; s < sequences; s++) chosen.push_back(between(-1, num_adapters - 1));
    Floats got((size_t)ends.back() * c.hidden_size);
    const embedway_batch batch{ids.data(),          ends.data(),  nullptr,         sequences,
                               EMBEDWAY_ALL_TOKENS, num_adapters, adapters.data(), chosen.data()};
    failures += embedway_encoder_run(encoder, &batch, got.data(), nullptr, nullptr, error) != 0;
    Floats again(got.size());
    other = {encoder, &batch, Floats(got.size()), 2, 0};
    failures += embedway_encoder_run(encoder, &batch, again.data(), &other.at, run_other, error) != 0;
    if (other.times != 0 || again != got || other.out != got) {
      std::printf("%s %s: another batch in its midst changed one\n", instruction_set, kTypes[type]);
      failures++;
    }
    for (int s = 0; s < sequences; s++) {
      const int length = ends[s + 1] - ends[s];
      const std::string what = std::string(instruction_set) + " " + kTypes[type] + " encoder, hidden " +
                               std::to_string(c.hidden_size) + ", length " + std::to_string(length) + ", adapter " +
                               std::to_string(chosen[s]);
      const std::vector<Layer>& own = layers[chosen[s] < 0 ? num_adapters : chosen[s]];
      compare(what, &got[(size_t)ends[s] * c.hidden_size], encode(model, own, &ids[ends[s]], length),
              kTolerances[type]);
    }
  }
  // ids, lengths and adapters that do not exist are refused, not read
  const int32_t ends[] = {0, 2}, ids[] = {0, c.vocabulary}, long_ends[] = {0, c.positions + 1}, one_end[] = {0, 1};
  Floats out((size_t)2 * c.hidden_size);
  const embedway_batch outside{ids, ends, nullptr, 1, EMBEDWAY_MEAN, 0, nullptr, nullptr},
      too_long{ids, long_ends, nullptr, 1, EMBEDWAY_MEAN, 0, nullptr, nullptr},
      no_adapter{ids, one_end, nullptr, 1, EMBEDWAY_MEAN, num_adapters, adapters.data(), &num_adapters};
  if (!embedway_encoder_run(encoder, &outside, out.data(), nullptr, nullptr, error) ||
      !embedway_encoder_run(encoder, &too_long, out.data(), nullptr, nullptr, error) ||
      (num_adapters && !embedway_encoder_run(encoder, &no_adapter, out.data(), nullptr, nullptr, error))) {
    std::printf("%s: a wrong batch was accepted\n", instruction_set);
    failures++;
  }
  for (const void* adapter : adapters) embedway_adapter_free((void*)adapter);
  embedway_encoder_free(encoder);
}

uint16_t bf16_of(float x) {
  uint32_t bits;
  std::copy_n((const char*)&x, 4, (char*)&bits);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float float_of(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  std::copy_n((const char*)&bits, 4, (char*)&value);
  return value;
}

void check_attention(const char* instruction_set, int type) {
  embedway_attention_call call{};
  call.num_kv_heads = between(1, 3);
  call.num_heads = call.num_kv_heads * between(1, 3);
  call.key_size = between(1, 140), call.value_size = between(1, 140);
  call.type = type;
  call.scale = 1 / std::sqrt((float)call.key_size);
  call.causal = between(0, 1);
  call.window = between(0, 1) ? between(1, 60) : 0;
  std::vector<int32_t> ends{0};
  call.num_sequences = between(1, 3);
  for (int s = 0; s < call.num_sequences; s++) ends.push_back(ends.back() + between(1, between(1, 3) == 1 ? 200 : 30));
  call.cu_seqlens = ends.data();
  const int total = ends.back();
  call.query_row = call.num_heads * call.key_size, call.key_row = call.num_kv_heads * call.key_size;
  call.value_row = call.num_kv_heads * call.value_size, call.out_row = call.num_heads * call.value_size;
  call.query_head = call.key_head = call.key_size, call.value_head = call.out_head = call.value_size;
  Floats q = random_floats(total * call.query_row, 1), k = random_floats(total * call.key_row, 1),
         v = random_floats(total * call.value_row, 1), bias = random_floats((size_t)call.num_heads * 200 * 200, 1);
  std::vector<std::vector<uint16_t>> halves;
  const auto given = [&](Floats& values) -> const void* {
    if (type == 0) return values.data();
    halves.emplace_back();
    for (float& value : values) {
      halves.back().push_back(bf16_of(value));
      value = float_of(halves.back().back());
    }
    return halves.back().data();
  };
  call.query = given(q), call.key = given(k), call.value = given(v);
  if (between(0, 1)) call.bias = bias.data(), call.bias_row = 200, call.bias_head = 200 * 200;
  Floats out(total * call.out_row);
  std::vector<uint16_t> half_out(out.size());
  call.out = type == 0 ? (void*)out.data() : (void*)half_out.data();
  char error[EMBEDWAY_ERROR_BYTES];
  failures += embedway_attention(&call, instruction_set, 1, nullptr, error) != 0;
  if (type == 1) std::transform(half_out.begin(), half_out.end(), out.begin(), float_of);
  Doubles wanted(out.size());
  for (int s = 0; s < call.num_sequences; s++)
    for (int h = 0; h < call.num_heads; h++)
      for (int i = ends[s]; i < ends[s + 1]; i++) {
        const int kv = h / (call.num_heads / call.num_kv_heads), length = ends[s + 1] - ends[s], at = i - ends[s];
        Doubles scores(length, -1e300);
        double top = -1e300, sum = 0;
        for (int j = 0; j < length; j++) {
          if ((call.causal && j > at) || (call.window && std::abs(at - j) >= call.window)) continue;
          double dot = 0;
          for (int d = 0; d < call.key_size; d++)
            dot += (double)q[i * call.query_row + h * call.key_size + d] *
                   k[(ends[s] + j) * call.key_row + kv * call.key_size + d];
          scores[j] = dot * call.scale + (call.bias ? bias[(size_t)h * 200 * 200 + at * 200 + j] : 0);
          top = std::max(top, scores[j]);
        }
        for (double& score : scores) sum += score = score == -1e300 ? 0 : std::exp(score - top);
        for (int j = 0; j < length; j++)
          for (int d = 0; d < call.value_size; d++)
            wanted[i * call.out_row + h * call.value_size + d] +=
                scores[j] / sum * v[(ends[s] + j) * call.value_row + kv * call.value_size + d];
      }
  compare(std::string(instruction_set) + " " + kTypes[type] + " attention, heads of " + std::to_string(call.key_size) +
              " and " + std::to_string(call.value_size),
          out.data(), wanted, type == 0 ? 1e-5 : 2e-2);
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  generator.seed(argc > 2 ? std::atoi(argv[2]) : 1);
  for (int i = 0; const char* name = embedway_instruction_set(i); i++) {
    for (int round = 0; round < rounds; round++)
      for (int type = 0; type < 3; type++) {
        if (!embedway_offers(name, type)) continue;
        check_encoder(name, type);
        if (type < 2) check_attention(name, type);
      }
    std::printf("%s: %d failures so far\n", name, failures);
  }
  return failures != 0;
}
