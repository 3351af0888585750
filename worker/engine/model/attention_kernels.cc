#include "worker/engine/model/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/engine/model/multiversion.h"
#include "worker/engine/model/vector_exp.h"

namespace teq::model::cpu {
namespace {

#define TEQ_INLINE inline __attribute__((always_inline))

// Widths of all matrices are padded to whole vectors of the widest instruction set.
constexpr std::int64_t kLanes = 16;
using Vector = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
// Queries of a block: a multiple of the product's rows.
constexpr std::int64_t kBlock = 48;

constexpr std::int64_t Padded(std::int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

/// A matrix whose rows may have any distance, and its entries too.
struct Left {
  const float* data;
  std::int64_t row_step;
  std::int64_t step;
};

/// Rows of padded width.
struct Matrix {
  float* data;
  std::int64_t stride;

  [[nodiscard]] float* Row(std::int64_t row) const { return data + row * stride; }
  [[nodiscard]] Left Plain() const { return {data, stride, 1}; }
  [[nodiscard]] Left Transposed() const { return {data, 1, stride}; }
};

enum class Store { kReplace, kAdd };

/// kRows rows and one vector of columns of left * right. Six rows leave AVX2's and AVX-512's
/// registers room for what is multiplied.
template <int kRows>
TEQ_INLINE void MultiplyTile(const Left& left, std::int64_t row, const Matrix& right,
                             std::int64_t column, std::int64_t inner, const Matrix& result,
                             Store store) {
  Vector sums[kRows] = {};
  const float* a = left.data + row * left.row_step;
  const float* b = right.data + column;
  for (std::int64_t k = 0; k < inner; ++k) {
    const Vector factor = *reinterpret_cast<const Vector*>(b + k * right.stride);
    for (int r = 0; r < kRows; ++r) sums[r] += a[r * left.row_step + k * left.step] * factor;
  }
  for (int r = 0; r < kRows; ++r) {
    auto* target = reinterpret_cast<Vector*>(result.Row(row + r) + column);
    *target = store == Store::kAdd ? *target + sums[r] : sums[r];
  }
}

/// result [rows, columns] = or += left [rows, inner] * right [inner, columns]; columns padded.
TEQ_INLINE void Multiply(const Left& left, const Matrix& right, std::int64_t rows,
                         std::int64_t inner, std::int64_t columns, const Matrix& result,
                         Store store) {
  for (std::int64_t column = 0; column < columns; column += kLanes) {
    std::int64_t row = 0;
    for (; row + 6 <= rows; row += 6) {
      MultiplyTile<6>(left, row, right, column, inner, result, store);
    }
    for (; row + 2 <= rows; row += 2) {
      MultiplyTile<2>(left, row, right, column, inner, result, store);
    }
    for (; row < rows; ++row) MultiplyTile<1>(left, row, right, column, inner, result, store);
  }
}

/// Turns one head's row by its position; direction -1 turns it back.
TEQ_INLINE void Turn(const AttentionProblem& problem, std::int64_t position, float direction,
                     float* row) {
  const std::int64_t half = problem.rotary_dimensions / 2;
  const float* cosine = problem.cosine + position * half;
  const float* sine = problem.sine + position * half;
  const std::int64_t step = problem.interleaved ? 2 : 1;
  const std::int64_t other = problem.interleaved ? 1 : half;
  for (std::int64_t i = 0; i < half; ++i) {
    float& a = row[i * step];
    float& b = row[i * step + other];
    const float first = a * cosine[i] - direction * b * sine[i];
    b = b * cosine[i] + direction * a * sine[i];
    a = first;
  }
}

TEQ_INLINE void CopyRows(const AttentionProblem& problem, const HeadRows& source,
                         std::int64_t begin, std::int64_t end, const Matrix& target) {
  for (std::int64_t i = begin; i < end; ++i) {
    std::copy_n(source.data + i * source.stride, problem.size, target.Row(i - begin));
  }
}

TEQ_INLINE void CopyTurnedRows(const AttentionProblem& problem, const HeadRows& source,
                               std::int64_t begin, std::int64_t end, const Matrix& target) {
  CopyRows(problem, source, begin, end, target);
  for (std::int64_t i = begin; i < end; ++i) Turn(problem, i, 1, target.Row(i - begin));
}

TEQ_INLINE void WriteRows(const AttentionProblem& problem, const Matrix& source, std::int64_t begin,
                          std::int64_t end, const HeadRows& target) {
  for (std::int64_t i = begin; i < end; ++i) {
    std::copy_n(source.Row(i - begin), problem.size, target.data + i * target.stride);
  }
}

TEQ_INLINE void Transpose(const Matrix& source, std::int64_t rows, std::int64_t columns,
                          const Matrix& target) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) target.Row(j)[i] = source.Row(i)[j];
  }
}

/// Zeroed matrices, whose padding stays zero.
class Scratch {
 public:
  Matrix Make(std::int64_t rows, std::int64_t columns) {
    const std::int64_t stride = Padded(columns);
    buffers_.emplace_back(static_cast<std::size_t>(rows * stride));
    return {buffers_.back().data(), stride};
  }

 private:
  std::vector<std::vector<float>> buffers_;
};

/// Queries [begin, end), and the keys [first, end) that any of them sees; `first` begins a vector.
struct Block {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t first;

  [[nodiscard]] std::int64_t queries() const { return end - begin; }
  [[nodiscard]] std::int64_t keys() const { return end - first; }
};

TEQ_INLINE std::int64_t FirstSeen(const AttentionProblem& problem, std::int64_t position) {
  return problem.window > 0 ? std::max<std::int64_t>(0, position - problem.window + 1) : 0;
}

TEQ_INLINE Block BlockAt(const AttentionProblem& problem, std::int64_t begin) {
  return {begin, std::min(begin + kBlock, problem.length),
          FirstSeen(problem, begin) / kLanes * kLanes};
}

/// Matrix columns from `first` on.
Matrix From(const Matrix& matrix, std::int64_t first) {
  return {matrix.data + first, matrix.stride};
}

/// The scores of one query over the keys that it sees, scaled and biased.
TEQ_INLINE void Scale(const AttentionProblem& problem, const float* bias, float* scores,
                      std::int64_t size) {
  if (bias == nullptr) {
    for (std::int64_t j = 0; j < size; ++j) scores[j] *= problem.scale;
  } else {
    for (std::int64_t j = 0; j < size; ++j) scores[j] = scores[j] * problem.scale + bias[j];
  }
}

/// Scores become weights exp(score - log_sum), of which those that a query does not see are 0.
/// Forward finds `log_sum`.
template <bool kFindSum>
TEQ_INLINE void Weights(const AttentionProblem& problem, const AttentionHead& head,
                        const Block& block, const Matrix& scores) {
  for (std::int64_t i = block.begin; i < block.end; ++i) {
    const std::int64_t seen = FirstSeen(problem, i);
    float* row = scores.Row(i - block.begin);
    float* s = row + (seen - block.first);
    const std::int64_t size = i + 1 - seen;
    Scale(problem, head.key_bias != nullptr ? head.key_bias + seen : nullptr, s, size);
    float shift = kFindSum ? -std::numeric_limits<float>::infinity() : head.log_sum[i];
    if (kFindSum) {
#pragma omp simd reduction(max : shift)
      for (std::int64_t j = 0; j < size; ++j) shift = s[j] > shift ? s[j] : shift;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < size; ++j) {
      // Rounding may put a score above the logarithm of its own sum.
      const float difference = s[j] - shift;
      s[j] = ExpOfNegative(difference > 0 ? 0 : difference);
      sum += s[j];
    }
    if (kFindSum) {
      head.log_sum[i] = shift + std::log(sum);
      const float factor = 1 / sum;
      for (std::int64_t j = 0; j < size; ++j) s[j] *= factor;
    }
    std::fill(row, s, 0.0F);
    std::fill(s + size, row + Padded(block.keys()), 0.0F);
  }
}

/// dL/dweights becomes dL/dscores, before scaling.
TEQ_INLINE void ScoreGradient(const AttentionProblem& problem, const Block& block,
                              const Matrix& weights, const Matrix& gradient) {
  const std::int64_t size = Padded(block.keys());
  for (std::int64_t i = 0; i < block.queries(); ++i) {
    const float* p = weights.Row(i);
    float* g = gradient.Row(i);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < size; ++j) sum += p[j] * g[j];
    for (std::int64_t j = 0; j < size; ++j) g[j] = p[j] * (g[j] - sum) * problem.scale;
  }
}

}  // namespace

TEQ_MULTIVERSION
void Attend(const AttentionProblem& problem, const HeadRows& key, const HeadRows& value,
            const std::vector<AttentionHead>& heads) {
  Scratch scratch;
  const std::int64_t width = Padded(problem.size);
  const Matrix keys = scratch.Make(problem.length, problem.size);
  const Matrix transposed_keys = scratch.Make(problem.size, problem.length);
  const Matrix values = scratch.Make(problem.length, problem.size);
  const Matrix queries = scratch.Make(kBlock, problem.size);
  const Matrix scores = scratch.Make(kBlock, problem.length);
  const Matrix mixed = scratch.Make(kBlock, problem.size);
  CopyTurnedRows(problem, key, 0, problem.length, keys);
  Transpose(keys, problem.length, problem.size, transposed_keys);
  CopyRows(problem, value, 0, problem.length, values);
  for (const AttentionHead& head : heads) {
    for (std::int64_t begin = 0; begin < problem.length; begin += kBlock) {
      const Block block = BlockAt(problem, begin);
      CopyTurnedRows(problem, head.query, block.begin, block.end, queries);
      Multiply(queries.Plain(), From(transposed_keys, block.first), block.queries(), problem.size,
               Padded(block.keys()), scores, Store::kReplace);
      Weights<true>(problem, head, block, scores);
      Multiply(scores.Plain(), {values.Row(block.first), values.stride}, block.queries(),
               block.keys(), width, mixed, Store::kReplace);
      WriteRows(problem, mixed, block.begin, block.end, head.output);
    }
  }
}

TEQ_MULTIVERSION
void AttendGradient(const AttentionProblem& problem, const HeadRows& key, const HeadRows& value,
                    const std::vector<AttentionHead>& heads, const HeadRows& key_gradient,
                    const HeadRows& value_gradient) {
  Scratch scratch;
  const std::int64_t width = Padded(problem.size);
  const Matrix keys = scratch.Make(problem.length, problem.size);
  const Matrix transposed_keys = scratch.Make(problem.size, problem.length);
  const Matrix values = scratch.Make(problem.length, problem.size);
  const Matrix transposed_values = scratch.Make(problem.size, problem.length);
  const Matrix to_keys = scratch.Make(problem.length, problem.size);
  const Matrix to_values = scratch.Make(problem.length, problem.size);
  const Matrix queries = scratch.Make(kBlock, problem.size);
  const Matrix upstream = scratch.Make(kBlock, problem.size);
  const Matrix to_queries = scratch.Make(kBlock, problem.size);
  const Matrix weights = scratch.Make(kBlock, problem.length);
  const Matrix to_scores = scratch.Make(kBlock, problem.length);
  CopyTurnedRows(problem, key, 0, problem.length, keys);
  Transpose(keys, problem.length, problem.size, transposed_keys);
  CopyRows(problem, value, 0, problem.length, values);
  Transpose(values, problem.length, problem.size, transposed_values);
  for (const AttentionHead& head : heads) {
    for (std::int64_t begin = 0; begin < problem.length; begin += kBlock) {
      const Block block = BlockAt(problem, begin);
      const std::int64_t columns = Padded(block.keys());
      CopyTurnedRows(problem, head.query, block.begin, block.end, queries);
      CopyRows(problem, head.output, block.begin, block.end, upstream);
      Multiply(queries.Plain(), From(transposed_keys, block.first), block.queries(), problem.size,
               columns, weights, Store::kReplace);
      Weights<false>(problem, head, block, weights);
      Multiply(upstream.Plain(), From(transposed_values, block.first), block.queries(),
               problem.size, columns, to_scores, Store::kReplace);
      Multiply(weights.Transposed(), upstream, block.keys(), block.queries(), width,
               {to_values.Row(block.first), to_values.stride}, Store::kAdd);
      ScoreGradient(problem, block, weights, to_scores);
      Multiply(to_scores.Transposed(), queries, block.keys(), block.queries(), width,
               {to_keys.Row(block.first), to_keys.stride}, Store::kAdd);
      Multiply(to_scores.Plain(), {keys.Row(block.first), keys.stride}, block.queries(),
               block.keys(), width, to_queries, Store::kReplace);
      for (std::int64_t i = block.begin; i < block.end; ++i) {
        Turn(problem, i, -1, to_queries.Row(i - block.begin));
      }
      WriteRows(problem, to_queries, block.begin, block.end, head.query_gradient);
    }
  }
  for (std::int64_t i = 0; i < problem.length; ++i) Turn(problem, i, -1, to_keys.Row(i));
  WriteRows(problem, to_keys, 0, problem.length, key_gradient);
  WriteRows(problem, to_values, 0, problem.length, value_gradient);
}

}  // namespace teq::model::cpu
