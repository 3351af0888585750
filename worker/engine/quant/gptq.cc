#include "worker/engine/quant/gptq.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "torch/autograd.h"
#include "worker/engine/quant/range.h"

namespace teq::quant {
namespace {

using torch::Tensor;

// Columns whose errors reach the columns after them in one matrix product.
constexpr std::int64_t kBatch = 128;
constexpr double kSmallestRaisedDamping = 1e-4;
constexpr double kLargestDamping = 1;

/// Visiting order, int64 on the host.
struct Order {
  Tensor groups;   // [groups]
  Tensor columns;  // [in]; a group's columns stay together
};

/// `diagonal`: [groups, group_size]. In float64 on the host whatever the weight's type, so that no
/// rounding changes the order.
Order OrderOf(const Tensor& diagonal, bool by_activation) {
  const std::int64_t groups = diagonal.size(0);
  const std::int64_t group_size = diagonal.size(1);
  const Tensor first = (torch::arange(groups) * group_size).unsqueeze(1);
  if (!by_activation) return {torch::arange(groups), torch::arange(groups * group_size)};
  const auto falling = [](const Tensor& values) {
    return std::get<1>(values.sort(/*stable=*/true, /*dim=*/-1, /*descending=*/true));
  };
  const Tensor order = falling(diagonal.mean(1));
  return {order, (falling(diagonal) + first).index_select(0, order).flatten()};
}

/// The upper U with U^T U = H^-1, each row over its diagonal element: what an error in column i
/// costs the columns after it. Undefined where H is not positive definite beyond rounding.
/// `reversed`: H with rows and columns in reverse order, its mean diagonal about 1.
///
/// Reversed, the factorization H = L L^T is H = U^-1 U^-T with U^-1 upper triangular: one
/// factorization and one triangular solve, and the inverse of H is never formed.
Tensor CompensationOf(const Tensor& reversed) {
  const auto [lower, info] = torch::linalg_cholesky_ex(reversed);
  const double epsilon = reversed.scalar_type() == torch::kFloat64
                             ? std::numeric_limits<double>::epsilon()
                             : std::numeric_limits<float>::epsilon();
  // No element exceeds the trace, so smaller pivots may be nothing but rounding.
  const double noise = static_cast<double>(reversed.size(0)) * epsilon;
  const Tensor pivots = lower.diagonal();
  const bool definite = info.item<int>() == 0 && (pivots.square() > noise).all().item<bool>();
  if (!definite) return {};
  const Tensor identity = torch::eye(reversed.size(0), reversed.options());
  const Tensor inverse = torch::linalg_solve_triangular(lower, identity, /*upper=*/false);
  return inverse.mul_(pivots.unsqueeze(1)).flip({0, 1});
}

/// What an error costs later columns, and the damping that it took.
struct Compensation {
  Tensor rows;  // as CompensationOf; undefined where no damping helped
  double damping = 0;
};

/// `columns`: the visiting order, [in]; `diagonal`: H's, float64 on the host.
Compensation DampUntilDefinite(const Tensor& hessian, const Tensor& diagonal, const Tensor& columns,
                               const torch::TensorOptions& options, double damping) {
  // In units of the mean diagonal: a multiple of H changes nothing, and neither does a dead column.
  const double live = static_cast<double>((diagonal != 0).sum().item<std::int64_t>());
  const double mean = live == 0 ? 1 : diagonal.sum().item<double>() / live;
  const Tensor reversal = columns.flip(0);
  const Tensor reversed =
      hessian.index_select(0, reversal).index_select(1, reversal).div_(mean).to(options);
  const Tensor undamped = reversed.diagonal().masked_fill(reversed.diagonal() == 0, 1);
  while (true) {
    reversed.diagonal().copy_(undamped + damping);
    Tensor rows = CompensationOf(reversed);
    if (rows.defined() || damping >= kLargestDamping) return {std::move(rows), damping};
    damping = std::clamp(10 * damping, kSmallestRaisedDamping, kLargestDamping);
  }
}

/// One group's column of clip factors; undefined stays so.
ClipFactors ClipOf(const ClipFactors& clip, std::int64_t group) {
  const auto column = [group](const Tensor& factors) {
    return factors.defined() ? factors.narrow(1, group, 1) : Tensor();
  };
  return {column(clip.low), column(clip.high)};
}

/// A batch is whole groups or a part of one: a range is then always taken where every earlier error
/// has arrived.
std::int64_t BatchEnd(std::int64_t begin, std::int64_t group_size, std::int64_t in) {
  if (group_size <= kBatch) return std::min(begin + kBatch / group_size * group_size, in);
  return std::min(begin + kBatch, (begin / group_size + 1) * group_size);
}

/// `rows`: what an error costs later columns, as CompensationOf.
Quantized RoundInOrder(const Tensor& weight, const Order& order, const Tensor& rows,
                       const LayerGrid& grid, const ClipFactors& clip, bool before_update) {
  const std::int64_t out = weight.size(0);
  const std::int64_t in = weight.size(1);
  const std::int64_t group_size = GroupSize(grid, in);
  const int levels = (1 << grid.bits) - 1;
  const Tensor columns = order.columns.to(weight.device());

  // In visiting order and transposed, so that a column is contiguous.
  const Tensor values = weight.t().index_select(0, columns);
  const Tensor codes = torch::empty(values.sizes(), values.options().dtype(torch::kUInt8));
  const Range range = RangeOf(weight.reshape({out, -1, group_size}), grid, clip);
  Tensor scale;  // of the group that is open, [out]
  Tensor zero;
  for (std::int64_t begin = 0, end = 0; begin < in; begin = end) {
    end = BatchEnd(begin, group_size, in);
    const Tensor errors = torch::empty({end - begin, out}, values.options());
    for (std::int64_t i = begin; i < end; ++i) {
      if (i % group_size == 0) {
        const auto group = order.groups[i / group_size].item<std::int64_t>();
        if (!before_update) {
          const Tensor updated = values.narrow(0, i, group_size).t().unsqueeze(1);
          const Range own = RangeOf(updated, grid, ClipOf(clip, group));
          range.scale.narrow(1, group, 1).copy_(own.scale);
          range.zero.narrow(1, group, 1).copy_(own.zero);
        }
        scale = range.scale.select(1, group).flatten().contiguous();
        zero = range.zero.select(1, group).flatten().contiguous();
      }
      const Tensor value = values[i];
      const Tensor code = torch::round(value / scale).add_(zero).clamp_(0, levels);
      codes[i].copy_(code);
      const Tensor error = errors[i - begin].copy_(value - (code - zero).mul_(scale));
      values.slice(0, i + 1, end).addr_(rows[i].slice(0, i + 1, end), error, 1, -1);
    }
    values.slice(0, end).addmm_(rows.slice(0, begin, end).slice(1, end).t(), errors, 1, -1);
  }
  return {torch::empty_like(codes).index_copy_(0, columns, codes).t().contiguous(),
          range.scale.squeeze(-1).to(torch::kFloat16), range.zero.squeeze(-1).to(torch::kUInt8),
          grid.bits};
}

}  // namespace

GptqResult RoundGptq(const Tensor& weight, const Tensor& hessian, const LayerGrid& grid,
                     const ClipFactors& clip, const GptqSettings& settings) {
  const torch::NoGradGuard no_gradient;
  const std::int64_t in = weight.size(1);
  const Tensor diagonal = hessian.diagonal().to(torch::kCPU, torch::kFloat64);
  const Order order =
      OrderOf(diagonal.view({-1, GroupSize(grid, in)}), settings.order_by_activation);
  auto [rows, damping] = DampUntilDefinite(hessian, diagonal, order.columns.to(weight.device()),
                                           weight.options(), settings.damping);
  const bool compensated = rows.defined();
  if (!compensated) rows = torch::eye(in, weight.options());
  return {RoundInOrder(weight, order, rows, grid, clip, settings.before_update), damping,
          (diagonal == 0).sum().item<std::int64_t>(), compensated};
}

}  // namespace teq::quant
