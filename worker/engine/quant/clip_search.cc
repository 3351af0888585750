#include "worker/engine/quant/clip_search.h"

#include <vector>

#include "worker/engine/quant/fake_quantize.h"

namespace teq::quant {
namespace {

using torch::Tensor;

constexpr int kSteps = 10;
constexpr double kStep = 0.05;

/// A Gram matrix's diagonal blocks, [groups, size, size].
Tensor DiagonalBlocks(const Tensor& gram, std::int64_t size) {
  std::vector<Tensor> blocks;
  for (std::int64_t start = 0; start < gram.size(0); start += size) {
    blocks.push_back(gram.slice(0, start, start + size).slice(1, start, start + size));
  }
  return torch::stack(blocks);
}

class Search {
 public:
  Search(const Tensor& weight, const Tensor& gram, const LayerGrid& grid)
      : weight_(weight), grid_(grid), size_(GroupSize(grid, weight.size(1))) {
    blocks_ = DiagonalBlocks(gram, size_);
    const Tensor ones = torch::ones({weight.size(0), weight.size(1) / size_}, weight.options());
    best_ = {ones, ones.clone()};
    best_error_ = Error(best_);
  }

  /// Takes a candidate wherever it is better than what was best.
  void Offer(const ClipFactors& candidate) {
    const Tensor error = Error(candidate);
    const Tensor better = error < best_error_;
    best_error_ = torch::where(better, error, best_error_);
    best_ = {torch::where(better, candidate.low, best_.low),
             torch::where(better, candidate.high, best_.high)};
  }

  [[nodiscard]] const ClipFactors& best() const { return best_; }

 private:
  /// Of every group, [out, groups].
  [[nodiscard]] Tensor Error(const ClipFactors& clip) const {
    const Tensor rounded = FakeQuantize(weight_, {}, {}, {clip, {}}, grid_, teq::v1::GRADIENT_FULL);
    const Tensor off = (rounded - weight_).view({weight_.size(0), -1, size_}).transpose(0, 1);
    return (torch::bmm(off, blocks_) * off).sum(-1).t().contiguous();
  }

  const Tensor& weight_;
  const LayerGrid& grid_;
  std::int64_t size_;
  Tensor blocks_;
  ClipFactors best_;
  Tensor best_error_;
};

}  // namespace

ClipFactors SearchClipping(const Tensor& weight, const Tensor& gram, const LayerGrid& grid) {
  const torch::NoGradGuard no_gradient;
  Search search(weight, gram, grid);
  const auto factor = [&](int step) {
    return torch::full_like(search.best().low, 1 - kStep * step);
  };
  for (int i = 1; i <= kSteps; ++i) search.Offer({factor(i), factor(i)});
  for (int i = 0; i <= kSteps; ++i) search.Offer({factor(i), search.best().high});
  for (int i = 0; i <= kSteps; ++i) search.Offer({search.best().low, factor(i)});
  return search.best();
}

}  // namespace teq::quant
