// Two layers as foreign functions of XLA, one thread each: what benchmarks/foreign_kernel.py times against XLA's own.
//
// linear:    codes [B, K] uint8, weights [N, K] int8        -> int32 [B, N]
// depthwise: codes [B, H, W, C] int8, weights [9, C] int8, 3x3, stride 1, padding 1 -> int8 [B, H, W, C]
//
// Sums of the second are int16, which codes of 4 bits never leave. Both end in the rescale of a program, whose shift is at
// least 1: round((sum * multiplier + bias) / 2^shift) in 64 bits, ties to even, held in [low, high].
#include <algorithm>
#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

struct Rescale {
  std::vector<int64_t> multiplier, bias;  // repeated to the length of what is rescaled at a time
  int64_t shift, low, high;

  Rescale(const ffi::Buffer<ffi::S32> &m, const ffi::Buffer<ffi::S64> &b, int64_t channels, int64_t length,
          int64_t shift, int64_t low, int64_t high)
      : multiplier(length), bias(length), shift(shift), low(low), high(high) {
    for (int64_t i = 0; i < length; ++i) {
      multiplier[i] = m.typed_data()[m.element_count() == 1 ? 0 : i % channels];
      bias[i] = b.typed_data()[b.element_count() == 1 ? 0 : i % channels];
    }
  }

  template <typename Sum, typename Out>
  void operator()(const Sum *__restrict sums, Out *__restrict out) const {
    const int64_t half = int64_t{1} << (shift - 1), mask = 2 * half - 1, by = shift, lowest = low, highest = high;
    const int64_t *__restrict m = multiplier.data(), *__restrict b = bias.data();
    for (size_t c = 0; c < multiplier.size(); ++c) {
      int64_t total = sums[c] * m[c] + b[c] + half, rounded = total >> by;
      rounded -= rounded & ((total & mask) == 0);  // ties to even
      rounded = rounded < lowest ? lowest : rounded;
      out[c] = static_cast<Out>(rounded > highest ? highest : rounded);
    }
  }
};

ffi::Error Linear(ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::S8> weights, ffi::Buffer<ffi::S32> multiplier,
                  ffi::Buffer<ffi::S64> bias, ffi::ResultBuffer<ffi::S32> result, int64_t shift, int64_t low,
                  int64_t high) {
  int64_t rows = codes.dimensions()[0], inner = codes.dimensions()[1], outputs = weights.dimensions()[0];
  Rescale rescale(multiplier, bias, outputs, outputs, shift, low, high);
  std::vector<int32_t> sums(outputs);
  for (int64_t row = 0; row < rows; ++row) {
    const uint8_t *__restrict x = codes.typed_data() + row * inner;
    for (int64_t n = 0; n < outputs; ++n) {
      const int8_t *__restrict w = weights.typed_data() + n * inner;
      int32_t sum = 0;
      for (int64_t k = 0; k < inner; ++k) sum += static_cast<int32_t>(x[k]) * w[k];
      sums[n] = sum;
    }
    rescale(sums.data(), result->typed_data() + row * outputs);
  }
  return ffi::Error::Success();
}

ffi::Error Depthwise(ffi::Buffer<ffi::S8> codes, ffi::Buffer<ffi::S8> weights, ffi::Buffer<ffi::S32> multiplier,
                     ffi::Buffer<ffi::S64> bias, ffi::ResultBuffer<ffi::S8> result, int64_t shift, int64_t low,
                     int64_t high) {
  auto shape = codes.dimensions();
  int64_t batch = shape[0], height = shape[1], width = shape[2], channels = shape[3], line = width * channels;
  Rescale rescale(multiplier, bias, channels, line, shift, low, high);
  std::vector<int16_t> sums(line), taps(9 * line);  // repeated along a line, so that loops are as long as one
  for (int64_t tap = 0; tap < 9; ++tap)
    for (int64_t i = 0; i < line; ++i) taps[tap * line + i] = weights.typed_data()[tap * channels + i % channels];
  for (int64_t row = 0; row < batch * height; ++row) {
    int64_t y = row % height;
    std::fill(sums.begin(), sums.end(), 0);
    for (int64_t dy = -1; dy <= 1; ++dy) {
      if (y + dy < 0 || y + dy >= height) continue;
      for (int64_t dx = -1; dx <= 1; ++dx) {
        int64_t first = std::max<int64_t>(0, -dx * channels), last = line - std::max<int64_t>(0, dx * channels);
        const int8_t *__restrict in = codes.typed_data() + (row + dy) * line + dx * channels;
        const int16_t *__restrict tap = taps.data() + ((dy + 1) * 3 + dx + 1) * line;
        int16_t *__restrict sum = sums.data();
        for (int64_t i = first; i < last; ++i) sum[i] = static_cast<int16_t>(sum[i] + in[i] * tap[i]);
      }
    }
    rescale(sums.data(), result->typed_data() + row * line);
  }
  return ffi::Error::Success();
}

}  // namespace

#define LGLSQ_HANDLER(name, function, in, out)                                                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                                                                    \
                                ffi::Ffi::Bind()                                                                   \
                                    .Arg<ffi::Buffer<in>>()                                                        \
                                    .Arg<ffi::Buffer<ffi::S8>>()                                                   \
                                    .Arg<ffi::Buffer<ffi::S32>>()                                                  \
                                    .Arg<ffi::Buffer<ffi::S64>>()                                                  \
                                    .Ret<ffi::Buffer<out>>()                                                       \
                                    .Attr<int64_t>("shift")                                                        \
                                    .Attr<int64_t>("low")                                                          \
                                    .Attr<int64_t>("high"))

LGLSQ_HANDLER(lglsq_linear, Linear, ffi::U8, ffi::S32);
LGLSQ_HANDLER(lglsq_depthwise, Depthwise, ffi::S8, ffi::S8);
