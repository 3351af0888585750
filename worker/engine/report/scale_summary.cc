#include "worker/engine/report/scale_summary.h"

#include <cmath>

namespace teq::report {
namespace {

constexpr int kBins = 16;
constexpr double kLowestLog2 = -4;
constexpr double kBinWidth = 0.5;

const std::string& ProducerName(const transform::ScaleGroup& group, const model::Block& block) {
  return group.norm ? block.at(*group.norm).name : block.linears[group.linear].layer.name;
}

}  // namespace

teq::v1::ScaleGroupReport SummarizeScales(const transform::ScaleGroup& group,
                                          const model::Block& block,
                                          const torch::Tensor& log_scale) {
  teq::v1::ScaleGroupReport summary;
  summary.set_producer(ProducerName(group, block));
  for (const std::size_t consumer : group.consumers) {
    summary.add_consumers(block.linears[consumer].layer.name);
  }
  const torch::Tensor logs = log_scale.detach().to(torch::kCPU, torch::kFloat64);
  summary.set_min(std::exp(logs.min().item<double>()));
  summary.set_median(std::exp(logs.median().item<double>()));
  summary.set_max(std::exp(logs.max().item<double>()));
  const torch::Tensor bins = ((logs / std::log(2.0) - kLowestLog2) / kBinWidth)
                                 .floor()
                                 .clamp(0, kBins - 1)
                                 .to(torch::kInt64);
  const torch::Tensor counts = torch::bincount(bins, {}, kBins);
  for (int bin = 0; bin < kBins; ++bin) summary.add_histogram(counts[bin].item<std::int64_t>());
  return summary;
}

}  // namespace teq::report
