// Compares the engine with a golden.json that another program recorded beside a checkpoint: token
// ids must be equal, and logits within 1e-3 in float32. Prints one line a model; exit status 1
// where any differs.
#include <cmath>
#include <cstdio>
#include <fstream>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/text/tokenizer.h"

namespace teq {
namespace {

constexpr double kTolerance = 1e-3;

absl::StatusOr<bool> IdsAreEqual(const std::string& directory, const nlohmann::json& golden) {
  TEQ_ASSIGN_OR_RETURN(const auto tokenizer, text::OpenTokenizer(directory));
  TEQ_ASSIGN_OR_RETURN(const auto ids, tokenizer->Encode(golden.at("text").get<std::string>()));
  std::vector<std::int32_t> all = tokenizer->prefix();
  all.insert(all.end(), ids.begin(), ids.end());
  return all == golden.at("input_ids").get<std::vector<std::int32_t>>();
}

absl::StatusOr<double> LargestDifference(const std::string& directory,
                                         const nlohmann::json& golden) {
  TEQ_ASSIGN_OR_RETURN(const model::Decoder decoder, model::ReadDecoder(directory, torch::kCPU));
  const torch::NoGradGuard no_gradient;
  const auto ids = golden.at("input_ids").get<std::vector<std::int64_t>>();
  TEQ_ASSIGN_OR_RETURN(const torch::Tensor batch,
                       model::Logits(decoder, torch::tensor(ids, torch::kInt64).unsqueeze(0)));
  const torch::Tensor logits = batch[0];
  if (golden.at("logits").empty()) return absl::InvalidArgumentError("golden.json has no logits");
  double largest = 0;
  for (const auto& row : golden.at("logits")) {
    const torch::Tensor expected = torch::tensor(row.at("values").get<std::vector<float>>());
    const torch::Tensor actual = logits[row.at("position").get<std::int64_t>()];
    const auto most = (actual - expected).abs().max().item<double>();
    // std::max would drop a NaN.
    if (most > largest || std::isnan(most)) largest = most;
  }
  return largest;
}

bool Check(const std::string& directory) {
  const auto golden = nlohmann::json::parse(std::ifstream(directory + "/golden.json"));
  const auto ids = IdsAreEqual(directory, golden);
  const auto difference = LargestDifference(directory, golden);
  for (const absl::Status& status : {ids.status(), difference.status()}) {
    if (!status.ok()) {
      fmt::print("{}: {}\n", directory, std::string(status.message()));
      return false;
    }
  }
  fmt::print("{}: token ids {}, logits differ by at most {:.2e} (limit {:.0e})\n", directory,
             *ids ? "equal" : "DIFFER", *difference, kTolerance);
  return *ids && *difference < kTolerance;
}

}  // namespace
}  // namespace teq

int main(int argc, char** argv) {
  bool good = argc > 1;
  if (!good) fmt::print("usage: {} CHECKPOINT_DIRECTORY...\n", argv[0]);
  for (int i = 1; i < argc; ++i) good = teq::Check(argv[i]) && good;
  return good ? 0 : 1;
}
